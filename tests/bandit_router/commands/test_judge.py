"""The judge from the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from beliefs import demand_fold, until_well
from click.testing import CliRunner
from judged import answered, until
from upstream import Upstream

from bandit_router import Router
from bandit_router.cli import cli
from bandit_router.config import read_config


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def config(url: str, tmp_path: Path, upstream: Upstream) -> Path:
    path = tmp_path / "router.toml"
    path.write_text(
        f'log = "{url}"\n[judge]\nurl = "{upstream.url}"\nmodel = "grader"\nshare = 1.0\n'
        'api_key_env = "GRADER_KEY"\npoll_s = 0.1\n'
    )
    return path


def invoke(*arguments: object, env: dict[str, str] | None = None) -> str:
    result = CliRunner().invoke(cli, ["judge", *map(str, arguments)], env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_is_kept_as_it_is(config: Path) -> None:
    assert read_config(config).judge["model"] == "grader"
    assert read_config().judge == {}


def test_once(router: Router, config: Path, upstream: Upstream) -> None:
    decisions = answered(router, 3)
    shown = invoke("run", "--once", "--config", config, env={"GRADER_KEY": "sk-1"})
    assert shown.split()[:4] == ["sampled", "3", "graded", "3"]
    assert upstream.headers[0]["authorization"] == "Bearer sk-1"
    assert [len(router.decision(i).feedback) for i in decisions] == [1, 1, 1]
    shown = invoke("status", "--config", config)  # needs no key
    assert shown.split()[:4] == ["waiting", "0", "graded", "3"]


def test_a_judge_that_likes_constants_as_well_loses_its_weight(
    router: Router, config: Path, tmp_path: Path
) -> None:
    decisions = answered(router, 10)
    key = {"GRADER_KEY": "sk-1"}
    invoke("run", "--once", "--config", config, env=key)
    until_well(5.0, router)
    shown = invoke("probe", "--config", config, "--json", tmp_path / "probe.json", env=key)
    assert "left of weight   0" in shown
    assert json.loads((tmp_path / "probe.json").read_text())["beaten"]["empty"] == 0.5
    assert router.decision(decisions[0]).reward is not None
    shown = invoke("probe", "--config", config, "--apply", env=key)
    assert "Applied; 10 rewards revised." in shown
    until_well(0.0, router)
    until(lambda: router.settings.metrics["judge"].trusted("judge:grader").counts == 0.0)
    assert router.decision(decisions[0]).reward is None
    demand_fold(router)


def test_what_is_wrong_is_one_line(router: Router, config: Path, tmp_path: Path) -> None:
    def wrong(*arguments: str) -> str:
        command = [sys.executable, "-m", "bandit_router", "judge", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        return done.stderr

    assert "GRADER_KEY" in wrong("run", "--once", "--config", str(config))
    plain = tmp_path / "plain.toml"
    plain.write_text(config.read_text().split("[judge]")[0])
    assert "no [judge] table" in wrong("status", "--config", str(plain))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_until_it_is_told_to_end(
    router: Router, config: Path, upstream: Upstream, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "bandit_router", "judge", "run", "--config", str(config)]
    environment = {"GRADER_KEY": "sk-1", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "grader grades answers" in process.stderr.readline()
        answered(router, 2)
        until(lambda: len(upstream.requests) == 2)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
