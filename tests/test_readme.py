"""What the README shows works as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router.cli import cli
from bandit_router.config import read_config
from feedback.judge import judge_settings_from_json
from simulations.chaos.servers import free_port
from simulations.tables import write_table
from simulations.worlds import small_world

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def only_block(language: str, about: str) -> str:
    (found,) = [block for block in blocks(language) if about in block]
    return found


def test_the_python_blocks_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("router.toml").write_text(only_block("toml", "[[models]]"))
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
    path.write_text(only_block("toml", "[[models]]") + only_block("toml", "[judge]"))
    config = read_config(path)
    assert config.settings["policy"].spec == "thompson"
    assert [model.name for model in config.models] == ["small", "large"]
    assert config.settings["floor"] == 0.01
    judge = judge_settings_from_json(config.judge)
    assert (judge.model, judge.share, judge.daily_budget_usd) == ("gpt-4o", 0.1, 5.0)


def test_the_simulation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(small_world(0).table(120, 0), Path("table.parquet"))
    command = only_block("sh", "simulate")
    arguments = shlex.split(command.replace("\\\n", " "))[1:]
    result = CliRunner().invoke(cli, [*arguments, "--jobs", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert Path("results.html").exists()


def test_the_service_starts_on_servers_and_hears_a_thumb(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    """What the README says to type, with the servers and the port of this test."""
    port = str(free_port())
    typed = only_block("sh", "bandit-router migrate").replace("localhost:8080", f"localhost:{port}")
    typed = typed.replace("--workers 2", f"--workers 2 --port {port}")
    typed = re.sub(r"BANDIT_ROUTER_LOG=\S+", f"BANDIT_ROUTER_LOG={postgres_url}", typed)
    typed = re.sub(r"BANDIT_ROUTER_STORE=\S+", f"BANDIT_ROUTER_STORE={redis_url}", typed)
    (tmp_path / "router.toml").write_text(only_block("toml", "[[models]]"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", f"{typed}\nkill %1; wait %1"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout[done.stdout.index('{"id"') :])
    assert heard["applied"] is True
    assert heard["reward"] == {"value": 1.0, "weight": 1.0}


def test_the_make_targets_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE):
        assert f"\n{target}:" in makefile
