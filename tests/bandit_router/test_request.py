"""One request, checked at the door."""

from __future__ import annotations

import math

import pytest

from bandit_router.prompt import Prompt
from bandit_router.request import Request
from bandit_router.values import NAME_LIMIT, TAG_LIMIT


def request(**arguments: object) -> Request:
    return Request(prompt=Prompt(text="Hi"), **arguments)  # type: ignore[arg-type]  # that is what is tested


def test_a_full_request() -> None:
    full = request(
        models=frozenset({"small"}),
        max_cost_usd=0.0,
        max_tokens=1,
        user="user:42",
        conversation="c",
        key="k",
        tags={f"tag-{i}": "value" for i in range(TAG_LIMIT)},
    )
    assert full.models == {"small"}
    assert request().tags == {}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"models": frozenset()}, ValueError, "models: expected at least one name, got none"),
        (
            {"preference": {"price_weight": 1.0}},
            TypeError,
            "preference: expected a Preference, got dict",
        ),
        ({"max_cost_usd": -0.1}, ValueError, "max_cost_usd"),
        ({"max_cost_usd": math.nan}, ValueError, "max_cost_usd"),
        ({"max_cost_usd": True}, TypeError, "max_cost_usd"),
        ({"max_cost_usd": "1"}, TypeError, "max_cost_usd"),
        ({"max_tokens": 0}, ValueError, "max_tokens: expected at least 1, got 0"),
        ({"max_tokens": -1}, ValueError, "max_tokens"),
        ({"max_tokens": 1.0}, TypeError, "max_tokens"),
        ({"max_tokens": True}, TypeError, "max_tokens"),
        ({"tags": [("a", "b")]}, TypeError, "tags"),
        ({"tags": None}, TypeError, "tags"),
        ({"tags": {str(i): "x" for i in range(TAG_LIMIT + 1)}}, TypeError, "at most 64"),
        ({"tags": {"": "x"}}, ValueError, "tag"),
        ({"tags": {5: "x"}}, TypeError, "tag"),
        ({"tags": {"a": 5}}, TypeError, "tag a"),
        ({"tags": {"a": "x" * (NAME_LIMIT + 1)}}, ValueError, "tag a"),
    ],
)
def test_bad_requests(arguments: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        request(**arguments)


@pytest.mark.parametrize("name", ["user", "conversation", "key"])
@pytest.mark.parametrize(
    ("bad", "kind"),
    [("", ValueError), ("a\nb", ValueError), ("x" * 256, ValueError), (5, TypeError), (True, TypeError)],
)
def test_bad_names(name: str, bad: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"^{name}: "):
        request(**{name: bad})
