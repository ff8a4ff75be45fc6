"""``bandit-router tune``, as docs/tuning.md shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router import Model, Preference, Router, Uniform
from bandit_router.cli import cli
from bandit_router.config import read_config

PAGE = Path(__file__).parents[3] / "docs" / "tuning.md"
COMMAND = "bandit-router tune --log sqlite:///chat.db --write tuned.toml --json tuned.json"


def _log(decisions: int, preference: Preference | None = None) -> None:
    with Router.open(
        "sqlite:///chat.db",
        models=[Model("good"), Model("bad")],
        policy=Uniform(),
        preference=preference or Preference(),
        features="hashed:buckets=4",
        durable=False,
        seed=0,
    ) as router:
        for i in range(decisions):
            decision = router.choose(f"prompt {i % 7}")
            router.feedback(decision.id, "rating", 0.9 if decision.model == "good" else 0.1)


def _tune() -> tuple[int, str]:
    found = CliRunner().invoke(cli, [*COMMAND.split()[1:], "--trials", "4"])
    return found.exit_code, found.output


def test_from_a_log_to_a_tuned_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"    {COMMAND}\n" in PAGE.read_text()
    monkeypatch.chdir(tmp_path)
    _log(440)
    code, output = _tune()
    assert code == 0, output
    assert "Recommended" in output
    told = json.loads(Path("tuned.json").read_text())["recommended"]
    assert told["reward"]["low"] > 0
    assert read_config("tuned.toml").settings["floor"] == told["candidate"]["floor"]


def test_nothing_is_recommended_on_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _log(10)
    code, output = _tune()
    assert code == 3, output
    assert "Nothing is recommended" in output
    assert not Path("tuned.toml").exists()


def test_a_router_that_weighs_price_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _log(1, Preference(price_weight=0.3))
    found = CliRunner().invoke(cli, COMMAND.split()[1:])
    assert found.exit_code == 1
    assert "weighs rewards alone" in str(found.exception)
