"""What stuffing does over HTTP: one user, or a thousand names through one key, move no mean too far."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from bandit_router import EventLog
from bandit_router.config import Config
from bandit_router.log.keys import add_key, new_key
from bandit_router.log.writer import committed

HONEST, STUFFED, LIMIT = 60, 120, 20.0
Serve = Callable[..., Any]


@pytest.fixture
def header(config: Config) -> Callable[..., dict[str, str]]:
    """Make a key that counts for so much."""

    def made(*scopes: str, influence: float | None = None) -> dict[str, str]:
        key, terms = new_key(), {"name": "test", "scopes": scopes, "influence": influence}
        with EventLog.open(config.log) as log:
            committed(log.write(lambda c: add_key(c, key, now=time.time(), **terms)))  # type: ignore[arg-type]
        return {"Authorization": f"Bearer {key}"}

    return made


def decided(client: Any, backend: dict[str, str], n: int, **body: Any) -> list[str]:
    made = [
        client.post("/v1/decisions", headers=backend, json={"prompt": f"{i}", **body}) for i in range(n)
    ]
    return [answer.json()["id"] for answer in made]


def say(client: Any, key: dict[str, str], decisions: list[str], value: bool, source: Any) -> None:
    items = [
        {"decision_id": d, "name": "thumb", "value": value, "source": source(i)}
        for i, d in enumerate(decisions)
    ]
    answer = client.post("/v1/feedback/batch", headers=key, json={"items": items})
    assert {result["status"] for result in answer.json()["results"]} <= {200, 202}


def beliefs(client: Any, key: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/v1/routers/default/beliefs", headers=key).json()["beliefs"]
    return found


@pytest.mark.parametrize("names", [1, 1000])
def test_stuffing_moves_no_mean_beyond_the_bound(
    serve: Serve, config: Config, header: Any, names: int
) -> None:
    client = serve(config)
    admin = header("admin")
    leaked = header("feedback", influence=LIMIT)
    client.put("/v1/routers/default", headers=admin, json={"rater_limit": LIMIT, "policy": "uniform"})
    honest = decided(client, admin, HONEST)
    say(client, admin, honest, True, "user:{}".format)
    before = beliefs(client, admin)
    others = decided(client, admin, STUFFED)
    say(client, leaked, others, False, lambda i: f"mallory:{i % names}")
    after = beliefs(client, admin)
    assert sum(b["n"] for b in after.values()) == pytest.approx(HONEST + LIMIT, rel=1e-4)
    for model, belief in after.items():
        bound = LIMIT / (before[model]["n"] + LIMIT)
        assert abs(belief["mean_reward"] - before[model]["mean_reward"]) <= bound + 1e-6
