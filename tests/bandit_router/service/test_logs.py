"""Log lines: what they say, in text and in JSON; and what they never say."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from bandit_router import Model
from bandit_router.config import Config, Service
from bandit_router.service.app import create_app
from bandit_router.service.logs import JsonLines, TextLines

SECRET = "SECRET"
MODELS = (Model("a"), Model("b"))
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What all loggers say, as JSON."""
    told, root = io.StringIO(), logging.getLogger()
    handler, before = logging.StreamHandler(told), root.level
    handler.setFormatter(JsonLines())
    handler.addFilter(lambda record: not record.name.startswith("httpx"))  # the test's own client
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in told.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(before)


async def play(inside: httpx.AsyncClient) -> list[httpx.Response]:
    """Requests that carry a secret wherever one can be."""
    key = {"authorization": f"Bearer br_{SECRET}", "idempotency-key": SECRET}
    chosen = await inside.post(
        "/v1/decisions", json={"prompt": SECRET, "user": SECRET}, headers={"x-request-id": "req-1"}
    )
    word = {"decision_id": chosen.json()["id"], "name": "comment", "value": SECRET, "source": SECRET}
    return [
        chosen,
        await inside.post("/v1/feedback", json=word, headers={"x-request-id": f"{SECRET}\n{SECRET} "}),
        await inside.get(f"/v1/decisions/{chosen.json()['id']}", headers={"x-request-id": "req-2"}),
        await inside.get(f"/nowhere/{SECRET}?query={SECRET}"),
        await inside.delete(f"/v1/users/{SECRET}"),
        await inside.post("/v1/decisions", json={"prompt": "x"}, headers=key),
        await inside.get(f"/v1/decisions/{SECRET}"),
    ]


def test_each_request_is_one_line_without_what_anybody_wrote(url: str, lines: Lines) -> None:
    async def probe() -> list[httpx.Response]:
        app = create_app(Config(log=url, models=MODELS), loopback=True)
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as inside,
        ):
            return await play(inside)

    answers = asyncio.run(probe())
    told = [line for line in lines() if line["logger"] == "bandit_router.access"]
    assert SECRET not in json.dumps(lines())
    assert [line["status"] for line in told] == [answer.status_code for answer in answers]
    assert [line["request_id"] for line in told] == [a.headers["x-request-id"] for a in answers]
    assert (told[0]["request_id"], told[2]["request_id"]) == ("req-1", "req-2")
    assert told[0]["decision_id"] == told[2]["decision_id"] == answers[0].json()["id"]
    assert told[0]["route"] == "/v1/decisions"
    assert told[4]["route"] == "/v1/users/{user:path}"
    assert told[3]["route"] == "other"
    assert (told[6]["status"], told[6].get("decision_id")) == (
        404,
        None,
    )  # what is no id may be anything
    assert 0 < told[0]["took_ms"] < 60_000


def test_a_client_that_names_its_request_badly_gets_another_name(url: str, lines: Lines) -> None:
    async def probe() -> list[str]:
        service = Service(access_log=False)
        app = create_app(Config(log=url, models=MODELS, service=service), loopback=True)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as inside:
            given = ("good-1", "bad id", "x" * 129, "")
            asked = [await inside.get("/healthz", headers={"x-request-id": name}) for name in given]
            return [answer.headers["x-request-id"] for answer in asked]

    good, *others = asyncio.run(probe())
    assert good == "good-1"
    assert all(len(name) == 32 for name in others)
    assert len(set(others)) == 3
    assert [line for line in lines() if line["logger"] == "bandit_router.access"] == []


def failure(form: logging.Formatter) -> str:
    """What a formatter makes of an exception that carries a secret."""
    told = io.StringIO()
    logger, handler = logging.getLogger("bandit_router.failing"), logging.StreamHandler(told)
    handler.setFormatter(form)
    logger.addHandler(handler)
    try:
        try:
            int(SECRET)
        except ValueError as error:
            raise KeyError(SECRET) from error
    except KeyError:
        logger.warning("router %s waits", "default", exc_info=True)
    logger.removeHandler(handler)
    return told.getvalue()


@pytest.mark.parametrize("form", [TextLines(), JsonLines()])
def test_an_exception_tells_where_it_was_not_what_it_carries(form: logging.Formatter) -> None:
    told = failure(form)
    assert SECRET not in told
    assert "router default waits" in told
    assert "KeyError" in told
    assert "ValueError" in told
    assert "in failure" in told


def test_a_json_line() -> None:
    line = json.loads(failure(JsonLines()))
    assert line["level"] == "warning"
    assert line["exception"] == "KeyError"
    assert line["time"].endswith("+00:00")
    assert line["process"] > 0
