"""`bandit-router serve`: what it says, what it refuses, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from serving import CONFIG, Serving, until
from upstream import Upstream

from bandit_router import BanditRouterError, EventLog, Router
from bandit_router.cli import cli
from bandit_router.commands.options import check_installed
from bandit_router.service.workers import ECHO_S

pytestmark = pytest.mark.timeout(300)  # processes start slowly on a busy machine


@pytest.fixture
def serve(url: str, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Start services over one log."""
    started: list[Serving] = []

    def start(*options: str, log: str = url, config: str = CONFIG) -> Serving:
        folder = tmp_path / f"serving-{len(started)}"
        folder.mkdir()
        started.append(Serving(folder, "--log", log, *options, config=config))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.process.kill()
            serving.process.wait()
        serving.client.close()
        until(lambda serving=serving: not serving.workers(), "workers outlive the test")
        assert serving.process.stdout is not None
        serving.process.stdout.close()


def test_it_says_where_it_listens_and_leaves_the_log_in_order(
    serve: Callable[..., Serving], url: str
) -> None:
    serving = serve("--workers", "2")
    assert "2 workers" in serving.said
    assert "no key is needed" in serving.said
    assert len(serving.workers()) == 2
    for _ in range(5):
        decision = serving.choose()
        serving.post("/v1/feedback", {"decision_id": decision["id"], "name": "thumb", "value": True})
    assert serving.end() == 0
    assert not serving.workers()
    said = serving.stderr.read_text()
    assert said.count("worker ended") == 2
    assert said.count("migrated") <= 1
    assert "Traceback" not in said
    with EventLog.open(url, migrate=False) as log, Router.open(url) as router:
        checkpoints = log.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM checkpoints").scalar())
        assert checkpoints is not None
        assert checkpoints >= 1
        assert sum(belief["n"] for belief in router.beliefs().values()) == 5


def test_off_loopback_nothing_goes_without_a_key(serve: Callable[..., Serving]) -> None:
    serving = serve("--host", "0.0.0.0")
    assert "every call needs a key" in serving.said
    until(lambda: "keys create" in serving.stderr.read_text(), "it did not say so")
    assert serving.get("/healthz").json() == {"status": "ok"}
    assert serving.get("/readyz").json() == {"status": "ok"}
    for path in ("/metrics", "/openapi.json", "/v1/routers"):
        assert serving.get(path).status_code == 401
    assert serving.client.post("/v1/decisions", json={"prompt": "hi"}).status_code == 401


def refused(*options: str) -> str:
    """What makes one line and exit code 1."""
    done = CliRunner().invoke(cli, ["serve", *options])
    assert isinstance(done.exception, BanditRouterError), done.output
    assert len(str(done.exception).splitlines()) == 1
    return str(done.exception)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--config", "missing.toml"), "missing.toml"),
        (("--workers", "0"), "workers"),
        (("--port", "70000"), "port"),
        (("--store", "magic://"), "magic"),
        (("--log", "nonsense"), "log"),
        (("--log", "sqlite:////nowhere/at/all.db"), "unable to open"),
        (("--host", "198.51.100.7"), "198.51.100.7:8080"),
    ],
)
def test_what_is_wrong_is_one_line(options: tuple[str, ...], said: str, url: str) -> None:
    assert said in refused(*(() if "--log" in options else ("--log", url)), *options)


def test_a_busy_port_is_one_line(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused("--log", url, "--port", str(port))


def test_an_outdated_postgres_is_refused_with_the_command(empty_postgres_url: str) -> None:
    assert "`bandit-router migrate --log" in refused("--log", empty_postgres_url)


def test_workers_on_postgres_and_redis(
    serve: Callable[..., Serving], postgres_url: str, redis_url: str
) -> None:
    serving = serve("--workers", "2", "--store", redis_url, log=postgres_url)
    for _ in range(10):
        decision = serving.choose()
        word = {"decision_id": decision["id"], "name": "thumb", "value": True}
        serving.post("/v1/feedback", word)
    ready = serving.get("/readyz").json()
    assert (ready["status"], ready["store"]["ok"]) == ("ok", True)
    told = serving.get("/v1/routers/default/beliefs").json()["beliefs"]
    assert sum(belief["n"] for belief in told.values()) == 10
    assert serving.end() == 0


def test_a_killed_worker_is_replaced_by_one_that_draws_otherwise(serve: Callable[..., Serving]) -> None:
    serving = serve()
    drawn = [serving.choose()["model"] for _ in range(60)]
    (first,) = serving.workers()
    os.kill(first, signal.SIGKILL)
    again = [serving.choose()["model"] for _ in range(60)]  # waits in the socket for the next worker
    assert serving.workers() != {first}
    assert again != drawn  # equal by chance once in 2^60
    assert serving.end(signal.SIGINT) == 0


def test_the_others_serve_on_while_one_is_killed(serve: Callable[..., Serving]) -> None:
    """Over a log in memory, which all workers share."""
    serving = serve("--workers", "2", log="sqlite://")
    victim, survivor = serving.workers()
    ids = [serving.choose()["id"] for _ in range(5)]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(serving.workers()) == 2, "it was not replaced")
    assert survivor in serving.workers()
    told = serving.get("/metrics").text
    assert f'process_open_fds{{pid="{victim}"}}' not in told
    assert f'process_open_fds{{pid="{survivor}"}}' in told
    assert 'bandit_router_decisions_total{model="' in told
    for decision in ids:
        assert serving.get(f"/v1/decisions/{decision}").status_code == 200


def test_workers_end_when_the_supervisor_is_killed(serve: Callable[..., Serving]) -> None:
    serving = serve("--workers", "2")
    assert len(serving.workers()) == 2
    serving.process.kill()
    until(lambda: not serving.workers(), "they live on")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{serving.url}/healthz")


def stalled(serving: Serving) -> socket.socket:
    """A request that is under way and goes no further."""
    client = socket.create_connection(("127.0.0.1", serving.port))
    head = "POST /v1/decisions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    client.sendall(f"{head}expect: 100-continue\r\ncontent-length: 16\r\n\r\n".encode())
    assert client.recv(1_000).startswith(b"HTTP/1.1 100")  # it is being read
    client.sendall(b"{")
    return client


def test_draining_has_an_end(serve: Callable[..., Serving]) -> None:
    serving = serve("--drain-s", "2")
    with stalled(serving):
        began = time.monotonic()
        serving.end()
        assert time.monotonic() - began < 20
    assert not serving.workers()


def test_a_second_signal_ends_it_at_once(serve: Callable[..., Serving]) -> None:
    serving = serve("--drain-s", "60")
    with stalled(serving):
        began = time.monotonic()
        serving.process.send_signal(signal.SIGTERM)
        until(lambda: "worker ends" in serving.stderr.read_text(), "it did not begin to end")
        time.sleep(2 * ECHO_S)  # at once, it would be an echo
        assert serving.end() == 1
        assert time.monotonic() - began < 20
    assert not serving.workers()


class Client(threading.Thread):
    """Chooses and says one word after another, and keeps what was acknowledged and what went wrong."""

    def __init__(self, serving: Serving, *, keep_alive: bool) -> None:
        super().__init__()
        headers = {} if keep_alive else {"connection": "close"}
        self._client = httpx.Client(base_url=serving.url, headers=headers, timeout=60)
        self.enough = threading.Event()
        self.heard: list[str] = []
        self.errors: list[str] = []

    def run(self) -> None:
        with self._client as client:
            while not self.enough.is_set():
                try:
                    self._turn(client)
                except (httpx.HTTPError, json.JSONDecodeError) as error:
                    self.errors.append(repr(error))
                time.sleep(0.01)

    def _turn(self, client: httpx.Client) -> None:
        decision = client.post("/v1/decisions", json={"prompt": "hi"}).raise_for_status().json()
        word = {"decision_id": decision["id"], "name": "thumb", "value": True}
        self.heard.append(client.post("/v1/feedback", json=word).raise_for_status().json()["id"])


def test_a_reload_loses_nothing(serve: Callable[..., Serving], url: str) -> None:
    serving = serve("--workers", "2")
    clients = [Client(serving, keep_alive=i % 2 == 0) for i in range(4)]
    for client in clients:
        client.start()
    before = serving.workers()
    serving.process.send_signal(signal.SIGHUP)
    until(lambda: len(serving.workers()) == 2 and not serving.workers() & before, "no reload")
    for client in clients:
        client.enough.set()
        client.join()
    assert [client.errors for client in clients] == [[], [], [], []]
    heard = {word for client in clients for word in client.heard}
    assert len(heard) > 20
    assert serving.end() == 0
    with EventLog.open(url) as log:
        kept = log.read(lambda c: c.exec_driver_sql("SELECT id FROM feedback").scalars().all())
    assert set(kept) >= heard


def test_a_reload_that_cannot_begin_changes_nothing(serve: Callable[..., Serving], url: str) -> None:
    serving = serve()
    before = serving.workers()
    with EventLog.open(url) as log:
        for newer in ("alembic_version SET version_num = '9999'", "compatibility SET oldest = '9999'"):
            log.write(lambda c, newer=newer: c.exec_driver_sql(f"UPDATE {newer}")).result()  # type: ignore[misc]
    serving.process.send_signal(signal.SIGHUP)
    until(lambda: "the reload is given up" in serving.stderr.read_text(), "it went on")
    assert serving.workers() == before
    assert serving.choose()["model"] in ("small", "large")
    assert serving.end() == 0


def test_what_is_not_installed_is_one_line() -> None:
    with pytest.raises(BanditRouterError, match=r"serve: no_such_package .* pip install"):
        check_installed("serve", "click", "no_such_package")


def test_a_judge_grades_beside_the_requests(serve: Callable[..., Serving]) -> None:
    judging = '\n[judge]\nurl = "{}"\nmodel = "grader"\nshare = 1.0\npoll_s = 0.1\n'
    with Upstream() as upstream:
        serving = serve("--workers", "2", config=CONFIG + judging.format(upstream.url))
        decisions = [str(serving.choose()["id"]) for _ in range(4)]
        for decision in decisions:
            told = {"decision_id": decision, "output_tokens": 9, "answer": "Hello, and welcome."}
            serving.post("/v1/outcomes", told)

        def graded(decision: str) -> bool:
            words = serving.get(f"/v1/decisions/{decision}").json()["feedback"]
            return [word["source"] for word in words] == ["judge:grader"]

        until(lambda: all(graded(decision) for decision in decisions), "not all are graded")
        assert serving.end() == 0
        assert len(upstream.requests) == 4


def test_a_judge_without_its_key_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "judge.toml"
    config.write_text(
        '[judge]\nurl = "http://127.0.0.1:1/v1"\nmodel = "g"\napi_key_env = "NO_SUCH_KEY"\n'
    )
    done = CliRunner().invoke(
        cli, ["serve", "--config", str(config), "--log", "sqlite://", "--port", "0"]
    )
    assert isinstance(done.exception, BanditRouterError)
    assert "the environment has no NO_SUCH_KEY" in str(done.exception)
