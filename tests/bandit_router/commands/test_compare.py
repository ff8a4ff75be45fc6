"""The command `compare`: a real peer through it, what it writes, says and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bandit_router.commands.compare import compare
from simulations.tables import write_table
from simulations.worlds import small_world


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "world.parquet"
    write_table(small_world(0).table(60, 1), path)
    return path


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """Have river where `compare` looks for it: the one that our own environment has."""
    home = tmp_path / "environments" / "river-0.26.1"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (home / "bin" / "python").chmod(0o755)
    (home / "installed").touch()
    return tmp_path / "environments"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(compare, [str(argument) for argument in arguments])


FEW = (
    "--rows",
    30,
    "--order-seeds",
    2,
    "--price-weight",
    0.3,
    "--policy",
    "thompson",
    "--policy",
    "uniform",
)


def test_a_peer_beside_ours(table: Path, environments: Path, tmp_path: Path) -> None:
    out, page, picture = (tmp_path / name for name in ("out.json", "out.md", "out.png"))
    files = ("--json", out, "--markdown", page, "--picture", picture)
    result = run(table, *FEW, "--peers", "river", "--environments", environments, *files)
    assert result.exit_code == 0, result.output
    assert "not compared" not in result.output
    (written,) = json.loads(out.read_text())["tables"]
    assert [row["policy"] for row in written["rows"]] == [
        "thompson",
        "uniform",
        "river:default",
        "river:calm",
    ]
    assert set(written["peers"]) == {"river"}
    assert len(written["lives"]) == 4 * 2
    assert "`river:calm`" in page.read_text()
    assert picture.stat().st_size > 1000


def test_a_peer_that_cannot_be_had_is_named(table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(table, *FEW, "--peers", "river", "--environments", tmp_path / "file" / "below")
    assert result.exit_code == 0, result.output
    assert "not compared: river: river: cannot be installed" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--peers", "nobody"), "no peer 'nobody'; there are paretobandit"),
        (("--pool", "a", "--pool", "b"), "--pool: expected one, or 1"),
        (("--json", "/nowhere/out.json"), "no such folder"),
        (("--peers", "", "--policy", "magic"), "no policy 'magic'"),
    ],
)
def test_mistakes_are_one_sentence(table: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(table, *arguments)
    assert result.exit_code == 2
    assert words in result.output
