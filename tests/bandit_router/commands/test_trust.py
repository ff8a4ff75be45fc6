"""Trust from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from beliefs import BACK_S, demand_fold, until, until_well
from click.testing import CliRunner

from bandit_router import Router, Uniform
from bandit_router.cli import cli
from bandit_router.rewards import Trust

Open = Callable[..., Router]


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["trust", *map(str, arguments)], catch_exceptions=code != 1)
    assert result.exit_code == code, result.output
    return result.output


def speak(router: Router, n: int) -> list[str]:
    """Let a good judge, one that says the same of everything, and users who know, speak of the same answers."""
    rng, decisions = np.random.default_rng(0), []
    for i in range(n):
        decision = router.choose(f"question {i}")
        good = float(rng.random() < 0.6)
        router.feedback(decision.id, "thumb", bool(good), source=f"user:{i}")
        router.feedback(decision.id, "judge", 0.4 + 0.4 * good, source="judge:mild")
        wrong = good if rng.random() < 0.9 else 1 - good
        router.feedback(decision.id, "judge", wrong, source="judge:sharp")
        router.feedback(decision.id, "judge", 0.9, source="judge:constant")
        decisions.append(decision.id)
    return decisions


def test_nobody_has_said_anything(router: Router, url: str) -> None:
    assert "Nobody" in invoke("--log", url)


def test_what_cannot_be_told_is_said_and_stays(router: Router, url: str, tmp_path: Path) -> None:
    speak(router, 5)
    before = router.settings
    shown = invoke("--log", url, "--apply", "--json", tmp_path / "trust.json")
    assert "50 overlaps with one other signal are needed" in shown
    assert "Applied to 0 signals; 0 rewards revised." in shown
    assert router.settings == before
    written = json.loads((tmp_path / "trust.json").read_text())
    assert [signal["proposed"] for signal in written["signals"]] == [None] * 4
    assert written["signals"][0]["reliability"] is None


def test_it_is_believed_so_far_also_in_what_was_heard_before(
    open_router: Open, url: str, tmp_path: Path
) -> None:
    router = open_router(policy=Uniform())
    decisions = speak(router, 80)
    shown = invoke("--log", url, "--json", tmp_path / "trust.json")
    assert "On the scale of thumb." in shown
    assert "rewards revised" not in shown
    shown = invoke("--log", url, "--apply")
    assert "Applied to 4 signals; 80 rewards revised." in shown
    until(lambda: bool(router.settings.metrics["judge"].trust), BACK_S, lambda: router.settings)
    until_well(80.0, router)
    trust = router.settings.metrics["judge"].trust
    assert trust["judge:constant"].counts == 0.0
    assert trust["judge:mild"].slope == pytest.approx(2.5, abs=0.3)
    assert trust["judge:mild"].reward(0.8) == pytest.approx(1.0, abs=0.1)
    assert trust["judge:sharp"].weight < trust["judge:mild"].weight
    assert router.settings.metrics["thumb"].trust["*"].slope == 1.0
    assert [len(router.decision(of).revisions) for of in decisions[:3]] == [5, 5, 5]
    demand_fold(router)
    written = {s["source"]: s for s in json.loads((tmp_path / "trust.json").read_text())["signals"]}
    assert Trust(**written["judge:sharp"]["proposed"]) == trust["judge:sharp"]
    assert "0 rewards revised" in invoke("--log", url, "--apply")  # what was learnt is not learnt twice


def test_a_table_of_grades_or_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    rng = np.random.default_rng(0)
    truth = rng.random((150, 2))
    columns = {f"quality__{m}": truth[:, i] for i, m in enumerate("ab")}
    for judge in ("x", "y"):
        columns |= {
            f"judge_{judge}__{m}": truth[:, i] + rng.normal(0, 0.1, 150) for i, m in enumerate("ab")
        }
    parquet.write_table(pa.table(columns), tmp_path / "grades.parquet")
    shown = invoke(
        "--table", tmp_path / "grades.parquet", "--halves", 2, "--json", tmp_path / "rows.json"
    )
    assert "fixed weights" in shown
    body = json.loads((tmp_path / "rows.json").read_text())
    assert (body["table"], body["truth"], len(body["rows"])) == ("grades", "quality", 17)
    names = ("source", "prompt_id", "turn", "model_a", "model_b", "annotator", "winner", "judge_gpt4")
    votes = {name: ["s", "s"] for name in names} | {"annotator": ["ann", "bob"], "winner": ["a", "b"]}
    parquet.write_table(pa.table(votes), tmp_path / "votes.parquet")
    assert "person 2" in invoke("--table", tmp_path / "votes.parquet")
