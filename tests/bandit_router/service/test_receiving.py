"""Bodies come in whole, not too large and in time, or are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from bandit_router.service.receiving import Whole


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def send_to(
    parts: Sequence[Message | float], *, declared: str | None = None
) -> tuple[int | None, bytes]:
    """Send parts, with pauses where numbers stand; return status and body."""
    sent: list[Message] = []
    coming = list(parts)

    async def receive() -> Message:
        while isinstance(coming[0], float):
            await asyncio.sleep(coming.pop(0))  # type: ignore[arg-type]
        return coming.pop(0)  # type: ignore[return-value]

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if declared is None else [(b"content-length", declared.encode())]
    scope: dict[str, Any] = {"type": "http", "headers": headers}
    asyncio.run(Whole(echo, limit=10, within_s=0.3)(scope, receive, send))
    if not sent:
        return None, b""
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_comes_whole() -> None:
    assert send_to([part(b"01234", more=True), part(b"56789")]) == (200, b"0123456789")
    assert send_to([part(b"")]) == (200, b"")


@pytest.mark.parametrize(
    ("parts", "declared"),
    [
        ([part(b"0123456789", more=True), part(b"x")], None),
        ([part(b"x" * 9, more=True)] * 10, None),
        ([part(b"x" * 11)], "11"),
        ([], "1000"),
        ([part(b"x" * 11)], "nonsense"),
    ],
)
def test_a_large_one_is_refused(parts: list[Message], declared: str | None) -> None:
    status, body = send_to(parts, declared=declared)
    assert status == 413
    assert b'"too_large"' in body


def test_a_slow_one_is_refused() -> None:
    status, body = send_to([part(b"0", more=True), 1.0, part(b"1")])
    assert status == 408
    assert b'"too_slow"' in body


def test_a_client_that_went_gets_nothing() -> None:
    assert send_to([part(b"0", more=True), {"type": "http.disconnect"}]) == (None, b"")
