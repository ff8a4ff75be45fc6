"""`bandit-router bench`: it measures, on a log and a store that it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router.cli import cli


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def test_it_prints_how_soon_another_worker_knows(url: str, store_url: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    arguments = [
        "bench",
        "--fresh",
        "--log",
        url,
        "--store",
        store_url,
        "--rounds",
        "10",
        "--json",
        str(file),
    ]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "then until known elsewhere" in done.output
    told = json.loads(file.read_text())
    assert told["rounds"] == 10
    assert all(value >= 0 for value in told["acknowledged_ms"] + told["fresh_ms"])


def test_it_prints_what_decisions_cost(url: str, store_url: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    arguments = ["bench", "--costs", "--log", url, "--store", store_url, "--rounds", "50"]
    done = CliRunner().invoke(cli, [*arguments, "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(file.read_text())
    assert told["rounds"] == 50
    assert min(told[name] for name in told) >= 0
    assert told["delta_bytes"] > 8 * told["features"]


def test_it_prints_a_table_of_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    file = tmp_path / "bench.json"
    arguments = ["bench", "--only", "features", "--rounds", "1", "--calls", "2", "--json", str(file)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "features of 500 characters" in done.output
    assert "Not measured: LiteLLM's proxy" in done.output
    told = json.loads(file.read_text())
    assert [row["bench"] for row in told["rows"]] == ["features", "features"]
    assert {"machine", "rounds", "calls", "absent"} <= told.keys()


def test_an_unknown_part_is_refused() -> None:
    done = CliRunner().invoke(cli, ["bench", "--only", "tea"])
    assert done.exit_code != 0
    assert "no bench 'tea'" in str(done.exception) + done.output
