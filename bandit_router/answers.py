"""What is answered over HTTP when something is wrong: one table, and a route that keeps to it.

The body is OpenAI's, ``{"error": {"message", "type", "param", "code"}}``. A router made with
``route_class=AnswerRoute`` answers so in any FastAPI app, whatever handlers that app has of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bandit_router.bodies import read_json
from bandit_router.errors import (
    ArchivedDecisionError,
    ArchiveError,
    BanditRouterError,
    ClosedError,
    ConflictError,
    EmbeddingsUnavailableError,
    FeaturesError,
    LogUnavailableError,
    NoEligibleModelError,
    SettingsError,
    StaleGenerationError,
    StoreUnavailableError,
    UnknownDecisionError,
    UnknownFeedbackError,
    UnknownModelError,
    UnknownRouterError,
)

REQUEST, KEY, SCOPE = "invalid_request_error", "authentication_error", "permission_error"
RATE, SERVER = "rate_limit_error", "server_error"
RETRY_S = 1  # when to try again what could not be made durable


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of refusal: its code, its HTTP status, its OpenAI type, and when to try again [s]."""

    code: str
    status: int
    type: str
    retry_after_s: int | None = None


_KINDS = {
    kind.code: kind
    for kind in (
        Kind("missing_key", 401, KEY),
        Kind("invalid_key", 401, KEY),
        Kind("expired", 401, KEY),
        Kind("not_allowed", 403, SCOPE),
        Kind("not_found", 404, REQUEST),
        Kind("unknown_decision", 404, REQUEST),
        Kind("archived_decision", 404, REQUEST),
        Kind("unknown_feedback", 404, REQUEST),
        Kind("unknown_model", 404, REQUEST),
        Kind("unknown_router", 404, REQUEST),
        Kind("method_not_allowed", 405, REQUEST),
        Kind("too_slow", 408, REQUEST),
        Kind("conflict", 409, REQUEST),
        Kind("archive_in_the_way", 409, REQUEST),
        Kind("too_large", 413, REQUEST),
        Kind("not_json", 415, REQUEST),
        Kind("invalid_value", 422, REQUEST),
        Kind("no_eligible_model", 422, REQUEST),
        Kind("too_many_requests", 429, RATE, RETRY_S),
        Kind("server_error", 500, SERVER),
        Kind("log_unavailable", 503, SERVER, RETRY_S),
        Kind("store_unavailable", 503, SERVER, RETRY_S),
        Kind("embeddings_unavailable", 503, SERVER, RETRY_S),
        Kind("busy", 503, SERVER, RETRY_S),
        Kind("closing", 503, SERVER, RETRY_S),
    )
}
_CODES: Mapping[type[Exception], str] = {
    UnknownDecisionError: "unknown_decision",
    ArchivedDecisionError: "archived_decision",
    UnknownFeedbackError: "unknown_feedback",
    UnknownModelError: "unknown_model",
    UnknownRouterError: "unknown_router",
    ConflictError: "conflict",
    ArchiveError: "archive_in_the_way",
    NoEligibleModelError: "no_eligible_model",
    SettingsError: "invalid_value",
    FeaturesError: "invalid_value",
    LogUnavailableError: "log_unavailable",
    StoreUnavailableError: "store_unavailable",
    EmbeddingsUnavailableError: "embeddings_unavailable",
    StaleGenerationError: "busy",
    ClosedError: "closing",
}
_ANYWHERE = (401, 403, 408, 413, 503)
_MEANINGS = {
    401: "No valid key or token.",
    403: "The key or token may not do this.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "The same key came before with another body.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    422: "Something is malformed; `param` names it.",
    429: "Too many requests; see Retry-After.",
    503: "It could not be made durable; see Retry-After.",
}


class Problem(BaseModel):
    """What is wrong, as OpenAI's API says it."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


class RefusedError(BanditRouterError):
    """Raised when a request is refused for a reason that only HTTP knows.

    Parameters
    ----------
    code : str
        One of the table's.
    message : str
    param : str, optional
        The field that is wrong.
    retry_after_s : int, optional
        When to try again [s], where it is not the table's.
    """

    def __init__(
        self, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.retry_after_s = code, param, retry_after_s


def problem_of(error: Exception) -> tuple[int, Problem]:
    """Return the HTTP status and the body's inside for one of our errors, or a malformed body.

    Examples
    --------
    >>> problem_of(UnknownDecisionError("no decision 'x'"))
    (404, Problem(message="no decision 'x'", type='invalid_request_error', param=None,
    code='unknown_decision'))
    """
    kind = _kind(error)
    message, param = _malformed(error) if isinstance(error, _MALFORMED) else (str(error), None)
    if isinstance(error, HTTPException):
        message = str(error.detail)
    elif not isinstance(error, BanditRouterError | RequestValidationError | ValidationError):
        message = "something went wrong here"  # what, is in the program's own log
    param = getattr(error, "param", param)
    return kind.status, Problem(message=message, type=kind.type, param=param, code=kind.code)


def answer_to(error: Exception) -> Response:
    """Return the response to one of our errors, or to a malformed body."""
    status, problem = problem_of(error)
    headers = dict(getattr(error, "headers", None) or {})
    wait = getattr(error, "retry_after_s", None) or _kind(error).retry_after_s
    if wait is not None:
        headers["Retry-After"] = str(wait)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # ASCII, for a message may quote half a character.
    body = json.dumps({"error": problem.model_dump()}).encode()
    return Response(body, status, headers=headers, media_type="application/json")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:  # Any: FastAPI's own type
    """Return what a route documents of the errors that it can answer, beside those that any can."""
    return {
        status: {"model": ErrorAnswer, "description": _MEANINGS[status]}
        for status in sorted({*_ANYWHERE, *statuses})
    }


@contextmanager
def arguments(**fields: str) -> Iterator[None]:
    """Turn what the library says about an argument into an answer that names the field.

    Parameters
    ----------
    **fields
        The field of the body, where an argument has another name there.
    """
    try:
        yield
    except UnknownModelError as error:
        raise RefusedError("invalid_value", str(error), param=fields.get("model", "model")) from error
    except (TypeError, ValueError) as error:
        if isinstance(error, BanditRouterError) and not isinstance(error, SettingsError | FeaturesError):
            raise
        param = named_in(str(error))
        raise RefusedError("invalid_value", str(error), param=fields.get(param or "", param)) from error


def named_in(message: str) -> str | None:
    """Return the argument that a message of ours begins with: ``floor: expected ...``.

    Examples
    --------
    >>> named_in("floor: expected a number from 0 to 1, got 2"), named_in("no setting 'colour'")
    ('floor', None)
    """
    found = re.match(r"([\w.\[\]-]+)[\w ]*: ", message)
    return None if found is None else found[1]


class AnswerRoute(APIRoute):
    """A route that reads strict JSON, and whose errors are answered as the table has it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler; `Any` as FastAPI has it."""
        handle, expects_body = super().get_route_handler(), self.body_field is not None

        async def answered(request: Request) -> Response:
            try:
                return await handle(await _Read.of(request) if expects_body else request)
            except (BanditRouterError, RequestValidationError) as error:
                return answer_to(error)

        return answered


class _Read(Request):
    """A request whose body was read and is strict JSON."""

    @classmethod
    async def of(cls, request: Request) -> _Read:
        read = cls(request.scope, request.receive)
        body = await read.body()
        if body:
            _check_type(read.headers.get("content-type", ""))
            try:
                read._json = read_json(body)
            except ValueError as error:
                raise RefusedError("invalid_value", f"body: {error}") from error
        return read

    async def json(self) -> Any:  # Any: what JSON can say
        return self._json


def _check_type(content_type: str) -> None:
    # A page of another origin cannot send this type without asking first, so that it cannot reach a
    # service that needs no key.
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(
            "not_json",
            f"content-type: expected application/json, got {kind[:60]!r}",
            param="content-type",
        )


_MALFORMED = (RequestValidationError, ValidationError)
_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def _kind(error: Exception) -> Kind:
    if isinstance(error, RefusedError):
        return _KINDS[error.code]
    if isinstance(error, _MALFORMED):
        return _KINDS["invalid_value"]
    if isinstance(error, HTTPException):
        return _KINDS[_BY_STATUS.get(error.status_code, "invalid_value")]
    codes = (_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    return _KINDS[next(codes, "server_error")]


def _malformed(error: RequestValidationError | ValidationError) -> tuple[str, str | None]:
    first: Mapping[str, Any] = error.errors()[0]  # Any: pydantic's own type
    param = _path(first["loc"], within=isinstance(error, RequestValidationError))
    message = str(first["msg"]).removeprefix("Value error, ").removeprefix("name: ")
    return f"{param or 'body'}: {message}", param


def _path(loc: Sequence[int | str], *, within: bool) -> str | None:
    """The field's name as one would write it: ``messages[0].role``."""
    steps = loc[1:] if within else loc
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.removeprefix(".") or None
