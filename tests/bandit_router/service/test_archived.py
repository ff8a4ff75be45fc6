"""What the service answers about decisions that were archived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from weeks import Clock, archive, talk

from bandit_router import Router
from bandit_router.config import Config
from bandit_router.events import new_id


@pytest.fixture
def old(config: Config, tmp_path: Path) -> str:
    """A decision that was archived, and the router that made it is not the configured one."""
    clock = Clock()
    with clock.in_force():
        arguments = config.arguments() | {"name": "another"}
        with Router.open(arguments.pop("log"), **arguments) as router:
            decisions = talk(router, clock, weeks=1)
            self_id = router.decision(decisions[0].id).feedback[0].feedback.id
        clock.wait(8.0)
        archive(config.log, tmp_path / "archive", clock)
    return f"{decisions[0].id} {self_id}"


def test_it_says_since_when(old: str, client: Any) -> None:
    decision, word = old.split()
    about = {"decision_id": decision, "name": "thumb", "value": True}

    def refused(answer: httpx.Response, code: str = "archived_decision") -> str:
        assert answer.status_code == 404, answer.text
        error = answer.json()["error"]
        assert error["code"] == code
        return str(error["message"])

    assert "was archived on 2026-02-17" in refused(client.post("/v1/feedback", json=about))
    refused(client.post("/v1/outcomes", json={"decision_id": decision, "output_tokens": 1}))
    refused(client.get(f"/v1/decisions/{decision}"))
    refused(client.delete(f"/v1/feedback/{word}"))
    mixed = client.post("/v1/feedback/batch", json={"items": [about, about | {"value": False}]})
    assert [item["status"] for item in mixed.json()["results"]] == [404, 404]
    never = new_id(Clock().now + 3.0)  # as old, and nobody's
    refused(client.post("/v1/feedback", json=about | {"decision_id": never}), "unknown_decision")
    refused(client.get(f"/v1/decisions/{never}"), "unknown_decision")
    refused(client.delete(f"/v1/feedback/{never}"), "unknown_feedback")


def test_an_erasure_says_what_is_left(old: str, client: Any, tmp_path: Path) -> None:
    (tmp_path / "archive").rename(tmp_path / "away")
    answer = client.delete("/v1/users/user:1").json()
    assert (answer["decisions"], answer["archives_pending"]) == (0, 1)
    (tmp_path / "away").rename(tmp_path / "archive")
    answer = client.delete("/v1/users/user:1").json()
    assert (answer["decisions"], answer["archives_pending"]) == (2, 0)
