"""``replay`` on a log, and on a table whose truth is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router import Model, ReplayError, Router, Uniform
from bandit_router.cli import cli, main
from simulations.tables import write_table
from simulations.worlds import small_world


def replay(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["replay", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_log_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, path, page = (
        f"sqlite:///{tmp_path / 'log.db'}",
        tmp_path / "found.json",
        tmp_path / "found.html",
    )
    with Router.open(url, models=[Model(name) for name in "abcdef"], policy=Uniform()) as router:
        for i in range(90):
            decision = router.choose(f"x {i}")
            if i % 3:
                router.feedback(decision.id, "rating", 0.9 if decision.model == "a" else 0.1)
        router.choose("only", models=["a"])
    said = replay(
        *("--log", url, "--policy", "uniform", "--policy", "fixed:a", "--policy", "greedy"),
        *("--json", str(path), "--html", str(page), "--since", "2020-01-01"),
    )
    assert "90 draws" in said
    assert "left out: 1: only one model was eligible" in said
    assert "fixed:a: refused" in said  # thirty of the sixty heard would be needed, and ten are expected
    uniform = json.loads(path.read_text())["policies"][0]
    ips = uniform["estimates"]["ips"]
    assert ips["low"] < ips["value"] < ips["high"]
    assert 0.05 < ips["value"] < 0.95
    monkeypatch.setattr(sys, "argv", ["bandit-router", "replay", "--log", url, "--json", "/dev/full"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "Error: " in capsys.readouterr().err
    shown = page.read_text("utf-8")
    assert "No answer for fixed:a" in shown
    assert f"{ips['value']:.4f}" in shown
    with pytest.raises(ReplayError, match="decided nothing in that period"):
        replay("--log", url, "--until", "2020-01-01")


def test_what_a_log_cannot_know_is_said(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with Router.open(url, models=[Model("a")], policy=Uniform()) as router:
        router.put_model(Model("b"))
        router.put_model(Model("c"))
        for i in range(240):  # 30 of 120 fair draws would be needed: fewer come once in 100 million runs
            models = ["a", "b"] if i < 120 else ["b", "c"]
            router.feedback(router.choose(f"x {i}", models=models).id, "rating", 0.5)
    said = replay("--log", url, "--policy", "fixed:a", "--policy", "fixed:b", "--since", "2020-01-01")
    assert "2 different sets of models" in said
    assert "fixed:a: judged on 120 draws" in " ".join(said.split())
    assert "fixed:b: judged" not in said
    wrong = ["replay", "--check", str(tmp_path / "log.db"), "--html", str(tmp_path / "page.html")]
    refused = CliRunner().invoke(cli, wrong)
    assert refused.exit_code == 2
    assert "--json only" in refused.output


def test_intervals_are_checked_on_a_table(tmp_path: Path) -> None:
    write_table(small_world(0).table(120, 1), tmp_path / "small.parquet")
    said = replay("--check", str(tmp_path / "small.parquet"), "--logs", "2")
    assert "covered of 2" in said
    assert "two models exchanged  2" in said
