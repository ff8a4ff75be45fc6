"""Asking a judge over HTTP: one attempt, and what can be said of it afterwards."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

try:
    import httpx
except ImportError as error:
    raise ImportError("the judge needs httpx: pip install 'bandit-router[http]'") from error

from bandit_router.values import check_count
from feedback.judge_settings import JudgeSettings
from feedback.rubric import MalformedGradeError

REPLY_LIMIT = 1_000_000  # bytes of a response that are read
WAIT_LIMIT_S = 3_600.0  # the longest wait that an API is believed
_TRANSIENT = (408, 409, 425, 429)  # and all from 500
_CONFIGURED_WRONGLY = (401, 403, 404, 405)  # the same for every answer: no fault of this one's


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How one call of a judge went.

    Attributes
    ----------
    state : str
        "graded", "malformed" (an answer that is no grade), "refused" (this request will never work), "later"
        (it may work later), or "stuck" (no request works just now).
    grade : float, optional
        In [0, 1].
    cost_usd : float, optional
        None: nobody knows, it may have been billed [USD].
    error : str, optional
        Why there is no grade; no text of the request or the reply.
    after_s : float, optional
        How long the API asked to be left alone [s].
    """

    state: Literal["graded", "malformed", "refused", "later", "stuck"]
    grade: float | None = None
    cost_usd: float | None = None
    error: str | None = None
    after_s: float | None = None


def new_client(settings: JudgeSettings, api_key: str | None) -> httpx.AsyncClient:
    """Return a client that holds at most as many connections as there are calls at once."""
    limits = httpx.Limits(
        max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency
    )
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    return httpx.AsyncClient(
        base_url=settings.url.rstrip("/") + "/",
        headers=headers,
        limits=limits,
        timeout=settings.timeout_s,
        follow_redirects=False,  # the key goes to nobody else
    )


def body_of(settings: JudgeSettings, messages: Sequence[Mapping[str, str]]) -> bytes:
    """Return the body of a request."""
    body = {
        "model": settings.model,
        "messages": list(messages),
        settings.max_tokens_name: settings.max_tokens,
        **settings.options,
    }
    return json.dumps(body).encode()


def dearest_usd(settings: JudgeSettings, messages: Sequence[Mapping[str, str]]) -> float:
    """Return the most that a call can cost [USD]: no tokenizer makes more tokens than there are bytes."""
    read = sum(len(message["content"].encode("utf-8", "replace")) + 16 for message in messages)
    return settings.cost_usd(read, settings.max_tokens)


async def ask(
    client: httpx.AsyncClient, settings: JudgeSettings, body: bytes, *, clock: Callable[[], float]
) -> Attempt:
    """Ask for one grade, within the time limit. What the API does wrong becomes an attempt, not an error."""
    try:
        async with asyncio.timeout(settings.timeout_s):
            response, content = await _post(client, body)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return Attempt(state="stuck", cost_usd=0.0, error=type(error).__name__)
    except (TimeoutError, httpx.TimeoutException):
        return Attempt(state="later", error="timeout")
    except httpx.HTTPError as error:
        return Attempt(state="later", error=type(error).__name__)
    if response.status_code != 200:
        return _refused(response.status_code, wait_of(response.headers.get("retry-after"), clock()))
    return _read(settings, content)


async def _post(client: httpx.AsyncClient, body: bytes) -> tuple[httpx.Response, bytes]:
    """The response, and as much of its content as could be a grade."""
    content = bytearray()
    async with client.stream("POST", "chat/completions", content=body) as response:
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > REPLY_LIMIT:
                break
    return response, bytes(content)


def _refused(status: int, after_s: float | None) -> Attempt:
    error = f"HTTP {status}"
    if status in _CONFIGURED_WRONGLY or 300 <= status < 400:
        return Attempt(state="stuck", cost_usd=0.0, error=error)
    if status in _TRANSIENT or not 400 <= status < 500:
        return Attempt(state="later", cost_usd=0.0, error=error, after_s=after_s)
    return Attempt(state="refused", cost_usd=0.0, error=error)


def wait_of(header: str | None, now: float) -> float | None:
    """Return how long ``Retry-After`` asks to wait [s], or None where it says nothing that can be read.

    Examples
    --------
    >>> wait_of("2.5", 0.0), wait_of("Thu, 01 Jan 1970 00:01:00 GMT", 20.0), wait_of("soon", 0.0)
    (2.5, 40.0, None)
    """
    if header is None:
        return None
    try:
        wait = float(header)
    except ValueError:
        try:
            wait = parsedate_to_datetime(header).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(wait) else min(max(wait, 0.0), WAIT_LIMIT_S)


def _read(settings: JudgeSettings, content: bytes) -> Attempt:
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        reply, finish = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return Attempt(state="later", error="no chat completion")
    cost = _cost_usd(settings, body.get("usage"))
    if not isinstance(reply, str) or finish not in ("stop", None):
        return Attempt(state="malformed", cost_usd=cost, error="the reply is not whole")
    try:
        return Attempt(state="graded", cost_usd=cost, grade=settings.grading.read(reply))
    except MalformedGradeError as error:
        return Attempt(state="malformed", cost_usd=cost, error=str(error))


def _cost_usd(settings: JudgeSettings, usage: object) -> float | None:
    """What the tokens cost that the API says it used; None where it does not say."""
    if not isinstance(usage, Mapping):
        return None
    try:
        read, wrote = (
            check_count(name, usage.get(name)) for name in ("prompt_tokens", "completion_tokens")
        )
    except (TypeError, ValueError):
        return None
    return settings.cost_usd(read, wrote)
