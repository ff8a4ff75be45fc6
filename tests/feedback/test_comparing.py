"""The door of comparisons in a host's own app, over an embedded router."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from bandit_router import Router
from feedback.api import Caller
from feedback.comparing import comparison_router
from feedback.tokens import Token


def post(
    router: Router, body: dict[str, Any], caller: Caller | None = None, **headers: str
) -> httpx.Response:
    """Post a comparison to an app whose callers are all the same."""
    app = FastAPI()

    async def who() -> Caller:
        return caller or Caller(scopes=frozenset({"feedback"}))

    app.include_router(comparison_router(router, caller=who))

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            return await client.post("/v1/comparisons", json=body, headers=headers)

    return asyncio.run(run())


def pair(router: Router) -> dict[str, Any]:
    winner, loser = (router.choose("x", models=[m], user="user:1").id for m in ("large", "small"))
    return {"winner": winner, "loser": loser}


def test_both_words_are_answered(router: Router) -> None:
    body = pair(router)
    answer = post(router, body, **{"Idempotency-Key": "k"})
    assert answer.status_code == 200
    said = answer.json()
    assert said["winner"]["decision_id"] == body["winner"]
    assert said["winner"]["value"] > said["loser"]["value"]
    assert said["winner"]["reward"]["weight"] == 0.5
    again = post(router, body | {"key": "k"}).json()
    assert again["winner"]["duplicate"]
    assert post(router, body | {"tie": True, "key": "k"}).status_code == 409


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"winner": None}, 422, "winner"),
        ({"loser": "nobody"}, 404, None),
        ({"tie": "maybe"}, 422, "tie"),
        ({"colour": "red"}, 422, "colour"),
        ({"at": "soon"}, 422, "at"),
    ],
)
def test_what_is_wrong_is_named(
    router: Router, change: dict[str, Any], status: int, param: str | None
) -> None:
    answer = post(router, pair(router) | change)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_the_same_decision_twice_and_two_keys_are_refused(router: Router) -> None:
    body = pair(router)
    twice = post(router, body | {"loser": body["winner"]})
    assert (twice.status_code, twice.json()["error"]["param"]) == (422, "loser")
    keys = post(router, body | {"key": "a"}, **{"Idempotency-Key": "b"})
    assert (keys.status_code, keys.json()["error"]["param"]) == (422, "key")


def test_who_may_compare(router: Router) -> None:
    body = pair(router)
    token = Token(decision_id=body["winner"], user="user:1", ends=2_000_000_000)
    for caller in (
        Caller(token=token),
        Caller(scopes=frozenset({"judge"})),
        Caller(scopes=frozenset({"route"})),
        Caller(scopes=frozenset({"feedback"}), source="user:1"),
    ):
        assert post(router, body | {"source": "user:2"}, caller).status_code == 403
    own = post(router, body, Caller(scopes=frozenset({"feedback"}), source="user:3"))
    assert own.status_code == 200
    assert {word.feedback.source for word in router.decision(body["loser"]).feedback} == {"user:3"}
