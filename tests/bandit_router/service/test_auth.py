"""Keys, scopes and feedback tokens: who may do what, and that nobody else may."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, until

from bandit_router import EventLog
from bandit_router.config import Config
from bandit_router.log.keys import read_keys, read_secrets, revoke_key, rotate_secret
from bandit_router.log.writer import committed
from feedback.tokens import Token, read_token

Client = Any  # the one of conftest.py
Serve = Callable[..., Client]
Add = Callable[..., dict[str, str]]
NOBODY = "01a20f16-7f32-7828-9f86-86eef3cf6d8f"
WORD = {"decision_id": NOBODY, "name": "thumb", "value": True}
CALLS: dict[tuple[str, str], tuple[Any, set[str]]] = {
    ("POST", "/v1/decisions"): ({"prompt": "x"}, {"route", "admin"}),
    ("POST", "/v1/outcomes"): ({"decision_id": NOBODY}, {"route", "admin"}),
    ("GET", f"/v1/decisions/{NOBODY}"): (None, {"route", "admin"}),
    ("POST", "/v1/feedback"): (WORD, {"feedback", "admin"}),
    ("POST", "/v1/feedback/batch"): ({"items": []}, {"feedback", "admin", "judge"}),
    ("DELETE", f"/v1/feedback/{NOBODY}"): (None, {"feedback", "admin", "judge"}),
    ("DELETE", "/v1/users/nobody"): (None, {"admin"}),
    ("GET", "/v1/routers"): (None, {"route", "admin"}),
    ("GET", "/v1/routers/default"): (None, {"route", "admin"}),
    ("GET", "/v1/routers/default/beliefs"): (None, {"route", "admin"}),
    ("PUT", "/v1/routers/default"): ({}, {"admin"}),
    ("PUT", "/v1/routers/default/models/small"): ({}, {"admin"}),
    ("DELETE", "/v1/routers/default/models/nobody"): (None, {"admin"}),
    ("GET", "/openapi.json"): (None, {"route", "feedback", "admin", "judge"}),
    ("GET", "/docs"): (None, {"route", "feedback", "admin", "judge"}),
}


def ask(client: Client, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    given = {} if body is None else {"json": body}
    answer: httpx.Response = client.request(method, path, headers=headers, **given)
    return answer


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def test_each_scope_may_what_is_its_own(serve: Serve, config: Config, add: Add) -> None:
    client, keys = serve(config), {s: add(s) for s in ("route", "feedback", "admin", "judge")}
    for (method, path), (body, scopes) in CALLS.items():
        for scope, key in keys.items():
            status = ask(client, method, path, body, key).status_code
            assert (status == 403) == (scope not in scopes), (method, path, scope, status)
            assert status in (200, 202, 403, 404)


def test_nothing_is_reachable_without_a_key_off_loopback(serve: Serve, config: Config) -> None:
    client = serve(config, loopback=False)
    paths = {
        (method.upper(), path) for path, item in client.app.openapi()["paths"].items() for method in item
    }
    paths |= {("GET", path) for path in ("/openapi.json", "/docs", "/redoc", "/nothing", "/metrics")}
    for method, path in paths - {("GET", "/healthz"), ("GET", "/readyz")}:
        answer = client.request(method, path, json={})
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "missing_key"
    assert client.get("/healthz").status_code == 200
    assert set(client.get("/readyz").json()) == {"status"}


def test_no_key_is_needed_only_on_loopback_while_there_is_none(
    serve: Serve, config: Config, add: Add
) -> None:
    client = serve(config)
    assert client.get("/v1/routers").status_code == 200
    for headers in (
        {"X-Forwarded-For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
        {"Host": "evil.example"},
    ):
        assert client.get("/v1/routers", headers=headers).status_code == 401
    assert client.get("/v1/routers", headers={"Host": "localhost:8080"}).status_code == 200
    assert serve(config, peer="10.0.0.1").get("/v1/routers").status_code == 401
    add("route")
    time.sleep(1.1)  # a worker's sight may be a second old
    assert client.get("/v1/routers").status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic eDp5",
        "br_x",
        "Bearer br_x",
        "Bearer sk-x",
        "Bearer brt1.a.b",
        "Bearer é",
    ],
)
def test_what_opens_nothing(client: Client, header: str) -> None:
    answer = client.get("/v1/routers", headers={"Authorization": header.encode()})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


def test_a_key_ends_and_can_be_revoked(serve: Serve, config: Config, add: Add) -> None:
    client, key = serve(config), add("admin")
    assert client.get("/v1/routers", headers=key).status_code == 200
    old = client.get("/v1/routers", headers=add("admin", expires=time.time() - 1))
    assert (old.status_code, old.json()["error"]["code"]) == (401, "expired")
    with EventLog.open(config.log) as log:
        first = log.read(read_keys)[0]
        assert first.hash not in str(key)
        committed(log.write(lambda c: revoke_key(c, first.id, time.time())))
    time.sleep(1.1)
    assert client.get("/v1/routers", headers=key).status_code == 401
    assert client.get("/v1/routers").status_code == 401  # revoking the last key opens nothing


def test_a_token_speaks_about_its_own_decision_only(client: Client, decide: Any) -> None:
    mine, other = decide(user="ann"), decide(user="bob")
    token = bearer(mine["feedback_token"])

    def say(**change: Any) -> httpx.Response:
        word = {"decision_id": mine["id"], "name": "thumb", "value": True} | change
        answer: httpx.Response = client.post("/v1/feedback", json=word, headers=token)
        return answer

    heard = say()
    assert heard.status_code == 200
    assert say(name="rating", value=0.5).status_code == 200
    assert say(name="comment", value="fine").status_code == 200
    for change, param in (
        ({"decision_id": other["id"]}, "decision_id"),
        ({"name": "judge", "value": 1.0}, "name"),
        ({"name": "other", "value": 1.0}, "name"),
        ({"source": "ann"}, "source"),
        ({"source": "bob"}, "source"),
    ):
        refused = say(**change)
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, param), change
    talk = {"conversation": "c", "name": "thumb", "value": True}
    assert client.post("/v1/feedback", json=talk, headers=token).status_code == 403
    story = client.get(f"/v1/decisions/{mine['id']}").json()
    assert {word["source"] for word in story["feedback"]} == {"ann"}
    assert client.get(f"/v1/decisions/{other['id']}").json()["feedback"] == []

    theirs = {"decision_id": mine["id"], "name": "rating", "value": 0.1, "source": "critic"}
    critic = client.post("/v1/feedback", json=theirs).json()["id"]
    about_other = {"decision_id": other["id"], "name": "thumb", "value": True, "source": "ann"}
    elsewhere = client.post("/v1/feedback", json=about_other).json()["id"]
    for word in (critic, elsewhere):
        assert client.delete(f"/v1/feedback/{word}", headers=token).status_code == 403
    assert client.delete(f"/v1/feedback/{heard.json()['id']}", headers=token).status_code == 200


def test_a_token_opens_nothing_else(client: Client, decide: Any) -> None:
    mine, other = decide(), decide()
    token = bearer(mine["feedback_token"])
    for method, path in set(CALLS) - {
        ("POST", "/v1/feedback/batch"),
        ("DELETE", f"/v1/feedback/{NOBODY}"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    }:
        answer = ask(client, method, path, CALLS[method, path][0], token)
        assert answer.status_code == 403, (method, path)
    items = [{"decision_id": of["id"], "name": "thumb", "value": True} for of in (other, mine)]
    results = client.post("/v1/feedback/batch", json={"items": items}, headers=token).json()["results"]
    assert [result["status"] for result in results] == [403, 200]
    story = client.get(f"/v1/decisions/{mine['id']}").json()
    assert [word["source"] for word in story["feedback"]] == [f"anonymous:{mine['id']}"]


def test_a_token_may_not_speak_without_end(client: Client, decide: Any) -> None:
    mine = decide()
    word = {"decision_id": mine["id"], "name": "thumb", "value": True}
    token = bearer(mine["feedback_token"])
    answers = [client.post("/v1/feedback", json=word, headers=token) for _ in range(45)]
    assert {answer.status_code for answer in answers[:30]} == {200}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused  # not all the others: one more comes back in two seconds
    assert {answer.headers["retry-after"] for answer in refused} <= {"1", "2"}


def test_tokens_end_and_secrets_rotate(client: Client, decide: Any, config: Config) -> None:
    mine = decide()
    word = {"decision_id": mine["id"], "name": "thumb", "value": True}

    def status(token: str) -> int:
        return int(client.post("/v1/feedback", json=word, headers=bearer(token)).status_code)

    with EventLog.open(config.log) as log:
        (secret,) = log.read(lambda c: read_secrets(c, time.time()))
        ended = Token(decision_id=mine["id"], ends=int(time.time()) - 1).sign(secret)
        assert (status(ended), status(mine["feedback_token"])) == (401, 200)
        committed(log.write(lambda c: rotate_secret(c, time.time(), overlap_s=60.0)))
        signing = log.read(lambda c: read_secrets(c, time.time()))[0]
        fresh = Token(decision_id=mine["id"], ends=2**40).sign(signing)
        assert (status(fresh), status(mine["feedback_token"])) == (200, 200)
        committed(log.write(lambda c: rotate_secret(c, time.time(), overlap_s=0.0)))
        time.sleep(1.1)
        assert (status(fresh), status(decide()["feedback_token"])) == (401, 403)


def test_all_workers_heed_a_rotated_secret_within_a_second(tmp_path: Path, sqlite_url: str) -> None:
    serving = Serving(tmp_path, "--workers", "2", "--log", sqlite_url)

    def rotate(overlap_s: float) -> bytes:
        with EventLog.open(sqlite_url) as log:
            committed(log.write(lambda c: rotate_secret(c, time.time(), overlap_s=overlap_s)))
            return log.read(lambda c: read_secrets(c, time.time()))[0]

    def say(token: str) -> int:
        word = {"decision_id": read_token(token, secrets, now=0.0).decision_id}
        word |= {"name": "thumb", "value": True}
        return serving.client.post("/v1/feedback", json=word, headers=bearer(token)).status_code

    def tokens() -> list[str]:
        """Of both workers, as likely as not."""
        return [str(serving.choose()["feedback_token"]) for _ in range(8)]

    try:
        until(lambda: len(serving.workers()) == 2, "two workers")
        with EventLog.open(sqlite_url) as log:
            secrets = list(log.read(lambda c: read_secrets(c, time.time())))
        old = tokens()
        secrets.append(rotate(60.0))
        time.sleep(1.1)
        newer = tokens()
        assert all(read_token(token, secrets[-1:], now=0.0) for token in newer)
        assert {say(token) for token in old} == {200}  # for as long as they overlap
        secrets.append(rotate(0.3))
        time.sleep(1.4)
        assert {say(token) for token in old + newer} == {401}
        assert {say(token) for token in tokens()} == {200}
    finally:
        serving.end()
