"""Routers, models, settings, beliefs and users over HTTP, on both backends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from bandit_router.config import Config

Client = Any  # the one of conftest.py


def field_of(answer: Any) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["param"]


def test_settings_merge_and_are_read_back(client: Client) -> None:
    first = client.get("/v1/routers/default").json()["settings"]
    given = {"policy": "linucb:alpha=0.2", "half_life_s": 3600, "budget_usd_per_request": 0.01}
    changed = client.put("/v1/routers/default", json=given).json()
    assert changed["settings"] | given == changed["settings"]
    assert changed["settings"]["floor"] == first["floor"]
    assert changed["settings"]["budget_since"] == pytest.approx(time.time(), abs=60)
    off = client.put("/v1/routers/default", json={"budget_usd_per_request": None}).json()["settings"]
    assert (off["budget_usd_per_request"], off["half_life_s"]) == (None, 3600)
    assert client.get("/v1/routers/default").json()["settings"] == off


def test_a_metric_of_the_routers_own(client: Client, decide: Any) -> None:
    metric = {"stars": {"kind": "number", "low": 1, "high": 5}}
    assert client.put("/v1/routers/default", json={"metrics": metric}).status_code == 200
    word = {"decision_id": decide()["id"], "name": "stars", "value": 5}
    assert client.post("/v1/feedback", json=word).json()["reward"]["value"] == 1.0


def test_a_judge_that_is_trusted_less(client: Client) -> None:
    judge = {"weight": 0.5, "limited": False, "trust": {"judge:a": {"weight": 0.1, "slope": 2.0}}}
    assert client.put("/v1/routers/default", json={"metrics": {"judge": judge}}).status_code == 200
    shown = client.get("/v1/routers/default").json()["settings"]["metrics"]["judge"]
    trust = {"weight": 0.1, "slope": 2.0, "offset": 0.0, "probed": 1.0}
    assert shown == {"kind": "number", "low": 0.0, "high": 1.0} | judge | {"trust": {"judge:a": trust}}


def test_settings_that_are_refused(client: Client) -> None:
    for body, param in (
        ({"policy": "nonsense"}, "policy"),
        ({"policy": None}, "policy"),
        ({"floor": 2}, "floor"),
        ({"half_life_s": 0}, "half_life_s"),
        ({"preference": {"price_weight": -1}}, "preference.price_weight"),
        ({"metrics": {"stars": {"low": 1, "high": 1}}}, "metrics"),
        ({"budget_since": 1.0}, "budget_since"),
        ({"colour": "red"}, "colour"),
    ):
        for router in ("default", "new"):
            answer = client.put(f"/v1/routers/{router}", json=body)
            assert field_of(answer) == (422, param), (router, body)
    assert client.get("/v1/routers/new").status_code == 404  # a bad body makes nothing


def test_prompts_and_keys_are_sent_nowhere_by_a_key_alone(client: Client) -> None:
    spec = "openai:model=m,base_url=http://127.0.0.1:1/v1,api_key_env=OTHER_API_KEY"
    for router in ("default", "new"):
        answer = client.put(f"/v1/routers/{router}", json={"features": spec})
        assert field_of(answer) == (422, "features")
        assert "not over HTTP" in answer.json()["error"]["message"]
    assert client.get("/v1/routers/default").json()["settings"]["features"] == "hashed"


def test_a_router_is_made_and_used(client: Client, decide: Any) -> None:
    made = client.put("/v1/routers/new", json={"policy": "greedy"}).json()
    assert (made["name"], made["settings"]["policy"], made["models"]) == ("new", "greedy", [])
    assert [r["name"] for r in client.get("/v1/routers").json()["routers"]] == ["default", "new"]
    empty = client.post("/v1/decisions", json={"prompt": "x", "router": "new"})
    assert empty.json()["error"]["code"] == "no_eligible_model"
    put = client.put("/v1/routers/new/models/openai/gpt-4o", json={"output_usd_per_mtok": 10}).json()
    assert (put["name"], put["output_usd_per_mtok"], put["retired"]) == ("openai/gpt-4o", 10.0, False)
    decision = decide(router="new")
    assert (decision["router"], decision["model"]) == ("new", "openai/gpt-4o")
    word = {"decision_id": decision["id"], "name": "thumb", "value": True}
    assert client.post("/v1/feedback", json=word).json()["applied"] is True
    beliefs = client.get("/v1/routers/new/beliefs").json()
    assert beliefs["beliefs"]["openai/gpt-4o"]["n"] == 1.0
    assert client.get("/v1/routers/default/beliefs").json()["beliefs"]["small"]["n"] == 0.0


def test_models_come_change_and_go(client: Client, decide: Any) -> None:
    path = "/v1/routers/default/models/small"
    word = {"decision_id": decide(models=["small"])["id"], "name": "thumb", "value": True}
    client.post("/v1/feedback", json=word)
    put = client.put(path, json={"input_usd_per_mtok": 7, "context_tokens": None}).json()
    assert (put["input_usd_per_mtok"], put["output_usd_per_mtok"]) == (7.0, 0.6)
    assert put["context_tokens"] is None
    assert client.delete(path).json()["retired"] is True
    assert client.delete(path).status_code == 404
    assert decide()["model"] == "large"
    states = {m["name"]: m["retired"] for m in client.get("/v1/routers/default").json()["models"]}
    assert states == {"small": True, "large": False}
    client.put(path, json={})
    assert client.get("/v1/routers/default/beliefs").json()["beliefs"]["small"]["n"] == 1.0
    client.put(path, json={"reset": True})
    assert client.get("/v1/routers/default/beliefs").json()["beliefs"]["small"]["n"] == 0.0
    for body, param in (
        ({"output_usd_per_mtok": -1}, "output_usd_per_mtok"),
        ({"output_usd_per_mtok": None}, "output_usd_per_mtok"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"reset": 1}, "reset"),
    ):
        assert field_of(client.put(path, json=body)) == (422, param)
    assert client.put("/v1/routers/nobody/models/x", json={}).status_code == 404
    assert client.delete("/v1/routers/nobody/models/x").status_code == 404
    assert client.get("/v1/routers/nobody/beliefs").status_code == 404
    assert field_of(client.put(f"/v1/routers/{'x' * 256}", json={})) == (422, "name")


def test_a_model_that_has_changed(client: Client) -> None:
    path = "/v1/routers/default/models/small/drifts"
    told = client.post(path, json={"factor": 0.5, "at": 1000, "why": "a new version"})
    assert told.status_code == 200
    shown = client.get("/v1/routers/default/beliefs").json()["beliefs"]
    assert shown["small"]["drifts"] == [told.json()]
    assert shown["large"]["drifts"] == []
    assert told.json()["at"] == "1970-01-01T00:16:40+00:00"
    assert client.post(path, json={"at": 1000}).status_code == 409
    assert client.post(path.replace("small", "nobody"), json={}).status_code == 422
    for wrong, param in (({"factor": 0}, "factor"), ({"at": "soon"}, "at"), ({"at": 4e9}, "at")):
        assert field_of(client.post(path, json=wrong)) == (422, param), wrong


def test_a_user_is_erased_from_all_routers(client: Client, decide: Any) -> None:
    client.put("/v1/routers/new", json={})
    client.put("/v1/routers/new/models/m", json={})
    ids = [decide(user="org/ann")["id"], decide(user="org/ann", router="new")["id"]]
    for of in (*ids, decide(user="bob")["id"]):
        word = {"decision_id": of, "name": "thumb", "value": True, "source": "org/ann"}
        assert client.post("/v1/feedback", json=word).status_code == 200
    erased = client.delete("/v1/users/org/ann").json()
    assert (erased["decisions"], erased["feedback"]) == (2, 3)
    for of in ids:
        assert client.get(f"/v1/decisions/{of}").status_code == 404
    for router in ("default", "new"):
        beliefs = client.get(f"/v1/routers/{router}/beliefs").json()["beliefs"]
        assert all(belief["n"] == 0.0 for belief in beliefs.values())
    assert set(client.delete("/v1/users/nobody").json().values()) == {0}


def test_changes_reach_the_other_worker_within_a_second(
    serve: Callable[..., Client], config: Config
) -> None:
    one, two = serve(config), serve(config)
    one.put("/v1/routers/default", json={"floor": 0.5})
    one.put("/v1/routers/default/models/third", json={})
    one.put("/v1/routers/new", json={})
    one.put("/v1/routers/new/models/m", json={})
    made = one.post("/v1/decisions", json={"prompt": "x", "router": "new"}).json()["id"]
    word = {"decision_id": made, "name": "thumb", "value": True}
    assert two.post("/v1/feedback", json=word).status_code == 200  # also within the second
    time.sleep(1.0)
    shown = two.get("/v1/routers/default").json()
    assert shown["settings"]["floor"] == 0.5
    assert [model["name"] for model in shown["models"]] == ["small", "large", "third"]
    assert two.get("/v1/routers/new").status_code == 200
