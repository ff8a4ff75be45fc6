"""One table of HTTP statuses: every error of ours has its row, and says what OpenAI's API would."""

from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from bandit_router import errors
from bandit_router.answers import RefusedError, answer_to, arguments, named_in, problem_of
from bandit_router.errors import (
    BanditRouterError,
    ClosedError,
    ConflictError,
    FormatError,
    LogVersionError,
    NoEligibleModelError,
    SettingsError,
    StoreUnavailableError,
    UnknownModelError,
    UnknownRouterError,
)


@pytest.mark.parametrize(
    ("error", "status", "code", "waits"),
    [
        (RefusedError("invalid_key", "x"), 401, "invalid_key", False),
        (RefusedError("not_allowed", "x"), 403, "not_allowed", False),
        (UnknownRouterError("x"), 404, "unknown_router", False),
        (UnknownModelError("x"), 404, "unknown_model", False),
        (ConflictError("x"), 409, "conflict", False),
        (NoEligibleModelError("x"), 422, "no_eligible_model", False),
        (SettingsError("x"), 422, "invalid_value", False),
        (RefusedError("too_many_requests", "x", retry_after_s=7), 429, "too_many_requests", True),
        (LogVersionError("x"), 503, "log_unavailable", True),
        (StoreUnavailableError("x"), 503, "store_unavailable", True),
        (ClosedError("x"), 503, "closing", True),
        (FormatError("x"), 500, "server_error", False),
        (HTTPException(404, "x"), 404, "not_found", False),
    ],
    ids=repr,
)
def test_the_table(error: Exception, status: int, code: str, waits: bool) -> None:
    answer = answer_to(error)
    problem = json.loads(bytes(answer.body))["error"]
    assert (answer.status_code, problem["code"], problem["message"]) == (status, code, "x")
    assert set(problem) == {"message", "type", "param", "code"}
    assert ("retry-after" in answer.headers) == waits
    assert ("www-authenticate" in answer.headers) == (status == 401)
    if code == "too_many_requests":
        assert answer.headers["retry-after"] == "7"


def test_every_error_of_ours_is_answered_on_purpose() -> None:
    # These come from commands, files and the client, never from a request.
    elsewhere = {
        *("BanditRouterError", "FormatError", "NewerFormatError", "TableError"),
        *("ServiceUnavailableError", "AccessError", "PeerError", "ReplayError"),
    }
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, BanditRouterError) and name not in elsewhere:
            assert problem_of(kind("x"))[0] != 500, name


def test_a_bug_tells_nothing() -> None:
    status, problem = problem_of(RuntimeError("secret"))
    assert (status, problem.code) == (500, "server_error")
    assert "secret" not in problem.message


def test_a_message_may_quote_half_a_character() -> None:
    assert b"\\ud83d" in bytes(answer_to(ConflictError("\ud83d")).body)


def test_what_the_library_says_of_an_argument_names_the_field() -> None:
    for error, param in (
        (ValueError("floor: expected a number from 0 to 1, got 2"), "floor"),
        (TypeError("thumb: expected true, false or null, got str"), "value"),
        (ValueError("messages[0].role: expected a text, got None"), "messages[0].role"),
        (UnknownModelError("no model 'x'"), "models"),
        (SettingsError("no setting 'colour'"), None),
    ):
        with pytest.raises(RefusedError) as caught, arguments(thumb="value", model="models"):
            raise error
        assert (problem_of(caught.value)[0], caught.value.param) == (422, param)
    with pytest.raises(ConflictError), arguments():
        raise ConflictError("x")
    assert named_in("tag a: expected a text") == "tag"
