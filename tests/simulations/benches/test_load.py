"""The load generator: every body is answered in its place, and what is no answer is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bandit_router.errors import PeerError
from simulations.benches.load import post


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200 if self.path == "/echo" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


def test_each_body_is_answered_in_its_place(port: int) -> None:
    bodies = [{"i": i, "text": "é" * i} for i in range(10)]
    load = post(port, "/echo", bodies, connections=3)
    assert list(load.answers) == json.loads(json.dumps(bodies))
    assert 0 < load.p50_ms <= load.p99_ms
    assert load.per_s > 0


def test_a_refusal_is_no_answer(port: int) -> None:
    with pytest.raises(PeerError, match="expected an answer 200, got 404"):
        post(port, "/tea", [{}], connections=1)


def test_nobody_listens() -> None:
    with pytest.raises(PeerError, match="no answer"):
        post(1, "/echo", [{}], connections=1)
