"""Decisions and outcomes over HTTP, on both backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Client = Any  # the one of conftest.py
Decide = Callable[..., dict[str, Any]]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
NOBODY = "01a20f16-7f32-7828-9f86-86eef3cf6d8f"


MALFORMED: list[tuple[Any, str]] = [
    ({}, "prompt"),
    ({"prompt": "a", "messages": MESSAGES}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"messages": []}, "messages"),
    ({"messages": [3]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"prompt": "a", "models": ["unknown"]}, "models"),
    ({"prompt": "a", "models": []}, "models"),
    ({"prompt": "a", "models": "small"}, "models"),
    ({"prompt": "a", "max_cost_usd": -1}, "max_cost_usd"),
    ({"prompt": "a", "max_cost_usd": "1"}, "max_cost_usd"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
    ({"prompt": "a", "user": ""}, "user"),
    ({"prompt": "a", "user": "x" * 256}, "user"),
    ({"prompt": "a", "user": "a\nb"}, "user"),
    ({"prompt": "a", "tags": {"a": 1}}, "tags.a"),
    ({"prompt": "a", "preference": {"price": 1}}, "preference.price"),
    *(
        ({"prompt": "a", "preference": {"max_quality_drop": bad}}, "preference.max_quality_drop")
        for bad in (-0.1, 1.1, "0.1", True)
    ),
    ({"prompt": "a", "colour": "red"}, "colour"),
]
NOT_OURS = [
    *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'\xef\xbb\xbf{"prompt": "a"}'),
    *(b'{"prompt": NaN}', b'{"prompt": "a", "max_cost_usd": 1e999}', b"[" * 50_000),
    *(b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "a", "max_tokens": ' + b"9" * 5_000 + b"}"),
    b'{"messages": [{"role": "user", "content": ' + b"[" * 80 + b"]" * 80 + b"}]}",
]
BAD_OUTCOMES: list[tuple[Any, Any]] = [
    ({"decision_id": NOBODY}, (404, None, "unknown_decision")),
    ({"decision_id": "?"}, (404, None, "unknown_decision")),
    ({}, (422, "decision_id", "invalid_value")),
    ({"decision_id": NOBODY, "model": "unknown"}, (422, "model", "invalid_value")),
    ({"decision_id": NOBODY, "output_tokens": -1}, (422, "output_tokens", "invalid_value")),
    ({"decision_id": NOBODY, "latency_s": True}, (422, "latency_s", "invalid_value")),
]


def problem(answer: Any) -> tuple[int, str | None, str]:
    """Status, field and code of an error, whose body is OpenAI's."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return answer.status_code, error["param"], error["code"]


def test_a_decision_says_what_was_drawn_and_how_likely(client: Client) -> None:
    answer = client.post("/v1/decisions", json={"messages": MESSAGES, "user": "u", "tags": {"a": "b"}})
    said, headers = answer.json(), answer.headers
    assert answer.status_code == 200
    assert set(said) >= {
        *("id", "router", "model", "probability", "reason", "policy", "candidates"),
        *("conversation", "feedback_token"),
    }
    assert sum(candidate["probability"] for candidate in said["candidates"]) == pytest.approx(1.0)
    assert set(said["candidates"][0]) == {
        *("model", "probability", "mean", "std", "cost_usd", "latency_s")
    }
    assert headers["x-router-decision-id"] == said["id"]
    assert headers["x-router-model"] == said["model"]
    assert float(headers["x-router-probability"]) == pytest.approx(said["probability"], rel=1e-5)
    assert headers["x-router-reason"] == said["reason"]
    assert float(headers["x-router-overhead-ms"]) > 0


def test_the_options_of_choose(decide: Decide) -> None:
    assert decide(models=["large"])["model"] == "large"
    assert decide(preference={"price_weight": 50.0})["candidates"]
    assert decide(preference={"max_quality_drop": 0.02})["candidates"]
    assert decide(preference={"max_quality_drop": None})["candidates"]
    assert decide(max_cost_usd=5e-4, max_tokens=100)["model"] == "small"
    first = decide(conversation="talk")
    again = decide(conversation="talk")
    assert (again["model"], again["reason"]) == (first["model"], "sticky")


def test_a_key_gives_the_same_decision_twice_and_no_other(client: Client) -> None:
    def ask(prompt: str) -> Any:
        header = {"Idempotency-Key": "k1"}
        return client.post("/v1/decisions", json={"prompt": prompt}, headers=header)

    first, again = ask("a").json(), ask("a").json()
    assert again["id"] == first["id"]
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert problem(ask("b")) == (409, None, "conflict")


def test_what_is_malformed_is_named(client: Client) -> None:
    for body, param in MALFORMED:
        answer = client.post("/v1/decisions", json=body)
        assert problem(answer) == (422, param, "invalid_value"), body


def test_no_model_is_left(client: Client) -> None:
    body = {"prompt": "a", "max_cost_usd": 1e-12}
    assert problem(client.post("/v1/decisions", json=body)) == (422, None, "no_eligible_model")


def test_an_unknown_router(client: Client) -> None:
    body = {"prompt": "a", "router": "nobody"}
    assert problem(client.post("/v1/decisions", json=body)) == (404, None, "unknown_router")


def test_bodies_that_are_no_json_of_ours(client: Client) -> None:
    for content in NOT_OURS:
        header = {"Content-Type": "application/json"}
        answer = client.post("/v1/decisions", content=content, headers=header)
        assert problem(answer)[0] == 422, content[:30]


def test_a_body_must_say_that_it_is_json(client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/v1/decisions", content=b"{}", headers={"Content-Type": kind})
        assert problem(answer) == (415, "content-type", "not_json")
    kind = "application/json; charset=utf-8"
    answer = client.post("/v1/decisions", content=b'{"prompt": "a"}', headers={"Content-Type": kind})
    assert answer.status_code == 200


def test_half_a_character_is_replaced_and_half_a_name_refused(client: Client) -> None:
    header = {"Content-Type": "application/json"}
    good = client.post("/v1/decisions", content=b'{"prompt": "a \\ud83d"}', headers=header)
    assert good.status_code == 200
    story = client.get(f"/v1/decisions/{good.json()['id']}").json()
    assert story["prompt"] == "a \N{REPLACEMENT CHARACTER}"
    bad = client.post("/v1/decisions", content=b'{"prompt": "a", "user": "\\ud83d"}', headers=header)
    assert problem(bad) == (422, "user", "invalid_value")
    odd = client.post("/v1/decisions", content=b'{"prompt": "a", "\\ud83d": 1}', headers=header)
    assert problem(odd)[0] == 422


def test_a_model_whose_name_no_header_can_hold(client: Client) -> None:
    assert client.put("/v1/routers/default/models/模型", json={}).status_code == 200
    answer = client.post("/v1/decisions", json={"prompt": "a", "models": ["模型"]})
    assert answer.json()["model"] == "模型"
    assert answer.headers["x-router-model"] == "%E6%A8%A1%E5%9E%8B"


def test_an_outcome_and_its_revision(client: Client, decide: Decide) -> None:
    of = decide(models=["large"])["id"]

    def report(**body: Any) -> Any:
        return client.post("/v1/outcomes", json={"decision_id": of} | body).json()

    first = {"input_tokens": 1000, "output_tokens": 100, "latency_s": 1.5, "ttft_s": 0.2, "answer": "x"}
    paid = pytest.approx(0.0035)
    assert report(**first) == {"decision_id": of, "cost_usd": paid, "duplicate": False}
    assert report(**first)["duplicate"] is True
    assert report(cost_usd=0.5)["cost_usd"] == 0.5
    story = client.get(f"/v1/decisions/{of}").json()
    assert (story["outcome"]["cost_usd"], story["answer"]) == (0.5, "x")


def test_outcomes_that_are_refused(client: Client) -> None:
    for body, wanted in BAD_OUTCOMES:
        assert problem(client.post("/v1/outcomes", json=body)) == wanted, body


def test_the_whole_story(client: Client, decide: Decide) -> None:
    of = decide(user="u1", conversation="c", tags={"a": "b"}, models=["small"])["id"]
    client.post("/v1/outcomes", json={"decision_id": of, "output_tokens": 10, "answer": "An answer."})
    word = {"decision_id": of, "name": "thumb", "value": True, "comment": "good"}
    said = client.post("/v1/feedback", json=word).json()
    client.post("/v1/feedback", json={"decision_id": of, "name": "rating", "value": 0.2, "source": "x"})
    client.delete(f"/v1/feedback/{said['id']}")
    story = client.get(f"/v1/decisions/{of}").json()
    assert story["prompt"] == "Explain quantum computing"
    assert (story["user"], story["conversation"], story["tags"]) == ("u1", "c", {"a": "b"})
    assert story["features_version"]
    assert story["outcome"]["output_tokens"] == 10
    assert [(w["name"], w["source"], w["retracted"]) for w in story["feedback"]] == [
        ("thumb", "u1", True),
        ("rating", "x", False),
    ]
    assert story["reward"]["value"] == pytest.approx(0.2)
    assert len(story["revisions"]) == 3
    assert problem(client.get(f"/v1/decisions/{NOBODY}")) == (404, None, "unknown_decision")


def test_paths_and_methods_that_are_not_there(client: Client) -> None:
    assert problem(client.get("/v1/nothing")) == (404, None, "not_found")
    assert problem(client.put("/v1/decisions", json={})) == (405, None, "method_not_allowed")


def test_a_long_prompt_is_read_beside_the_event_loop(decide: Decide) -> None:
    assert decide(prompt="word " * 15_000)["model"] in ("small", "large")
