"""Limits over HTTP: per key, per user and per token, counted for all workers, and while Redis is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from bandit_router import Model
from bandit_router.config import Config, Limits
from bandit_router.service import buckets
from simulations.chaos.servers import RedisServer

Client = Any  # the one of conftest.py
Serve = Callable[..., Client]
Add = Callable[..., dict[str, str]]
SLOW = 0.01  # a minute: nothing comes back while a test runs


@pytest.fixture(autouse=True)
def _on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets.SharedBuckets.__init__, "__kwdefaults__", {"patience_s": 5.0})


@pytest.fixture
def models() -> tuple[Model, ...]:
    return (Model("small"), Model("large"))


def decide(client: Client, headers: dict[str, str], **body: Any) -> httpx.Response:
    answer: httpx.Response = client.post("/v1/decisions", json={"prompt": "x"} | body, headers=headers)
    return answer


def refused(answer: httpx.Response) -> bool:
    """Whether it was one too many, and is said as OpenAI says it."""
    if answer.status_code != 429:
        assert answer.status_code in (200, 202), answer.text
        return False
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_requests")
    assert answer.headers["retry-after"].isdigit()
    return int(answer.headers["retry-after"]) >= 1


def test_a_key_has_its_allowance_over_all_workers(serve: Serve, config: Config, add: Add) -> None:
    config = replace(config, limits=Limits(key_per_minute=SLOW, key_burst=4))
    workers = [serve(config) for _ in range(1 + config.store.startswith("redis"))]
    one, other = add("route", "feedback"), add("route", "feedback")
    answers = [decide(workers[i % len(workers)], one) for i in range(6)]
    assert [refused(answer) for answer in answers] == [False] * 4 + [True] * 2
    assert not refused(decide(workers[0], other))  # another key has its own
    word = {"decision_id": answers[0].json()["id"], "name": "thumb", "value": True}
    said = [workers[0].post("/v1/feedback", json=word, headers=one) for _ in range(5)]
    assert [refused(answer) for answer in said] == [False] * 4 + [True]  # words are counted apart
    seen = [workers[0].get("/v1/routers", headers=one) for _ in range(5)]
    assert [refused(answer) for answer in seen] == [False] * 4 + [True]  # and so is all else
    assert workers[0].get("/readyz", headers=one).status_code == 200
    told = workers[-1].get("/metrics", headers=other).text
    assert 'bandit_router_limited_total{kind="decisions",whose="key"} ' in told


def test_a_user_does_not_use_up_what_others_have(serve: Serve, config: Config, add: Add) -> None:
    limits = Limits(key_per_minute=SLOW, key_burst=5, user_per_minute=SLOW, user_burst=2)
    client = serve(replace(config, limits=limits))
    one, other = add("route", "feedback"), add("route", "feedback")
    answers = [decide(client, one, user="ann") for _ in range(10)]
    assert [refused(answer) for answer in answers] == [False] * 2 + [True] * 8
    assert "this user" in answers[-1].json()["error"]["message"]
    assert [refused(decide(client, one, user="bob")) for _ in range(3)] == [False, False, True]
    assert [refused(decide(client, one)) for _ in range(2)] == [False, True]  # now the key's is used up
    assert not refused(decide(client, other, user="ann"))  # another product's Ann


def test_each_item_of_a_batch_counts(serve: Serve, config: Config, add: Add) -> None:
    limits = Limits(key_per_minute=SLOW, key_burst=30, user_per_minute=SLOW, user_burst=4)
    client, key = serve(replace(config, limits=limits)), add("route", "feedback")
    of = decide(client, key).json()["id"]
    words = [
        {"decision_id": of, "name": "rating", "value": 0.5, "source": f"u{i // 10}"}
        for i in range(1_000)
    ]
    answer = client.post("/v1/feedback/batch", json={"items": words}, headers=key)
    assert answer.status_code == 200
    results = answer.json()["results"]
    heard = [i for i, result in enumerate(results) if result["status"] in (200, 202)]
    assert heard == [i for i in range(80) if i % 10 < 4][:30]
    assert {result["status"] for result in results} <= {200, 202, 429}
    assert results[999]["error"]["code"] == "too_many_requests"
    malformed = {"items": [{"decision_id": of}] * 3}
    assert client.post("/v1/feedback/batch", json=malformed, headers=key).status_code == 200


def test_the_wait_that_is_told_is_true(serve: Serve, config: Config, add: Add) -> None:
    client, key = serve(replace(config, limits=Limits(key_per_minute=40, key_burst=1))), add("route")
    assert not refused(decide(client, key))
    answer = decide(client, key)
    assert refused(answer)
    time.sleep(int(answer.headers["retry-after"]))
    assert not refused(decide(client, key))


def test_a_token_may_not_speak_without_end_at_any_worker(
    serve: Serve, sqlite_url: str, redis_url: str, models: Any
) -> None:
    config = Config(log=sqlite_url, store=redis_url, models=models)
    workers = [serve(config), serve(config)]
    made = decide(workers[0], {}, user="ann").json()
    word = {"decision_id": made["id"], "name": "thumb", "value": True}
    token = {"Authorization": f"Bearer {made['feedback_token']}"}
    answers = [workers[i % 2].post("/v1/feedback", json=word, headers=token) for i in range(60)]
    told = [refused(answer) for answer in answers]
    assert told[:30] == [False] * 30
    assert any(told)  # not all the others: one more comes back in two seconds
    said = answers[0].json()["id"]
    undone = [workers[i % 2].delete(f"/v1/feedback/{said}", headers=token) for i in range(10)]
    assert any(refused(answer) for answer in undone)


@pytest.mark.parametrize("when_away", ["open", "closed"])
def test_while_redis_is_away(
    serve: Serve, sqlite_url: str, own_redis: RedisServer, models: Any, when_away: Any
) -> None:
    limits = Limits(key_per_minute=SLOW, key_burst=3, when_away=when_away)
    client = serve(Config(log=sqlite_url, store=own_redis.url, models=models, limits=limits))
    assert not refused(decide(client, {}))
    own_redis.stop()
    answers = [decide(client, {}) for _ in range(5)]
    if when_away == "open":
        assert [refused(answer) for answer in answers] == [False] * 3 + [True] * 2
    else:
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].json()["error"]["code"] == "store_unavailable"
        assert answers[0].headers["retry-after"] == "1"
    own_redis.start()
    deadline = time.monotonic() + 30
    while decide(client, {}).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_no_name_of_a_user_stands_in_redis(
    serve: Serve, sqlite_url: str, redis_url: str, models: Any
) -> None:
    import redis

    limits = Limits(user_per_minute=1, key_per_minute=1)
    client = serve(Config(log=sqlite_url, store=redis_url, models=models, limits=limits))
    decide(client, {}, user="ann-marker")
    with redis.Redis.from_url(redis_url) as known:
        names = [name.decode() for name in known.keys("bandit_router:limits:*")]
        assert len(names) == 2
        assert not any("ann" in name for name in names)
        assert {name.split("{")[1].split("}")[0] for name in names} == {"nobody"}
        assert all(0 < known.pttl(name) <= 60_000 for name in names)
