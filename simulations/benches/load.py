"""A load generator: requests over connections that stay open, each sent when the one before is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bandit_router.errors import PeerError

Body = Mapping[str, Any]  # Any: JSON
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of it.

    Attributes
    ----------
    per_s : float
        Answers a second.
    p50_ms, p99_ms : float
        Of the time from request to answer [ms].
    answers : tuple of dict
        In the order of the requests.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    answers: tuple[dict[str, Any], ...]  # Any: JSON


def post(port: int, path: str, bodies: Sequence[Body], *, connections: int) -> Load:
    """Post all bodies.

    Raises
    ------
    PeerError
        An answer other than 200 or 202, or none.
    """
    try:
        return asyncio.run(
            asyncio.wait_for(_post(port, path, bodies, connections=connections), PATIENCE_S)
        )
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise PeerError(f"{path}: no answer: {error or type(error).__name__}") from error


async def _post(port: int, path: str, bodies: Sequence[Body], *, connections: int) -> Load:
    requests = [_request(path, body) for body in bodies]
    answers, took = [b""] * len(requests), np.zeros(len(requests))
    waiting = iter(range(len(requests)))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for at in waiting:
                sent = time.perf_counter()
                writer.write(requests[at])
                answers[at] = await _answer(reader)
                took[at] = time.perf_counter() - sent
        finally:
            writer.close()
            await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(min(connections, len(requests)))))
    lasted = time.perf_counter() - began
    p50, p99 = np.percentile(1000 * took, (50, 99))
    return Load(
        per_s=len(requests) / lasted,
        p50_ms=float(p50),
        p99_ms=float(p99),
        answers=tuple(json.loads(answer) for answer in answers),
    )


def _request(path: str, body: Body) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if head[9:12] not in (b"200", b"202"):
        raise PeerError(f"expected an answer 200, got {head[9:12].decode()}: {body[:200]!r}")
    return body
