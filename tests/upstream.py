"""A local server that speaks OpenAI's chat completions and embeddings, well or badly, as a test tells it."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one request is answered.

    Attributes
    ----------
    content : str or None
        What the model says.
    usage : mapping or None
        Tokens, as ``usage`` has them.
    finish : str
        Why the model stopped.
    status : int
    headers : mapping of str to str
    raw : bytes, optional
        The whole body instead.
    slow_s : float
        Before the first byte [s].
    drip_s : float
        Before each further byte [s].
    cut : float, optional
        Which part of the body is sent before the connection is cut; its length is promised whole.
    """

    content: str | None = '{"grade": 4}'
    usage: Mapping[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10}
    )
    finish: str = "stop"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    slow_s: float = 0.0
    drip_s: float = 0.0
    cut: float | None = None

    def body(self, model: str) -> bytes:
        """The body of the response."""
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            error = {"message": f"status {self.status}", "type": "upstream", "param": None, "code": None}
            return json.dumps({"error": error}).encode()
        message = {"role": "assistant", "content": self.content}
        completion: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
        }
        return json.dumps(completion | ({} if self.usage is None else {"usage": self.usage})).encode()


Answer = Reply | Callable[[dict[str, Any]], Reply]


class Upstream:
    """The server; a context manager.

    Attributes
    ----------
    url : str
        The base of its API.
    usual : Reply, or a function of a request's body
        How requests are answered that nothing else was said about.
    requests : list of dict
        The bodies that came, in order.
    headers : list of dict
        Their headers, with names in lower case.
    busiest : int
        How many requests were under way at once, at most.
    """

    def __init__(self, usual: Answer | None = None) -> None:
        self.usual: Answer = Reply() if usual is None else usual
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._next: deque[Answer] = deque()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def then(self, *answers: Answer) -> None:
        """Say how the next requests are answered, one after another."""
        self._next.extend(answers)

    def reply(self, body: dict[str, Any]) -> Reply:
        """Return how a request is answered."""
        with self.lock:
            answer = self._next.popleft() if self._next else self.usual
        return answer if isinstance(answer, Reply) else answer(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    upstream: Upstream

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        upstream = self.server.upstream
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with upstream.lock:
            upstream.requests.append(body)
            upstream.headers.append({name.lower(): value for name, value in self.headers.items()})
            upstream.busy += 1
            upstream.busiest = max(upstream.busiest, upstream.busy)
        try:
            self._answer(upstream, body)
        finally:
            with upstream.lock:
                upstream.busy -= 1

    def _answer(self, upstream: Upstream, body: dict[str, Any]) -> None:
        known = self.path in ("/v1/chat/completions", "/v1/embeddings")
        reply = upstream.reply(body) if known else Reply(status=404)
        content = reply.body(body.get("model", ""))
        if upstream.closing.wait(reply.slow_s):
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self._send(content, reply)

    def _send(self, content: bytes, reply: Reply) -> None:
        if reply.cut is not None:
            self.wfile.write(content[: int(len(content) * reply.cut)])
            self.close_connection = True
        elif reply.drip_s:
            for byte in content:
                if self.server.upstream.closing.wait(reply.drip_s):
                    return
                self.wfile.write(bytes([byte]))
        else:
            self.wfile.write(content)
