"""Alarms of a running service: looked for beside the requests, by one worker of a machine, and told."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from bandit_router import EventLog, Model, Router
from bandit_router.config import Config
from bandit_router.events import new_id
from bandit_router.log import tables as t
from bandit_router.log.rows import decision_row
from bandit_router.service.alarms import Watch
from bandit_router.service.app import create_app
from bandit_router.service.desk import Desk
from feedback.thresholds import Thresholds

MODELS = (Model("a"), Model("b"))
Repeat = Callable[..., list[str]]


@asynccontextmanager
async def client(config: Config) -> AsyncIterator[httpx.AsyncClient]:
    """The service in this process; it looks when it is told to."""
    app = create_app(config, loopback=True)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as inside,
    ):
        await asyncio.to_thread(app.state.watch.again)
        yield inside


@pytest.fixture
def repeat(url: str) -> Repeat:
    """Put decisions into the log, all for one model, as a router makes them; return their ids."""

    def repeat_(n: int, *, features_version: str | None = None) -> list[str]:
        with Router.open(url, models=MODELS) as router:
            decision = router.choose("hi")
        version = features_version or decision.features_version
        now = time.time()
        again = [
            replace(decision, id=new_id(at), at=at, model="a", features_version=version)
            for at in (now - 1_000 - i / 10 for i in range(n))
        ]
        rows = [decision_row(d, input_tokens=1.0, body_hash=None, prompt_hash=None) for d in again]
        with EventLog.open(url) as log:
            log.write(lambda c: c.execute(sa.insert(t.decisions), rows)).result()
        return [decision.id for decision in again]

    return repeat_


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    """An open one."""
    desk, loop = Desk(Config(log=url, models=MODELS)), asyncio.new_event_loop()
    loop.run_until_complete(desk.open())
    yield desk
    loop.run_until_complete(desk.aclose())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def codes(watch: Watch) -> set[str]:
    return {alarm.code for alarm in watch.alarms()}


def test_a_loop_that_breaks_is_told(url: str, repeat: Repeat) -> None:
    repeat(400)

    async def probe() -> None:
        config = Config(log=url, models=MODELS, alarms={"outcomes": 0.0})
        async with client(config) as inside:
            for _ in range(100):
                ready = (await inside.get("/readyz")).json()
                told = (await inside.get("/metrics")).text
                if ready["alarms"] and 'code="one_model",router="default"} 1.0' in told:
                    break
                await asyncio.sleep(0.1)
        said = {alarm["code"]: alarm for alarm in ready["alarms"]}
        assert said.keys() == {"one_model", "feedback_missing", "draws_unlike"}
        assert said["draws_unlike"]["severity"] == "critical"
        assert said["one_model"]["router"] == "default"
        assert re.match(r"'a' served 40[01] of 401 \(", said["one_model"]["message"])
        assert 'bandit_router_alarm{code="rewards_drift",router="default"} 0.0' in told
        assert 'bandit_router_alarm{code="log_away",router=""} 0.0' in told
        assert 'bandit_router_alarms{severity="critical"} 1.0' in told
        assert 'bandit_router_loop{figure="join_rate",router="default"} 0.0' in told

    asyncio.run(probe())


def test_two_services_notice_a_change_once(url: str) -> None:
    """A model falls by 80 %: five standard errors after some fifteen rewards."""

    def live(router: Router, up: int, n: int) -> None:
        for i in range(n):
            word = router.choose("hi", models=["a"]).id
            router.feedback(word, "thumb", i % 10 < up, source=f"user:{i}")

    async def run() -> None:
        desks = [Desk(Config(log=url, models=MODELS)) for _ in range(2)]
        for desk in desks:
            await desk.open()
        routers = [await desk.router() for desk in desks]
        watches = [Watch(desk, thresholds=Thresholds()) for desk in desks]
        await asyncio.to_thread(live, routers[0], 9, 60)
        await asyncio.gather(*(asyncio.to_thread(watch.again) for watch in watches))
        assert not any(belief["drifts"] for belief in routers[0].beliefs().values())
        await asyncio.to_thread(live, routers[0], 1, 40)
        routers[0].configure(drift_detection=False)
        await asyncio.to_thread(watches[0].again)
        assert routers[0].beliefs()["a"]["drifts"] == []
        routers[0].configure(drift_detection=True)
        routers[1].beliefs()  # which has heard of that
        for _ in range(2):
            await asyncio.gather(*(asyncio.to_thread(watch.again) for watch in watches))
        for router in routers:
            assert [drift["origin"] for drift in router.beliefs()["a"]["drifts"]] == ["surprise"]
        for desk in desks:
            await desk.aclose()

    asyncio.run(run())


def test_one_of_many_looks_for_all(desk: Desk, repeat: Repeat, tmp_path: Path) -> None:
    repeat(400)
    first, second = (Watch(desk, thresholds=Thresholds(), folder=tmp_path) for _ in range(2))
    second_sees_nothing = Watch(desk, thresholds=Thresholds(), folder=tmp_path)
    first.again()
    asked = 0

    def counted(*_: object) -> None:
        nonlocal asked
        asked += 1

    sa.event.listen(desk.log.engine, "before_cursor_execute", counted)
    second.again()
    sa.event.remove(desk.log.engine, "before_cursor_execute", counted)
    assert asked == 0
    assert codes(second) == codes(first) > {"one_model"}
    assert second.look.rewards == first.look.rewards
    assert codes(second_sees_nothing) == set()
    (tmp_path / "alarms.json").unlink()
    second.again()
    assert codes(second) == codes(first)  # what was known stays
    first.stop()
    second.again()  # takes over
    assert second.look.vitals
    second.stop()


def test_beliefs_that_stand_still_while_rewards_come(desk: Desk, repeat: Repeat) -> None:
    ids = repeat(30, features_version="other:1")
    watch = Watch(desk, thresholds=Thresholds(still_s=0.01))
    watch.again()
    router = desk.routers["default"]
    for decision in ids:
        router.feedback(decision, "thumb", True)
    watch.again()
    time.sleep(0.02)
    assert codes(watch) == {"beliefs_still", "rewards_skipped"}
    heard = router.choose("hi")
    router.feedback(heard.id, "thumb", True)
    watch.again()
    assert "beliefs_still" not in codes(watch)


def test_it_looks_by_itself_and_outlives_a_log_that_is_away(desk: Desk, tmp_path: Path) -> None:
    watch = Watch(desk, thresholds=Thresholds(), first_s=0.01, every_s=0.01)
    watch.start()
    deadline = time.monotonic() + 30
    while not watch.look.at:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    file = tmp_path / "chat.db"
    file.rename(tmp_path / "away.db")
    time.sleep(0.1)
    (tmp_path / "away.db").rename(file)
    before = watch.look.at
    while watch.look.at == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watch.stop()


def test_words_about_no_decision_are_told(url: str) -> None:
    async def probe() -> None:
        app = create_app(Config(log=url, models=MODELS, alarms={"words": 5}), loopback=True)
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as inside,
        ):
            for i in range(5):
                word = {"decision_id": f"nobody{i}", "name": "thumb", "value": True}
                assert (await inside.post("/v1/feedback", json=word)).status_code == 404
            await asyncio.to_thread(app.state.watch.again)
            assert "words_unknown" in codes(app.state.watch)

    asyncio.run(probe())
