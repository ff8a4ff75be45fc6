"""What one connection may do: how slow a client may be, and what it hears when it is too slow."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from functools import cache
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CLOSE = (b"connection", b"close")
HEAD_BYTES = 64 * 1024  # of one request's line and headers
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
}


class Connection(asyncio.Protocol):
    """One connection: uvicorn's own protocol, within limits that uvicorn does not have.

    A request must have arrived as a whole, headers and body, within `receive_s`: else 408, and the
    connection is closed. Its headers may not be longer than 64 KiB: else 431, or 400. A client that closes
    its sending half after a whole request gets its answer; after a part of one, 400.

    Attributes
    ----------
    receive_s : float
        Set by `connection_type`.
    """

    receive_s = 30.0

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: whatever the app keeps
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._inner = _protocol()(
            config=config, server_state=server_state, app_state=app_state, _loop=self._loop
        )
        self._inner.send_400_response = self._refuse_malformed
        self._timer: asyncio.TimerHandle | None = None
        self._said = False  # whether the client has sent a part of a request
        self._head = 0  # bytes of headers that are not complete yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._said = True
        self._inner.data_received(data)
        self._bound_head(len(data))
        self._watch()

    def _bound_head(self, more: int) -> None:
        cycle = self._inner.cycle
        self._head = self._head + more if cycle is None or cycle.response_complete else 0
        if self._head > HEAD_BYTES:
            self._refuse(431, "too_large", f"headers: expected at most {HEAD_BYTES} bytes")

    def eof_received(self) -> bool:
        cycle = self._inner.cycle
        if self._said and self._arriving():
            self._refuse(400, "incomplete", "the request ended before it was complete")
        if self._arriving() or self._inner.transport.is_closing():
            return False
        cycle.keep_alive = False
        return True  # the other half stays open for the answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _watch(self) -> None:
        if not self._arriving():
            self._said = False
            self._stop_watching()
        elif self._timer is None:
            self._timer = self._loop.call_later(self.receive_s, self._give_up)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arriving(self) -> bool:
        """Whether the next thing to happen is that more of a request comes."""
        cycle = self._inner.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def _give_up(self) -> None:
        message = f"the request did not arrive within {self.receive_s:g} seconds"
        self._refuse(408, "too_slow", message)

    def _refuse_malformed(self, message: str) -> None:
        self._refuse(400, "malformed", message)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer, unless an answer is under way or nothing was asked, and close."""
        transport, cycle = self._inner.transport, self._inner.cycle
        if transport.is_closing():
            return
        answered = cycle is not None and cycle.response_started
        between = cycle is not None and cycle.response_complete and not cycle.more_body
        if self._said and (between or not answered):
            transport.write(refusal(status, code, message))
        transport.close()


@cache
def _protocol() -> Any:  # Any: one of two kinds of uvicorn's, of which both have what is used here
    if importlib.util.find_spec("httptools") is None:
        return H11Protocol
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    return HttpToolsProtocol


def refusal(status: int, code: str, message: str) -> bytes:
    """Return a whole HTTP answer that closes the connection.

    Examples
    --------
    >>> refusal(408, "too_slow", "too slow").split(b"\\r\\n")[0]
    b'HTTP/1.1 408 Request Timeout'
    """
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def connection_type(receive_s: float) -> type[asyncio.Protocol]:
    """Return the `Connection` of a server, which makes one itself for each client."""
    return type("Connection", (Connection,), {"receive_s": receive_s})
