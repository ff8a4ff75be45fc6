"""`bandit-router chaos`: a short run on real servers, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import obtained

from bandit_router.cli import cli
from simulations.chaos.programs import find_postgres, find_redis
from simulations.chaos.schedule import schedule

SEED, MINUTES = 7974, 0.35
HARD = {  # what this seed brings in so short a time
    *("worker: kill all", "worker: pause", "redis: flush", "redis: older dump", "redis: kill"),
    *("postgres: kill", "postgres: pause", "postgres link: deaf", "postgres link: cut"),
}


@pytest.mark.timeout(240)
def test_a_short_run_proves_that_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    obtained(find_redis)
    obtained(find_postgres)
    file, logs = tmp_path / "chaos.json", tmp_path / "logs"
    options = ["--seed", str(SEED), "--minutes", str(MINUTES), "--json", str(file), "--logs", str(logs)]
    run = CliRunner().invoke(cli, ["chaos", *options])
    said = run.output + "".join(path.read_text()[-5_000:] for path in sorted(logs.glob("worker*")))
    assert run.exit_code == 0, said
    found = json.loads(file.read_text())
    (round_,), (planned,) = found["rounds"], schedule(SEED, MINUTES)
    assert {str(fault.kind) for fault in planned.faults} >= HARD
    assert [fault["at_s"] for fault in round_["faults"]] == [fault.at_s for fault in planned.faults]
    assert {proof["name"] for proof in round_["proofs"]} >= {"decisions", "words", "fold", "promises"}
    assert all(proof["differing"] == [] for proof in round_["proofs"])
    assert found["ledger"]["words"]["acknowledged"] > 10
    for fault in planned.faults:
        assert str(fault) in run.output
    assert "Everything holds" in run.output


def test_a_missing_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REDIS_SERVER", "/nowhere")
    run = CliRunner().invoke(cli, ["chaos", "--minutes", "0.1"])
    assert run.exit_code == 1
    assert "Error: not obtained: a Redis server" in run.output


def test_a_kind_of_fault_that_is_none_is_refused() -> None:
    run = CliRunner().invoke(cli, ["chaos", "--only", "earthquake"])
    assert run.exit_code == 2
    assert "expected parts of worker: kill" in run.output
