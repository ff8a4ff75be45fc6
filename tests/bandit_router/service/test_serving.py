"""One worker over real sockets: slow, half-closed, huge, malformed and idle clients, and a gentle end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from serving import until

from bandit_router import Model
from bandit_router.config import Config, Service
from bandit_router.service.app import create_app
from bandit_router.service.connections import refusal
from bandit_router.service.serving import Server, listen, uvicorn_config

BODY = b'{"prompt": "hi"}'
HEAD = b"POST /v1/decisions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
WHOLE = HEAD + b"content-length: 16\r\n\r\n" + BODY
RECEIVE_S = 1.5


def _sockets() -> int:
    count = 0
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them, or one that was just closed
            count += str(file.readlink()).startswith("socket:")
    return count


class Running:
    """A server in a thread of this process, so that a test sees what it holds."""

    def __init__(self, url: str, **limits: object) -> None:
        service = Service(port=0, drain_s=4.0, **limits)  # type: ignore[arg-type]
        config = Config(log=url, models=(Model("a"), Model("b")), service=service)
        self.listener = listen(service)
        self.address = self.listener.getsockname()[:2]
        self.url = f"http://127.0.0.1:{self.address[1]}"
        ready = threading.Event()
        app = create_app(config, loopback=True)
        self.server = Server(uvicorn_config(app, service), ready=ready.set, linger_s=0.5)
        self.loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert ready.wait(30)

    def _run(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            await self.server.serve(sockets=[self.listener])

        asyncio.run(serve())

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join()

    def held(self) -> tuple[int, int, int, int]:
        """Connections, requests under way, tasks, open sockets; the log may open files of its own meanwhile."""

        async def tasks() -> int:
            return len(asyncio.all_tasks())

        state = self.server.server_state
        count = asyncio.run_coroutine_threadsafe(tasks(), self.loop).result(10)
        return len(state.connections), len(state.tasks), count, _sockets()

    def settles(self, before: tuple[int, int, int, int]) -> None:
        """Nothing is left of what a test did."""
        for _ in range(200):
            if (now := self.held()) <= before and now[3] <= before[3]:
                return
            time.sleep(0.05)
        pytest.fail(f"held {before} before, {now} after")


@pytest.fixture
def run(url: str) -> Iterator[Callable[..., Running]]:
    """Start servers over one log."""
    started: list[Running] = []

    def start(**limits: object) -> Running:
        started.append(Running(url, **{"receive_s": RECEIVE_S, **limits}))
        httpx.get(f"{started[-1].url}/readyz").raise_for_status()
        return started[-1]

    yield start
    for running in started:
        running.stop()


def connect(running: Running, *said: bytes) -> socket.socket:
    client = socket.create_connection(running.address, timeout=20)
    for part in said:
        client.sendall(part)
    return client


def hear(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    heard = b""
    with client, contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            heard += part
    return heard


def status(heard: bytes) -> int:
    return int(heard.split(b" ", 2)[1])


def code(heard: bytes) -> str:
    return str(json.loads(heard.partition(b"\r\n\r\n")[2])["error"]["code"])


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (b"", None),
        (b"GET /healthz HTTP/1.1\r\nhost:", 408),
        (HEAD + b"content-length: 16\r\n\r\n" + BODY[:4], 408),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n4\r\n" + BODY[:4] + b"\r\n", 408),
    ],
)
def test_a_client_that_stalls_is_told_and_cut(
    run: Callable[..., Running], said: bytes, wanted: int | None
) -> None:
    running = run()
    before = running.held()
    began = time.monotonic()
    heard = hear(connect(running, said))
    assert RECEIVE_S * 0.9 < time.monotonic() - began < RECEIVE_S + 10
    assert (status(heard) if heard else None) == wanted
    if wanted:
        assert code(heard) == "too_slow"
    running.settles(before)


def test_a_client_that_trickles_is_cut_as_soon(run: Callable[..., Running]) -> None:
    running = run()
    before = running.held()
    client, began = connect(running, HEAD), time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < 10:
            client.sendall(b"x: y\r\n")
            time.sleep(0.05)
    assert time.monotonic() - began < 8
    client.close()
    running.settles(before)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (WHOLE, 200),
        (WHOLE[:30], 400),
        (WHOLE[:-3], 400),
        (b"", None),
    ],
)
def test_half_closed(run: Callable[..., Running], said: bytes, wanted: int | None) -> None:
    running = run()
    before = running.held()
    client = connect(running, said)
    client.shutdown(socket.SHUT_WR)
    heard = hear(client)
    assert (status(heard) if heard else None) == wanted
    if wanted == 400:
        assert code(heard) == "incomplete"
    running.settles(before)


@pytest.mark.parametrize(
    "said",
    [b"\x16\x03\x01\x02\x00\r\n\r\n", b"nonsense\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n"],
)
def test_what_is_not_http_is_answered(run: Callable[..., Running], said: bytes) -> None:
    running = run()
    before = running.held()
    heard = hear(connect(running, said))
    assert (status(heard), code(heard)) == (400, "malformed")
    running.settles(before)


@pytest.mark.parametrize(
    "headers", [b"x: " + b"y" * 1_000_000, b"x: y\r\n" * 200_000, b"x" * 1_000_000], ids=len
)
def test_huge_headers_are_refused(run: Callable[..., Running], headers: bytes) -> None:
    running = run(receive_s=30.0)
    before = running.held()
    began = time.monotonic()
    client = connect(running)
    with contextlib.suppress(ConnectionError):  # refused while we still send
        client.sendall(HEAD + headers)
    heard = hear(client)
    assert time.monotonic() - began < 10
    assert not heard or status(heard) in (400, 431)
    running.settles(before)


def test_some_headers_are_many_and_fit(run: Callable[..., Running]) -> None:
    running = run()
    many = b"".join(b"x-%d: y\r\n" % i for i in range(1_000))
    client = connect(running, WHOLE.replace(b"\r\n\r\n", b"\r\n" + many + b"\r\n"))
    assert status(client.recv(65536)) == 200
    client.close()


def test_answers_are_not_kept_and_not_guessed_at(run: Callable[..., Running]) -> None:
    running = run()
    for path in ("/healthz", "/v1/routers", "/nothing"):
        headers = httpx.get(f"{running.url}{path}").headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


@pytest.mark.parametrize("chunked", [False, True])
def test_huge_bodies_are_refused(run: Callable[..., Running], chunked: bool) -> None:
    running = run(receive_s=30.0)
    before = running.held()
    ten = b"x" * 10_000_000
    body = (ten[i : i + 65536] for i in range(0, len(ten), 65536)) if chunked else ten
    headers = {"content-type": "application/json"}
    with httpx.Client(timeout=30) as client:
        answer = client.post(f"{running.url}/v1/decisions", content=body, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
        assert client.get(f"{running.url}/healthz").status_code == 200
    running.settles(before)


def test_a_client_that_never_reads_its_answers_is_given_up(run: Callable[..., Running]) -> None:
    running = run()
    before = running.held()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.settimeout(0.5)
        client.connect(running.address)
        with contextlib.suppress(OSError):
            for _ in range(2_000):
                client.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        deadline = time.monotonic() + 30
        while running.held()[0] > before[0] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running.held()[0] <= before[0]
    running.settles(before)


def test_idle_connections_beyond_the_limit(run: Callable[..., Running]) -> None:
    running = run(connections=40, receive_s=3.0)
    before = running.held()
    idle = [connect(running) for _ in range(60)]
    for _ in range(100):
        if running.held()[0] >= 60:
            break
        time.sleep(0.02)
    assert status(hear(connect(running, WHOLE))) == 503
    for client in idle:
        assert hear(client) == b""
    assert httpx.get(f"{running.url}/healthz").status_code == 200
    running.settles(before)


def test_a_gentle_end(run: Callable[..., Running]) -> None:
    """Who has connected is served; who keeps a connection is told to leave it; nobody new comes in."""
    running = run(receive_s=10.0, keep_alive_s=30)
    before = running.held()[0]
    fresh = connect(running)
    kept = connect(running, WHOLE)
    assert status(kept.recv(65536)) == 200
    begun = connect(running, WHOLE[:-3])
    until(lambda: running.held()[0] == before + 3, "not all are connected")
    running.server.should_exit = True
    for _ in range(200):
        try:
            connect(running).close()
        except ConnectionRefusedError:
            break
        time.sleep(0.01)
    else:
        pytest.fail("it still accepts")
    begun.sendall(WHOLE[-3:])
    for client in (fresh, kept):
        client.sendall(WHOLE)
    for client in (fresh, kept, begun):
        heard = hear(client)
        assert status(heard) == 200
        assert b"connection: close" in heard.lower()


def test_a_refusal_is_whole() -> None:
    head, _, body = refusal(400, "malformed", "Ünsinn").partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head


def test_uvicorn_listens_to_the_settings(tmp_path: Path) -> None:
    service = Service(connections=7, keep_alive_s=9, drain_s=10.0)
    config = uvicorn_config(create_app(Config(log="sqlite://")), service)
    limits = (config.limit_concurrency, config.timeout_keep_alive, config.timeout_graceful_shutdown)
    assert limits == (7, 9, 7)
    assert not config.access_log
    assert not config.proxy_headers
