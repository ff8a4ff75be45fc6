"""Links carry bytes as the weather lets them."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from simulations.chaos.proxy import CLEAR, CUT, DEAF, HALF_OPEN, Link, Weather, linked
from simulations.chaos.servers import HOST


class Echo(socketserver.BaseRequestHandler):
    """Answers what it is asked, and remembers it."""

    heard: list[bytes]

    def handle(self) -> None:
        while piece := self.request.recv(1024):
            self.heard.append(piece)
            self.request.sendall(piece)


@pytest.fixture
def heard() -> list[bytes]:
    """What the server was asked."""
    return []


@pytest.fixture
def link(heard: list[bytes]) -> Iterator[Link]:
    """A link to a server that echoes."""
    handler = type("Own", (Echo,), {"heard": heard})
    with socketserver.ThreadingTCPServer((HOST, 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        link = Link(server.server_address[1], seed=1)
        with linked(link):
            yield link
        server.shutdown()


@pytest.fixture
def connect(link: Link) -> Iterator[Callable[[], socket.socket]]:
    """Connect to the link."""
    opened: list[socket.socket] = []

    def open_() -> socket.socket:
        opened.append(socket.create_connection((HOST, link.port), timeout=5))
        return opened[-1]

    yield open_
    for connection in opened:
        connection.close()


Connect = Callable[[], socket.socket]


def ask(connection: socket.socket, text: bytes, *, within_s: float = 5.0) -> bytes:
    """Return the answer; what is empty says that the connection has ended."""
    connection.settimeout(within_s)
    try:
        connection.sendall(text)
        return connection.recv(1024)
    except ConnectionError:
        return b""


def turn(link: Link, weather: Weather) -> None:
    """Change the weather, and wait until it has come."""
    link.turn(weather)
    while link.weather is not weather:
        time.sleep(0.005)


def test_a_clear_link_carries_everything(connect: Connect) -> None:
    connection = connect()
    assert ask(connection, b"one") == b"one"
    assert ask(connection, b"two") == b"two"


def test_a_delay_holds_requests_and_answers_back(link: Link, connect: Connect) -> None:
    connection = connect()
    turn(link, Weather(delay_s=0.1, spread=0.0))
    began = time.monotonic()
    assert ask(connection, b"late") == b"late"
    assert time.monotonic() - began > 0.19
    turn(link, CLEAR)
    assert ask(connection, b"again") == b"again"


def test_a_slow_link_takes_its_time(link: Link, connect: Connect) -> None:
    connection = connect()
    turn(link, Weather(bytes_per_s=1_000))
    began = time.monotonic()
    assert ask(connection, b"x" * 100) == b"x" * 100
    assert time.monotonic() - began > 0.15


def test_a_cut_ends_connections_and_refuses_others(link: Link, connect: Connect) -> None:
    old = connect()
    assert ask(old, b"one") == b"one"
    turn(link, CUT)
    assert ask(old, b"two") == b""
    assert ask(connect(), b"three") == b""
    turn(link, CLEAR)
    assert ask(connect(), b"four") == b"four"


def test_a_half_open_link_accepts_and_swallows(link: Link, connect: Connect, heard: list[bytes]) -> None:
    old = connect()
    turn(link, HALF_OPEN)
    for connection in (old, connect()):
        with pytest.raises(TimeoutError):
            ask(connection, b"lost", within_s=0.1)
    turn(link, CLEAR)
    assert ask(old, b"again") == b""  # what lost bytes is of no more use
    assert heard == []


def test_a_deaf_link_lets_the_server_act_and_says_nothing(
    link: Link, connect: Connect, heard: list[bytes]
) -> None:
    connection = connect()
    turn(link, DEAF)
    with pytest.raises(TimeoutError):
        ask(connection, b"do it", within_s=0.2)
    assert heard == [b"do it"]


def test_a_server_that_is_down_is_a_connection_that_ends() -> None:
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        link = Link(nobody.getsockname()[1], seed=1)
        with linked(link), socket.create_connection((HOST, link.port), timeout=5) as connection:
            assert ask(connection, b"hello") == b""
