"""What the README shows works as written."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router.cli import cli
from bandit_router.config import read_config
from simulations.tables import write_table
from simulations.worlds import small_world

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_blocks_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("router.toml").write_text(blocks("toml")[0])
    scope: dict[str, object] = {}
    found = blocks("python")
    assert len(found) == 3
    for block in found:
        exec(compile(block, "README.md", "exec"), scope)


def test_the_loop_has_about_fifteen_lines() -> None:
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 18


def test_the_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "router.toml"
    path.write_text(blocks("toml")[0])
    config = read_config(path)
    assert config.settings["policy"].spec == "thompson"
    assert [model.name for model in config.models] == ["small", "large"]
    assert tomllib.loads(blocks("toml")[0])["settings"]["floor"] == 0.02


def test_the_simulation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(small_world(0).table(120, 0), Path("table.parquet"))
    (command,) = [block for block in blocks("sh") if "simulate" in block]
    arguments = shlex.split(command.replace("\\\n", " "))[1:]
    result = CliRunner().invoke(cli, [*arguments, "--jobs", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert Path("results.html").exists()


def test_the_make_targets_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE):
        assert f"\n{target}:" in makefile
