"""The command `calibrate`: on a table, on a log, and what it refuses."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bandit_router import Router
from bandit_router.commands.calibrate import calibrate
from simulations.tables import write_table
from simulations.worlds import small_world

WORLD = small_world(0).table(150, 1)
PAIR = ("--weak", "small-fast", "--strong", "large-strong")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "world.parquet"
    write_table(WORLD, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(calibrate, [str(argument) for argument in arguments])


@pytest.mark.parametrize("asked", [("--share", 0.3), ("--quality-drop", 0.05)])
def test_a_table_gives_a_value_to_put_into_the_config(
    table: Path, tmp_path: Path, asked: tuple[str, float]
) -> None:
    out = tmp_path / "out.json"
    arguments = ("--order-seeds", 2, "--rows", 60, "--json", out)
    result = run(table, *PAIR, *asked, *arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert written["asked"] == {asked[0].strip("-").replace("-", "_"): asked[1]}
    assert written["tried"]["share"]["low"] <= written["tried"]["share"]["mean"]
    text = result.stdout[result.stdout.index("[settings]") : result.stdout.index("Or with a request")]
    assert tomllib.loads(text)["settings"] == written["settings"]
    assert written["settings"]["preference"]["price_weight"] >= 0


def test_a_log_gives_one_too(open_router: Callable[..., Router], url: str) -> None:
    router = open_router(seed=0)
    for i in range(12):
        router.choose("Why? " * (i + 1))
    router.close()
    result = run("--log", url, "--share", 0.5, "--weak", "small", "--strong", "large")
    assert result.exit_code == 0, result.output
    assert "calibrated on 12 requests" in result.output
    assert "tried" not in result.output
    refused = run("--log", url, "--share", 0.5, "--rows", 10)
    assert refused.exit_code == 2
    assert "--rows needs a TABLE" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one of --share and --quality-drop"),
        (("--share", 0.1, "--quality-drop", 0.1), "expected one of --share and --quality-drop"),
        (("--share", 30), "not in the range"),
        (("--share", 0.3, "--strong", "gpt-7"), "no model or pool 'gpt-7'"),
        (("--share", 0.3, "--pool", "small-fast"), "needs at least two models"),
        (("--share", 0.3, "--policy", "uniform"), "foretells no quality"),
        (("--share", 0.3, "--where", "task=poems"), "no row where task is 'poems'"),
        (("--share", 0.3, "--rows", 149), "too few to calibrate and to try"),
    ],
)
def test_what_is_refused(table: Path, arguments: tuple[object, ...], message: str) -> None:
    result = run(table, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_no_log_at_all(tmp_path: Path) -> None:
    result = run("--log", f"sqlite:///{tmp_path / 'none.db'}", "--share", 0.5)
    assert result.exit_code == 2
    assert not (tmp_path / "none.db").exists()
