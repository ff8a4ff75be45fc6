"""One call of a service: how it is said, when it is tried again, and what comes of it. No I/O."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from bandit_router.errors import (
    AccessError,
    ArchivedDecisionError,
    ArchiveError,
    BanditRouterError,
    ConflictError,
    FormatError,
    LogUnavailableError,
    NoEligibleModelError,
    ServiceUnavailableError,
    StoreUnavailableError,
    UnknownDecisionError,
    UnknownFeedbackError,
    UnknownModelError,
    UnknownRouterError,
)

T = TypeVar("T")
Came = httpx.Response | httpx.RequestError  # what came of one attempt
FIRST_WAIT_S = 0.2  # doubled with each attempt
LONGEST_WAIT_S = 10.0  # whoever is asked to wait longer gives up instead
_AGAIN = (408, 429, 502, 503, 504)  # proxies between say 502 and 504
_KINDS: Mapping[str, type[Exception]] = {
    "unknown_decision": UnknownDecisionError,
    "archived_decision": ArchivedDecisionError,
    "archive_in_the_way": ArchiveError,
    "unknown_feedback": UnknownFeedbackError,
    "unknown_model": UnknownModelError,
    "unknown_router": UnknownRouterError,
    "no_eligible_model": NoEligibleModelError,
    "conflict": ConflictError,
    "too_large": ValueError,
    "invalid_value": ValueError,
    "log_unavailable": LogUnavailableError,
    "store_unavailable": StoreUnavailableError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """What is asked of a service, and how its answer is read.

    Attributes
    ----------
    path : str
        Percent-encoded.
    read : callable
        Makes a value of the answer's body.
    body : object, optional
        What JSON can say.
    key : str, optional
        Its ``Idempotency-Key``: the same in every attempt.
    """

    method: str
    path: str
    read: Callable[[Any], T]  # Any: JSON
    body: object = None
    key: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Return what httpx is told."""
        headers = {} if self.key is None else {"idempotency-key": self.key}
        if self.body is None:
            return {"method": self.method, "url": self.path, "headers": headers}
        # ASCII, for a text that was cut may hold half a character.
        content = json.dumps(self.body, allow_nan=False).encode()
        headers["content-type"] = "application/json"
        return {"method": self.method, "url": self.path, "headers": headers, "content": content}

    def answer(self, came: Came) -> T:
        """Return the answer, or raise what the service says is wrong."""
        if isinstance(came, httpx.RequestError):
            said = f"{self.method} {self.path}: {type(came).__name__}: {came}"
            raise ServiceUnavailableError(said) from came
        try:
            body = came.json() if came.is_success else None
            if body is not None:
                return self.read(body)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise FormatError(f"{self.method} {self.path}: the answer is not a router's") from error
        raise error_of(came, f"{self.method} {self.path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a call is tried again, and after how long.

    Parameters
    ----------
    retries : int
        How often after the first attempt.
    draw : callable
        Returns a number from 0 to 1: clients that failed together do not come back together.
    """

    retries: int
    draw: Callable[[], float] = field(default_factory=lambda: random.Random().random)

    def wait_s(self, came: Came, attempt: int) -> float | None:
        """Return how long to wait before trying again [s]; None where this is the last word.

        Parameters
        ----------
        came : Response or RequestError
        attempt : int
            How many there were before.

        Examples
        --------
        >>> patience = Patience(retries=2, draw=lambda: 1.0)
        >>> [patience.wait_s(httpx.ConnectError("refused"), attempt) for attempt in range(3)]
        [0.2, 0.4, None]
        >>> patience.wait_s(httpx.Response(503, headers={"retry-after": "3"}), 0)
        3.2
        >>> patience.wait_s(httpx.Response(404), 0), patience.wait_s(httpx.Response(429), 0)
        (None, 0.2)
        """
        if attempt >= self.retries:
            return None
        asked = 0.0
        if isinstance(came, httpx.Response):
            if came.status_code not in _AGAIN:
                return None
            asked = _asked_s(came)
        if asked > LONGEST_WAIT_S:
            return None
        wait_s = min(FIRST_WAIT_S * 2.0**attempt, LONGEST_WAIT_S)
        return asked + wait_s * (1 + self.draw()) / 2


def _asked_s(response: httpx.Response) -> float:
    """What ``Retry-After`` asks for [s]; a date is passed over, for clocks differ."""
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isdecimal() else 0.0


def error_of(response: httpx.Response, what: str) -> Exception:
    """Return the library's own error for an answer that is none."""
    message, code = _problem(response)
    kind = _KINDS.get(code, _kind(response.status_code))
    return kind(message or f"{what}: HTTP {response.status_code}")


def problem_error(body: Mapping[str, Any]) -> Exception:  # Any: JSON
    """Return the library's own error for an item of a batch: its status, and OpenAI's ``error``."""
    problem = body["error"]
    return _KINDS.get(problem["code"], _kind(body["status"]))(problem["message"])


def _kind(status: int) -> type[BanditRouterError]:
    if status in (401, 403):
        return AccessError
    return ServiceUnavailableError if status >= 500 or status in _AGAIN else FormatError


def _problem(response: httpx.Response) -> tuple[str, str]:
    """The message and code of OpenAI's error body; of a proxy's own page, two empty texts."""
    try:
        error = response.json()["error"]
        return str(error["message"]), str(error["code"])
    except (ValueError, LookupError, TypeError):
        return "", ""
