"""`bandit-router demo` through the real service: played over HTTP, and left up to be tried."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from bandit_router import BanditRouterError, Router
from bandit_router.cli import cli
from bandit_router.commands.demo import serving


def test_the_demo_over_http_is_reported_with_its_latencies(url: str) -> None:
    options = ["demo", "--http", "--requests", "60", "--workers", "1", "--log", url]
    done = CliRunner().invoke(cli, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for wanted in ("60 requests", "always", "IPS", "over HTTP", "POST /v1/decisions", "p99"):
        assert wanted in done.output
    name = re.findall(r"--router (\S+)", done.output)[0]
    with Router.open(url, name=name, create=False) as router:
        assert router.models[0].name == "small-fast"


def test_the_demo_leaves_the_service_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bandit_router", "demo", "--serve", "--requests", "50"]
    with subprocess.Popen(
        [*command, "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        curls: list[str] = []
        while not (curls and curls[-1].endswith("/metrics")):
            line = demo.stdout.readline()
            assert line, "it ended"
            curls += [line.strip()] if line.startswith("curl ") else []
        answers = [curl(line) for line in curls]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert answers[1].json()["name"] == "thumb"
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)
        assert demo.returncode == 0
    with pytest.raises(httpx.ConnectError):
        curl(curls[-1])


def curl(line: str) -> httpx.Response:
    """Do what a line for curl says."""
    _, where, *options = shlex.split(line)
    if not options:
        return httpx.get(where, timeout=30)
    assert options[:3] == ["-H", "content-type: application/json", "-d"]
    header = {"content-type": "application/json"}
    return httpx.post(where, content=options[3], headers=header, timeout=30)


def test_a_service_that_does_not_begin_is_told(tmp_path: Path) -> None:
    config = tmp_path / "demo.toml"
    config.write_text('log = "nonsense"')
    with pytest.raises(BanditRouterError, match=r"sqlite:///chat\.db"), serving(config, workers=1):
        pass
