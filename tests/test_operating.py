"""docs/operating.md: it names every alarm, and what it shows exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from bandit_router.cli import cli
from bandit_router.config import Config
from bandit_router.service.app import create_app
from bandit_router.service.metrics import Meter
from feedback.standing import CODES
from feedback.thresholds import thresholds_from_json

TEXT = (Path(__file__).parents[1] / "docs/operating.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


def test_every_alarm_is_told_and_no_other() -> None:
    assert set(re.findall(r"^\| `(\w+)`(?: \(critical\))? \|", TEXT, re.MULTILINE)) == set(CODES)


def test_thresholds_are_those_by_default() -> None:
    (shown,) = blocks("toml")
    assert thresholds_from_json(tomllib.loads(shown)["alarms"]) == thresholds_from_json({})


def test_probes_ask_for_what_there_is() -> None:
    _, stateful = map(yaml.safe_load, blocks("yaml"))
    spec: dict[str, Any] = stateful["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    paths = create_app(Config(log="sqlite://")).openapi()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in paths
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > waits + Config().service.drain_s
    assert CliRunner().invoke(cli, [container["args"][0], "--help"]).exit_code == 0


def test_rules_go_by_metrics_that_there_are() -> None:
    rules, _ = map(yaml.safe_load, blocks("yaml"))
    told = Meter().told().decode()
    for rule in rules["groups"][0]["rules"]:
        (metric,) = re.findall(r"bandit_router_\w+", rule["expr"])
        assert f"# TYPE {metric} gauge" in told
    for metric in re.findall(r"`(bandit_router_\w+)", TEXT):
        assert f"# TYPE {metric} " in told


def test_commands_are_those_that_there_are() -> None:
    for line in set(re.findall(r"`bandit-router ([^`]+)`", TEXT)):
        words = [word for word in shlex.split(line) if re.fullmatch(r"--?[\w-]+|[a-z-]+", word)]
        command = [word for word in words if not word.startswith("-")][:2]
        shown = CliRunner().invoke(cli, [*command[:1], "--help"]).output
        if len(command) == 2:
            shown += CliRunner().invoke(cli, [*command, "--help"]).output
        for option in words:
            assert not option.startswith("--") or option in shown, line
        assert "Usage" in shown, line
