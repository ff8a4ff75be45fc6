"""/healthz and /readyz: alive, ready, degraded, unavailable; quick even when nothing answers."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Connection

from bandit_router import EventLog, Model
from bandit_router.config import Config
from bandit_router.log.engine import connect, upgrade
from bandit_router.log.keys import add_key, new_key
from bandit_router.service import health
from bandit_router.service.app import create_app
from simulations.chaos.servers import PostgresServer, RedisServer

MODELS = (Model("a"), Model("b"))


@asynccontextmanager
async def client(
    log: str, *, store: str = "memory://", loopback: bool = True, key: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """The service in this process."""
    app = create_app(Config(log=log, store=store, models=MODELS), loopback=loopback)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as inside,
    ):
        yield inside


async def told(
    inside: httpx.AsyncClient, wanted: Callable[[httpx.Response], bool], seconds: float = 20
) -> httpx.Response:
    """What a probe hears once it is as wanted; no probe may take long."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        answer = await inside.get("/readyz")
        assert time.monotonic() - began < health.CHECK_S + 4  # on a busy machine
        if wanted(answer):
            return answer
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)


def run(doing: Awaitable[None]) -> None:
    async def main() -> None:
        await doing

    asyncio.run(main())


def test_a_service_that_is_well_says_so(url: str) -> None:
    async def probe() -> None:
        async with client(url) as inside:
            assert (await inside.get("/healthz")).json() == {"status": "ok"}
            ready = await told(inside, lambda answer: answer.json()["status"] == "ok")
            assert ready.status_code == 200
            body = ready.json()
            assert body["log"] == body["store"] == {"ok": True, "trouble": None}
            assert body["routers"]["default"]["ok"]
            assert 0 <= body["routers"]["default"]["behind_s"] < health.LATE_S

    run(probe())


def test_details_are_for_those_who_may_know(url: str) -> None:
    async def probe() -> None:
        bare = {"status": "ok"}
        async with client(url, loopback=False) as inside:
            assert (await inside.get("/readyz")).json() == bare
        key = new_key()
        with EventLog.open(url) as log:
            log.write(lambda c: add_key(c, key, name="x", scopes=["route"], now=time.time())).result()
        for loopback in (True, False):
            async with client(url, loopback=loopback) as inside:
                assert (await inside.get("/readyz")).json() == bare
            async with client(url, loopback=loopback, key="br_wrong") as inside:
                assert (await inside.get("/readyz")).json() == bare
            async with client(url, loopback=loopback, key=key) as inside:
                assert "routers" in (await inside.get("/readyz")).json()

    run(probe())


def test_a_log_of_another_program_is_unavailable(url: str) -> None:
    async def probe() -> None:
        async with client(url) as inside:
            with EventLog.open(url) as log:
                for statement in (
                    "UPDATE alembic_version SET version_num = '9999'",
                    "UPDATE compatibility SET oldest = '9999'",
                ):
                    log.write(partial(Connection.exec_driver_sql, statement=statement)).result()
            answer = await told(inside, lambda answer: answer.status_code == 503)
            assert answer.json()["status"] == "unavailable"
            assert "9999" in answer.json()["log"]["trouble"]
            assert (await inside.get("/healthz")).status_code == 200

    run(probe())


def test_probes_do_not_load_the_log(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def probe() -> None:
        nonlocal asked
        async with client(url) as inside:
            look = health.schema_fits

            def counted(engine: object) -> str | None:
                nonlocal asked
                asked += 1
                return look(engine)  # type: ignore[arg-type]

            monkeypatch.setattr(health, "schema_fits", counted)
            await asyncio.gather(*(inside.get("/readyz") for _ in range(200)))

    began = time.monotonic()
    run(probe())
    assert asked <= 2 + (time.monotonic() - began) / health.FRESH_S


@pytest.fixture
def journal_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where decisions wait for a log on PostgreSQL."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "bandit-router"


def test_postgres_stops_and_comes_back(own_postgres: PostgresServer, journal_folder: Path) -> None:
    engine = connect(own_postgres.url)
    upgrade(engine)
    engine.dispose()

    async def probe() -> None:
        async with client(own_postgres.url) as inside:
            await told(inside, lambda answer: answer.json()["status"] == "ok")
            own_postgres.kill()
            down = await told(inside, lambda answer: answer.json()["status"] == "degraded")
            assert down.status_code == 200
            assert down.json()["log"]["trouble"]
            chosen = await inside.post("/v1/decisions", json={"prompt": "hi"})
            assert (chosen.status_code, chosen.json()["reason"]) == (200, "degraded")
            word = {"decision_id": chosen.json()["id"], "name": "thumb", "value": True}
            refused = await inside.post("/v1/feedback", json=word)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            down = await told(inside, lambda answer: answer.json()["journal"]["decisions"] == 1)
            raised = {alarm["code"]: alarm["severity"] for alarm in down.json()["alarms"]}
            assert raised == {"log_away": "critical", "journal_filling": "warning"}
            own_postgres.start()
            await told(inside, lambda answer: answer.json()["status"] == "ok", 60)

    run(probe())


def children(parent: int) -> list[int]:
    stats = [stat.read_text() for stat in Path("/proc").glob("[0-9]*/stat")]
    told = [(int(stat.split()[0]), int(stat.rpartition(")")[2].split()[1])) for stat in stats]
    return [pid for pid, its_parent in told if its_parent == parent]


def test_without_log_and_journal_nothing_is_served(
    own_postgres: PostgresServer, journal_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(journal_folder))
    engine = connect(own_postgres.url)
    upgrade(engine)
    engine.dispose()
    journal_folder.write_text("in the way")

    async def probe() -> None:
        async with client(own_postgres.url) as inside:
            await told(inside, lambda answer: answer.json()["status"] == "ok")
            own_postgres.kill()
            refused = await inside.post("/v1/decisions", json={"prompt": "hi"})
            assert refused.status_code == 503
            down = await told(inside, lambda answer: answer.status_code == 503)
            assert down.json()["status"] == "unavailable"
            assert str(journal_folder) in down.json()["journal"]["trouble"]

    run(probe())


def test_a_log_that_hangs_is_away_at_once(own_postgres: PostgresServer) -> None:
    engine = connect(own_postgres.url)
    upgrade(engine)
    engine.dispose()

    async def probe() -> None:
        async with client(own_postgres.url) as inside:
            await told(inside, lambda answer: answer.json()["status"] == "ok")
            server = own_postgres.process.pid
            stopped = [server, *children(server)]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                down = await told(inside, lambda answer: not answer.json()["log"]["ok"])
                assert "does not answer" in down.json()["log"]["trouble"]
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            await told(inside, lambda answer: answer.json()["status"] == "ok", 60)

    run(probe())


def test_without_the_store_requests_are_served(url: str, own_redis: RedisServer) -> None:
    async def probe() -> None:
        async with client(url, store=own_redis.url) as inside:
            await told(inside, lambda answer: answer.json()["status"] == "ok")
            own_redis.kill()
            away = await told(inside, lambda answer: answer.json()["status"] == "degraded")
            assert away.status_code == 200
            assert away.json()["log"]["ok"]
            assert away.json()["store"]["trouble"]
            chosen = await inside.post("/v1/decisions", json={"prompt": "hi"})
            assert chosen.status_code == 200
            own_redis.start()
            await told(inside, lambda answer: answer.json()["status"] == "ok", 60)

    run(probe())
