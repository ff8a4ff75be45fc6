"""The doors of feedback in a host's own app, over an embedded router."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse

from bandit_router import Router
from feedback.api import BATCH_LIMIT, Caller, feedback_router

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "host.py"
Talk = Callable[[httpx.AsyncClient], Awaitable[None]]


def talk(app: FastAPI, conversation: Talk) -> None:
    """Let a client talk with an app."""

    async def run() -> None:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
                await conversation(client)

    asyncio.run(run())


def host(router: Router, **options: Any) -> FastAPI:
    """An app that has handlers of its own."""
    app = FastAPI()

    @app.exception_handler(RequestValidationError)
    async def own(_: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("the host's own words", 400)

    @app.post("/own")
    async def mine(number: int) -> int:
        return number

    app.include_router(feedback_router(router, **options))
    return app


def test_the_example_runs(sqlite_url: str) -> None:
    spec = importlib.util.spec_from_file_location("host", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    async def conversation(client: httpx.AsyncClient) -> None:
        ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
        answer = (await client.post("/chat", json={"text": "Hello"}, headers=ann)).json()
        thumb = {"decision_id": answer["decision_id"], "name": "thumb", "value": True}
        heard = await client.post("/v1/feedback", json=thumb, headers=ann)
        assert heard.status_code == 200
        assert heard.json()["reward"]["value"] == 1.0
        word = f"/v1/feedback/{heard.json()['id']}"
        assert (await client.delete(word, headers=bob)).status_code == 403
        assert (
            await client.post("/v1/feedback", json=thumb | {"source": "ann"}, headers=bob)
        ).status_code == 403
        assert (
            await client.post("/v1/feedback", json=thumb | {"name": "judge"}, headers=ann)
        ).status_code == 403
        assert (await client.delete(word, headers=ann)).json() == {
            "id": heard.json()["id"],
            "retracted": True,
        }

    talk(example.create_host(sqlite_url), conversation)


def test_the_hosts_own_handlers_are_left_alone(router: Router) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        own = await client.post("/own", params={"number": "x"})
        assert (own.status_code, own.text) == (400, "the host's own words")
        ours = await client.post("/v1/feedback", json={"name": "thumb", "value": True})
        assert ours.status_code == 422
        assert ours.json()["error"]["param"] == "decision_id"
        unknown = {"decision_id": "nobody", "name": "thumb", "value": True}
        assert (await client.post("/v1/feedback", json=unknown)).status_code == 404
        assert (await client.delete("/v1/feedback/nobody")).status_code == 404

    talk(host(router), conversation)


def test_a_batch_keeps_its_order_and_fails_item_by_item(router: Router) -> None:
    decisions = [router.choose("x").id for _ in range(5)]

    async def conversation(client: httpx.AsyncClient) -> None:
        items: list[Any] = [
            {"decision_id": of, "name": "rating", "value": value / 100, "source": "u"}
            for value in range(101)
            for of in decisions
        ]
        items[10:10] = [7, {"decision_id": "nobody", "name": "thumb", "value": True}, {"name": "thumb"}]
        answer = await client.post("/v1/feedback/batch", json={"items": items})
        results = answer.json()["results"]
        assert answer.status_code == 200
        assert [result["status"] for result in results[8:14]] == [200, 200, 422, 404, 422, 200]
        assert results[12]["error"]["param"] == "value"
        assert [result.get("value") for result in results[13:]] == [item["value"] for item in items[13:]]

    talk(host(router), conversation)
    for decision in decisions:
        reward = router.decision(decision).reward
        assert reward is not None
        assert reward.value == 1.0  # the last word of the same source


def test_a_batch_has_a_limit(router: Router) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/feedback/batch", json={"items": [{}] * (BATCH_LIMIT + 1)})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "items")
        assert (await client.post("/v1/feedback/batch", json={"items": []})).json() == {"results": []}

    talk(host(router), conversation)


def test_the_host_says_who_may_judge(router: Router) -> None:
    async def judge() -> Caller:
        return Caller(scopes=frozenset({"judge"}))

    async def conversation(client: httpx.AsyncClient) -> None:
        word = {"decision_id": router.choose("x").id, "name": "judge", "value": 0.8, "source": "judge:m"}
        said = await client.post("/v1/feedback", json=word)
        assert said.status_code == 200
        assert (await client.post("/v1/feedback", json=word | {"name": "rating"})).status_code == 403
        assert (await client.delete(f"/v1/feedback/{said.json()['id']}")).status_code == 200

    talk(host(router, caller=judge), conversation)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"value": 3}, "value"),
        ({"value": "yes"}, "value"),
        ({"value": {}}, "value"),
        ({"value": [True]}, "value"),
        ({"name": "colour"}, "name"),
        ({"name": "rating", "value": 1.5}, "value"),
        ({"at": "yesterday"}, "at"),
        ({"at": "2026-01-01T00:00:00"}, "at"),
        ({"at": True}, "at"),
        ({"at": 1e12}, "at"),
        ({"comment": "x" * 20_001}, "comment"),
        ({"source": ""}, "source"),
        ({"conversation": "c"}, "decision_id"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_the_malformed_field_is_named(router: Router, change: Any, param: str) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        word = {"decision_id": router.choose("x").id, "name": "thumb", "value": True} | change
        answer = await client.post("/v1/feedback", json=word)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)

    talk(host(router), conversation)
