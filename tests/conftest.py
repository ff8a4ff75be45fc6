"""What many tests need: routers on a log of their own, and real servers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import programs
import pytest
from hypothesis import HealthCheck, settings
from servers import Lent, RedisCluster

from bandit_router import Model, Router
from bandit_router.log.engine import connect, upgrade
from simulations.chaos.programs import NotObtainedError, find_postgres, find_redis
from simulations.chaos.proxy import Link, linked
from simulations.chaos.servers import PostgresFiles, PostgresServer, RedisServer, running

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

SMALL = Model("small", input_usd_per_mtok=0.15, output_usd_per_mtok=0.60, context_tokens=128_000)
LARGE = Model("large", input_usd_per_mtok=2.50, output_usd_per_mtok=10.0, context_tokens=128_000)


T = TypeVar("T")


@pytest.fixture(autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of tests go where tests may write."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the tables of a log, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "chat.db"
    engine = connect(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """A new log in a file, with its tables and without rows."""
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'chat.db')}"


@pytest.fixture
def url(sqlite_url: str) -> str:
    """The log of `router`. A test file that wants it on every backend makes it `log_url` of its own."""
    return sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest) -> str:
    """A log on each kind of database; on PostgreSQL it has its tables already."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def store_url(request: pytest.FixtureRequest, url: str) -> str:
    """The store that goes with `url`: memory beside an embedded log, Redis beside PostgreSQL."""
    return "memory://" if url.startswith("sqlite") else str(request.getfixturevalue("redis_url"))


@pytest.fixture
def open_router(url: str, store_url: str) -> Iterator[Callable[..., Router]]:
    """Open routers on one log; whatever stays open is closed at the end."""
    opened: list[Router] = []

    def open_(**arguments: Any) -> Router:
        arguments.setdefault("models", [SMALL, LARGE])
        arguments.setdefault("store", store_url)
        router = Router.open(arguments.pop("log", url), **arguments)
        opened.append(router)
        return router

    yield open_
    for router in opened:
        router.close()


@pytest.fixture
def router(open_router: Callable[..., Router]) -> Router:
    """A router with a small and a large model."""
    return open_router()


def obtained(find: Callable[[], T]) -> T:
    """Return what `find` finds; without it a test is skipped with the reason, or fails in CI."""
    try:
        return find()
    except NotObtainedError as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line each what the tests had to do without."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    reasons = " ".join(str(getattr(report, "longrepr", "")) for report in reports)
    for line in sorted(set(re.findall(r"not obtained: [^\n'\"]+", reasons))):
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for all tests of this process, which keeps nothing on disk."""
    obtained(find_redis)
    with running(RedisServer, "--databases", "1000") as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer, _numbers: Iterator[int]) -> str:
    """An empty database of the Redis for all; threads of earlier tests have another."""
    redis_server.start()  # where a test has ended it
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url_of(next(_numbers) % 1000)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis of this test alone, to be stopped, killed and started; it keeps its data."""
    obtained(find_redis)
    with running(RedisServer, "--appendonly", "yes") as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A Redis Cluster of three nodes, for all tests of this process."""
    obtained(find_redis)
    with running(RedisCluster) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    """One node of an empty Redis Cluster of three."""
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture(scope="session")
def postgres_files() -> Iterator[PostgresFiles]:
    """What PostgreSQL servers are made from."""
    obtained(find_postgres)
    files = PostgresFiles()
    yield files
    files.remove()


@pytest.fixture(scope="session")
def postgres_server(postgres_files: PostgresFiles) -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests of this process; its database "migrated" has the tables of a log."""
    with running(PostgresServer, postgres_files) as server:
        server.execute("CREATE DATABASE migrated")
        engine = connect(server.url_of("migrated"))
        upgrade(engine)
        engine.dispose()
        yield server


@pytest.fixture(scope="session")
def lent_databases(postgres_server: PostgresServer) -> Lent:
    """Databases with the tables of a log, one after another."""
    return Lent(postgres_server, "migrated")


@pytest.fixture
def postgres_url(lent_databases: Lent, _numbers: Iterator[int]) -> Iterator[str]:
    """A log on PostgreSQL, with its tables and without rows; its name is new, so that nobody else knows it."""
    with lent_databases.database(f"log{next(_numbers)}") as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer, _numbers: Iterator[int]) -> Iterator[str]:
    """A new database on PostgreSQL, without tables."""
    with postgres_server.new_database(f"empty{next(_numbers)}") as url:
        yield url


@pytest.fixture
def own_postgres(postgres_files: PostgresFiles) -> Iterator[PostgresServer]:
    """A PostgreSQL of this test alone, to be stopped, killed and started; its database has no tables."""
    with running(PostgresServer, postgres_files) as server:
        yield server


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    """Names that no other test of this process has."""
    return count()


@pytest.fixture(scope="session")
def browser_path() -> Path:
    """A real Chromium."""
    return obtained(programs.find_browser)


@pytest.fixture
def links(own_redis: RedisServer) -> Iterator[tuple[Link, Link]]:
    """A way to one Redis for each of two workers."""
    pair = (Link(own_redis.port, seed=1), Link(own_redis.port, seed=2))
    with linked(*pair):
        yield pair


@pytest.fixture
def pair(open_router: Callable[..., Router], links: tuple[Link, Link]) -> tuple[Router, Router]:
    """Two workers, each with a way of its own to one Redis, which may take half a second to answer."""
    one, two = (open_router(store=f"redis://127.0.0.1:{link.port}/0?timeout=0.5") for link in links)
    return one, two
