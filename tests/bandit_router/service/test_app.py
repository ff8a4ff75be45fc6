"""The service as a whole: feedback in every state of its log and store, other origins, and its end."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bandit_router import EventLog, Router
from bandit_router.config import Config, Service
from bandit_router.events import new_id
from bandit_router.service.app import Ended, create_app
from simulations.chaos.servers import PostgresServer, RedisServer

Client = Any  # the one of conftest.py
Serve = Callable[..., Client]
Decide = Callable[..., dict[str, Any]]


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def thumb(of: str, **more: Any) -> dict[str, Any]:
    return {"decision_id": of, "name": "thumb", "value": True} | more


def test_feedback_is_applied_once(client: Client, decide: Decide) -> None:
    of = decide(user="ann")["id"]
    first = client.post("/v1/feedback", json=thumb(of))
    again = client.post("/v1/feedback", json=thumb(of))
    assert (first.status_code, again.status_code) == (200, 200)
    assert set(first.json()) >= {
        *("id", "decision_id", "name", "value", "duplicate", "applied", "reward")
    }
    assert first.json()["reward"] == {"value": 1.0, "weight": 1.0}
    assert again.json() == first.json() | {"duplicate": True}
    revoked = client.post("/v1/feedback", json=thumb(of, value=None)).json()
    assert (revoked["value"], revoked["reward"]) == (None, None)


def test_a_key_may_come_in_the_header(client: Client, decide: Decide) -> None:
    of, key = decide()["id"], {"Idempotency-Key": "k"}
    first = client.post("/v1/feedback", json=thumb(of), headers=key).json()
    again = client.post("/v1/feedback", json=thumb(of, key="k")).json()
    assert again == first | {"duplicate": True}
    other = client.post("/v1/feedback", json=thumb(of, value=False), headers=key)
    assert refused(other) == (409, "conflict")
    both = client.post("/v1/feedback", json=thumb(of, key="j"), headers=key)
    assert (both.status_code, both.json()["error"]["param"]) == (422, "key")


def test_feedback_about_a_conversation(client: Client, decide: Decide) -> None:
    client.put("/v1/routers/new", json={})
    client.put("/v1/routers/new/models/m", json={})
    for router, talk in (("default", "one"), ("new", "two")):
        first = decide(conversation=talk, router=router)
        decide(conversation=talk, router=router)
        heard = client.post("/v1/feedback", json={"conversation": talk, "name": "thumb", "value": True})
        assert (heard.status_code, heard.json()["decision_id"]) == (200, first["id"])
    nobody = client.post("/v1/feedback", json={"conversation": "no", "name": "thumb", "value": True})
    assert refused(nobody) == (404, "unknown_decision")


def test_a_decision_that_may_be_on_its_way(client: Client) -> None:
    early = client.post("/v1/feedback", json=thumb(new_id(), source="ann"))
    assert early.status_code == 202
    assert (early.json()["applied"], early.json()["reward"]) == (False, None)
    late = client.post("/v1/feedback", json=thumb(new_id(time.time() - 1_000)))
    assert refused(late) == (404, "unknown_decision")
    assert client.delete(f"/v1/feedback/{early.json()['id']}").json()["retracted"] is True
    assert refused(client.delete(f"/v1/feedback/{new_id()}")) == (404, "unknown_feedback")


def test_many_words_over_many_routers(client: Client, decide: Decide) -> None:
    client.put("/v1/routers/new", json={})
    client.put("/v1/routers/new/models/m", json={})
    ids = [decide(router=router)["id"] for router in ("default", "new") * 10]
    items = [thumb(of, value=value, source="u") for value in (False, True) for of in ids]
    answer = client.post("/v1/feedback/batch", json={"items": items})
    assert {result["status"] for result in answer.json()["results"]} == {200}
    for of in ids:
        assert client.get(f"/v1/decisions/{of}").json()["reward"]["value"] == 1.0


def test_too_large(client: Client) -> None:
    huge = client.post("/v1/decisions", json={"prompt": "x" * 100_000})
    assert refused(huge) == (413, "too_large")


def test_without_its_log_nothing_is_acknowledged(serve: Serve, config: Config) -> None:
    client = serve(config)
    of = client.post("/v1/decisions", json={"prompt": "x"}).json()["id"]
    with EventLog.open(config.log) as log:
        with log.engine.execution_options(writes=True).begin() as connection:
            for table in ("decisions", "feedback", "texts"):
                connection.execute(sa.text(f"ALTER TABLE {table} RENAME TO {table}_away"))
        for method, path, body in (
            ("POST", "/v1/decisions", {"prompt": "x"}),
            ("POST", "/v1/outcomes", {"decision_id": of}),
            ("POST", "/v1/feedback", thumb(of)),
            ("GET", f"/v1/decisions/{of}", None),
            ("DELETE", f"/v1/feedback/{of}", None),
            ("DELETE", "/v1/users/ann", None),
        ):
            answer = client.request(method, path, json=body) if body else client.request(method, path)
            assert refused(answer) == (503, "log_unavailable"), path
            assert int(answer.headers["retry-after"]) >= 1
        items = client.post("/v1/feedback/batch", json={"items": [thumb(of)]})
        assert [item["status"] for item in items.json()["results"]] == [503]
        with log.engine.execution_options(writes=True).begin() as connection:
            for table in ("decisions", "feedback", "texts"):
                connection.execute(sa.text(f"ALTER TABLE {table}_away RENAME TO {table}"))
    assert client.post("/v1/feedback", json=thumb(of)).status_code == 200


def test_without_its_store_feedback_is_kept_and_applied_later(
    serve: Serve, sqlite_url: str, own_redis: RedisServer
) -> None:
    models = Config().models or ()
    client = serve(Config(log=sqlite_url, store=own_redis.url, models=models))
    client.put("/v1/routers/default/models/m", json={})
    of = [client.post("/v1/decisions", json={"prompt": "x"}).json()["id"] for _ in range(2)]
    assert client.post("/v1/feedback", json=thumb(of[0])).status_code == 200
    own_redis.stop()
    kept = client.post("/v1/feedback", json=thumb(of[1]))
    assert (kept.status_code, kept.json()["applied"]) == (202, False)
    assert client.post("/v1/decisions", json={"prompt": "x"}).status_code == 200
    own_redis.start()
    for _ in range(100):
        story = client.get(f"/v1/decisions/{of[1]}").json()
        if story["feedback"][0]["applied"]:
            return
        time.sleep(0.1)
    pytest.fail("it was never applied")


def test_without_its_server_decisions_go_on_and_all_are_in_the_log_once(
    serve: Serve, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    with EventLog.open(own_postgres.url, migrate=True):
        pass
    client = serve(Config(log=own_postgres.url, journal=str(tmp_path / "journal"), log_timeout_s=2.0))
    client.put("/v1/routers/default/models/m", json={})
    ids = [client.post("/v1/decisions", json={"prompt": "x"}).json()["id"]]
    own_postgres.stop()
    for key in ("a", "b", "a"):
        answer = client.post("/v1/decisions", json={"prompt": "x"}, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["reason"]) == (200, "degraded")
        assert answer.headers["x-router-reason"] == "degraded"
        ids.append(answer.json()["id"])
    assert (ids[3], answer.json()["duplicate"]) == (ids[1], True)
    for word in (thumb(ids[0]), thumb(ids[1])):
        answer = client.post("/v1/feedback", json=word)
        assert refused(answer) == (503, "log_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    own_postgres.start()
    for _ in range(150):
        if client.post("/v1/feedback", json=thumb(ids[2])).status_code == 200:
            break
        time.sleep(0.2)
    heard = [client.post("/v1/feedback", json=thumb(of)).json()["duplicate"] for of in ids]
    assert heard == [False, False, True, True]
    stories = [client.get(f"/v1/decisions/{of}").json() for of in ids]
    assert [story["reason"] == "degraded" for story in stories] == [False, True, True, True]
    assert {len(story["feedback"]) for story in stories} == {1}


def test_pages_of_a_known_origin_may_post_feedback(client: Client, decide: Decide) -> None:
    known, other = {"Origin": "https://chat.example"}, {"Origin": "https://evil.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = client.request("OPTIONS", "/v1/feedback", headers=known | asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    assert client.request("OPTIONS", "/v1/feedback", headers=other | asks).status_code == 400
    assert client.request("OPTIONS", "/v1/decisions", headers=known | asks).status_code == 405
    heard = client.post("/v1/feedback", json=thumb(decide()["id"]), headers=known)
    assert heard.headers["access-control-allow-origin"] == "https://chat.example"
    wrong = client.post("/v1/feedback", json={}, headers=known | {"Authorization": "Bearer x"})
    assert (wrong.status_code, "access-control-allow-origin" in wrong.headers) == (401, True)


def test_the_log_keeps_what_was_acknowledged_before_the_end(serve: Serve, config: Config) -> None:
    client = serve(config)
    ids = [client.post("/v1/decisions", json={"prompt": "x"}).json()["id"] for _ in range(3)]
    client.post("/v1/feedback", json=thumb(ids[0]))
    client.wait(client.app.state.desk.aclose())
    assert client.post("/v1/decisions", json={"prompt": "x"}).status_code == 503
    with Router.open(config.log, create=False) as router:
        assert sum(belief["n"] for belief in router.beliefs().values()) == 1.0


def test_a_request_that_is_given_up_at_the_end_hears_503() -> None:
    told: list[Any] = []

    async def waits(*_: Any) -> None:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        told.append(message)

    async def play() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/decisions", "headers": []}
        request = asyncio.create_task(Ended(waits)(scope, waits, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        request.cancel()
        await request

    asyncio.run(play())
    assert told[0]["status"] == 503
    assert (b"retry-after", b"1") in told[0]["headers"]
    assert b'"closing"' in told[1]["body"]


def test_the_schema_documents_every_error(config: Config) -> None:
    schema = create_app(config).openapi()
    error = {"$ref": "#/components/schemas/ErrorAnswer"}
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            if path in ("/healthz", "/readyz"):
                continue
            assert operation["security"], (method, path)
            assert {"401", "403"} <= operation["responses"].keys(), (method, path)
            for status, answer in operation["responses"].items():
                if status[0] in "45":
                    assert answer["content"]["application/json"]["schema"] == error
    assert "HTTPValidationError" not in schema["components"]["schemas"]


BODIES = (
    b"[" * 50_000,
    b'{"prompt": ' + b'{"a": ' * 5_000 + b"1" + b"}" * 5_001,
    b'{"prompt": "x", "max_tokens": ' + b"9" * 50_000 + b"}",
    b'{"prompt": "x", "max_cost_usd": 1e999}',
    b'{"prompt": "x", "max_cost_usd": -Infinity}',
    b'{"prompt": "x", "prompt": "y"}',
    b'{"prompt": "\xff\xfe"}',
    b'\xef\xbb\xbf{"prompt": "x"}',
    gzip.compress(b'{"prompt": "x"}'),
    b"",
)


def test_bodies_that_are_none(serve: Serve, sqlite_url: str) -> None:
    client = serve(Config(log=sqlite_url))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    for body in BODIES:
        answer = client.post("/v1/decisions", content=body, headers=headers)
        assert refused(answer) == (422, "invalid_value"), body[:60]
        assert len(answer.content) < 1_000


def test_pages_of_elsewhere_reach_nothing_else(serve: Serve, sqlite_url: str) -> None:
    opened = Service(cors=("https://chat.example",))
    client, closed = serve(Config(log=sqlite_url, service=opened)), serve(Config(log=sqlite_url))
    paths = [
        "/v1/decisions",
        "/v1/outcomes",
        "/v1/routers",
        "/v1/users/ann",
        "/metrics",
        "/openapi.json",
    ]
    for method in ("POST", "GET", "PUT", "DELETE"):
        page = {"Origin": "https://chat.example", "Access-Control-Request-Method": method}
        for asked, path in [(client, path) for path in paths] + [(closed, "/v1/feedback")]:
            preflight = asked.request("OPTIONS", path, headers=page)
            plain = asked.request(method, path, json={}, headers={"Origin": page["Origin"]})
            for answer in (preflight, plain):
                assert not any(name.startswith("access-control-") for name in answer.headers), path
        feedback = client.request("OPTIONS", "/v1/feedback", headers=page)
        assert (feedback.status_code == 200) == (method in ("POST", "DELETE"))
        assert "access-control-allow-credentials" not in feedback.headers
