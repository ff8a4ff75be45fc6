"""How bodies come in: whole, not too large, and in time; nothing else sees a request before that."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandit_router.answers import RefusedError, answer_to

_DRAINED = 8  # times the limit: so much more is read, lest the client never hears why it was refused


class Whole:
    """Reads each body before the app is called: 413 where it is too large, 408 where it is too slow.

    Parameters
    ----------
    app : ASGI app
    limit : int
        Of a body [bytes].
    within_s : float
        How long a body may take [s].
    """

    def __init__(self, app: ASGIApp, *, limit: int, within_s: float) -> None:
        self._app, self._limit, self._within_s = app, limit, within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._within_s):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            slow = f"body: expected all of it within {self._within_s:g} s"
            await answer_to(RefusedError("too_slow", slow))(scope, receive, send)
        except RefusedError as error:
            await answer_to(error)(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None if the client has gone."""
        parts, size = [], 0
        declared = headers.get("content-length", "")
        wanted = int(declared) if declared.isdecimal() else 0
        if wanted > _DRAINED * self._limit:
            raise self._too_large()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            size += len(part)
            if max(size, wanted) <= self._limit:
                parts.append(part)
            more = message.get("more_body", False)
            if size > _DRAINED * self._limit or (not more and size > self._limit):
                raise self._too_large()
            if not more:
                return b"".join(parts)

    def _too_large(self) -> RefusedError:
        return RefusedError("too_large", f"body: expected at most {self._limit} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
