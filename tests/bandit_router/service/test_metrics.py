"""/metrics: what is counted, by bounded labels, over all workers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bandit_router import EventLog, Model, Router
from bandit_router.config import Config
from bandit_router.log.joining import join_counts
from bandit_router.service.app import create_app
from bandit_router.service.metrics import FOLDER, Meter, Metered

MODELS = (Model("a"), Model("b"))


@asynccontextmanager
async def client(log: str) -> AsyncIterator[httpx.AsyncClient]:
    """The service in this process."""
    app = create_app(Config(log=log, models=MODELS), loopback=True)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as inside,
    ):
        yield inside


def samples(told: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in told.splitlines() if line[:1] not in ("#", "")]
    return {name: float(value) for name, _, value in lines}


async def scrape(inside: httpx.AsyncClient) -> dict[str, float]:
    answer = await inside.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


async def play(inside: httpx.AsyncClient) -> None:
    """Two decisions, one of them twice; an outcome twice; words of all kinds."""
    key = {"idempotency-key": "k"}
    for _ in range(2):
        chosen = await inside.post("/v1/decisions", json={"prompt": "x"}, headers=key)
    await inside.post("/v1/decisions", json={"prompt": "y"})
    decision = chosen.json()["id"]
    for _ in range(2):
        await inside.post("/v1/outcomes", json={"decision_id": decision, "output_tokens": 3})
    for name, value in (("thumb", True), ("thumb", True), ("thumb", "?"), ("mood", 1.0)):
        word = {"decision_id": decision, "name": name, "value": value}
        await inside.post("/v1/feedback", json=word)
    word = {"decision_id": "nobody", "name": "thumb", "value": True}
    await inside.post("/v1/feedback/batch", json={"items": [word]})


def test_what_happens_is_counted(url: str) -> None:
    async def probe() -> None:
        async with client(url) as inside:
            await play(inside)
            told = await scrape(inside)
        decided = {name: n for name, n in told.items() if "_decisions_total" in name}
        assert sum(decided.values()) == 2
        assert all('router="default"' in name and 'reason="' in name for name in decided)
        assert told['bandit_router_outcomes_total{router="default"}'] == 1
        said = 'bandit_router_feedback_total{{name="{}",result="{}",router="default"}}'
        assert told[said.format("thumb", "applied")] == 1
        assert told[said.format("thumb", "duplicate")] == 1
        assert told[said.format("thumb", "refused")] == 1
        assert told[said.format("thumb", "unknown")] == 1
        assert told[said.format("other", "refused")] == 1
        asked = 'bandit_router_requests_total{{method="POST",route="{}",status="{}"}}'
        assert told[asked.format("/v1/decisions", 200)] == 3
        assert told[asked.format("/v1/feedback", 200)] == 2
        assert told[asked.format("/v1/feedback", 422)] == 2
        took = 'bandit_router_request_seconds_{}{{method="POST",route="/v1/decisions"}}'
        assert told[took.format("count")] == 3
        assert told[took.format("sum")] > 0

    asyncio.run(probe())


def test_what_is_measured(url: str) -> None:
    async def probe() -> None:
        async with client(url) as inside:
            for _ in range(200):
                told = await scrape(inside)
                if any("newest_decisions" in name for name in told):
                    break
                await asyncio.sleep(0.05)
        assert told['bandit_router_up{dependency="log"}'] == 1
        assert told['bandit_router_up{dependency="store"}'] == 1
        assert 0 <= told['bandit_router_learning_behind_seconds{router="default"}'] < 60
        assert told["bandit_router_process_resident_memory_bytes"] > 1e6
        assert told["bandit_router_process_cpu_seconds"] > 0
        assert told['bandit_router_newest_decisions{router="default"}'] == 0

    asyncio.run(probe())


def test_what_strangers_ask_for_makes_no_labels(url: str) -> None:
    async def ask(inside: httpx.AsyncClient, i: int) -> None:
        await inside.get(f"/v1/decisions/{i}")
        await inside.get(f"/stranger/{i}")
        await inside.request(f"METHOD{i}", "/v1/decisions")
        await inside.post("/v1/decisions", json={"prompt": "x", "router": f"r{i}"})
        word = {"decision_id": "nobody", "name": f"name{i}", "value": 1.0}
        await inside.post("/v1/feedback", json=word)

    async def probe() -> None:
        async with client(url) as inside:
            await ask(inside, 0)
            await scrape(inside)
            before = {
                name for name in await scrape(inside) if "newest" not in name and "_loop{" not in name
            }
            for i in range(1, 30):
                await ask(inside, i)
            after = {
                name for name in await scrape(inside) if "newest" not in name and "_loop{" not in name
            }
        assert after == before

    asyncio.run(probe())


def test_the_client_that_goes_and_the_route_that_fails_are_counted() -> None:
    meter = Meter()

    async def gone(scope: object, receive: object, send: object) -> None:
        return None

    async def failing(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("no")

    async def unused(*_: object) -> dict[str, object]:
        return {}

    async def probe() -> None:
        scope = {"type": "http", "method": "GET", "path": "/"}
        await Metered(gone, meter=meter)(scope, unused, unused)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError):
            await Metered(failing, meter=meter)(scope, unused, unused)  # type: ignore[arg-type]

    asyncio.run(probe())
    told = samples(meter.told().decode())
    asked = 'bandit_router_requests_total{{method="GET",route="other",status="{}"}}'
    assert (told[asked.format(499)], told[asked.format(500)]) == (1, 1)


WORKER = """
import sys
from bandit_router.service.health import LearningAnswer, PartAnswer, ReadyAnswer
from bandit_router.service.metrics import Meter

meter, n = Meter(), int(sys.argv[1])
meter.decisions.labels("default", "a", "explore").inc(n)
meter.latency.labels("/v1/decisions", "POST").observe(n / 1000)
learning = LearningAnswer(ok=True, trouble=None, behind_s=n)
part = PartAnswer(ok=n < 3, trouble=None)
meter.measure(ReadyAnswer(status="ok", log=part, store=part, routers={"default": learning}))
print(meter.told().decode())
"""


def test_counts_are_summed_over_workers(tmp_path: Path) -> None:
    environ = {**os.environ, FOLDER: str(tmp_path)}
    for n in (2, 3):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(n)],
            capture_output=True,
            text=True,
            check=True,
            env=environ,
        )
    told = samples(done.stdout)
    assert told['bandit_router_decisions_total{model="a",reason="explore",router="default"}'] == 5
    count = 'bandit_router_request_seconds_count{method="POST",route="/v1/decisions"}'
    assert told[count] == 2
    assert told['bandit_router_learning_behind_seconds{router="default"}'] == 3  # the slowest
    assert told['bandit_router_up{dependency="log"}'] == 0  # for one of them it is down
    assert len([name for name in told if "process_open_fds" in name]) == 2


def test_how_many_decisions_have_feedback(log_url: str) -> None:
    with Router.open(log_url, models=MODELS) as router:
        decisions = [router.choose("x") for _ in range(6)]
        for decision in decisions[:3]:
            router.feedback(decision.id, "thumb", True)
            router.feedback(decision.id, "rating", 0.5)
        router.retract(router.feedback(decisions[4].id, "thumb", False).id)
    with EventLog.open(log_url) as log:
        later = time.time() + 60

        def counts(before: float, newest: int, name: str = "default") -> tuple[int, int]:
            return log.read(lambda c: join_counts(c, name, before=before, newest=newest))

        assert counts(later, 100) == (6, 3)
        assert counts(later, 4) == (4, 1)
        assert counts(decisions[2].at + 1e-6, 100) == (3, 3)
        assert counts(0, 100) == (0, 0)
        assert counts(later, 100, "another") == (0, 0)
