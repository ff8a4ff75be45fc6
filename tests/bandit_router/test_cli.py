"""The command line: help everywhere, one line for what is wrong, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from upstream import Reply, Upstream

from bandit_router import Router
from bandit_router.cli import COMMANDS, cli

Open = Callable[..., Router]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bandit_router", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["models", "put"]], ids=str)
def test_help_on_each(command: list[str]) -> None:
    assert "Usage:" in invoke(*command, "--help")


def test_the_module_runs_and_knows_its_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert "bandit-router" in done.stdout


def test_unknown_commands_and_options_are_usage_errors() -> None:
    runner = CliRunner()
    assert runner.invoke(cli, ["dance"]).exit_code == 2
    assert runner.invoke(cli, ["demo", "--colour"]).exit_code == 2
    assert runner.invoke(cli, ["demo", "--requests", "3"]).exit_code == 2
    for weight in ("nan", "inf", "-1"):
        assert runner.invoke(cli, ["demo", "--price-weight", weight]).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "--log", "nonsense"],
        ["migrate", "--config", "missing.toml"],
        ["rebuild", "--log", "sqlite://", "--router", "absent"],
        ["models", "list", "--log", "sqlite:////nowhere/at/all.db"],
    ],
    ids=str,
)
def test_what_the_router_refuses_is_one_line(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_migrate_twice(url: str) -> None:
    for _ in range(2):
        assert "has schema" in invoke("migrate", "--log", url)


def test_models_come_and_go(open_router: Open, url: str) -> None:
    router = open_router()
    router.feedback(router.choose("x", models=["small"]).id, "thumb", True)
    assert "small" in invoke("models", "list", "--log", url)
    invoke("models", "put", "new", "--output-usd-per-mtok", "3", "--log", url)
    invoke("models", "retire", "small", "--log", url)
    shown = invoke("models", "list", "--log", url)
    assert "retired" in shown
    assert "new" in shown
    invoke("models", "put", "large", "--context-tokens", "5000", "--log", url)
    assert router.known_models["large"].output_usd_per_mtok == 10.0  # what is not given stays
    invoke("models", "put", "small", "--log", url)
    assert router.known_models["small"].context_tokens == 128_000
    bad = CliRunner().invoke(cli, ["models", "put", "bad", "--output-usd-per-mtok", "-3", "--log", url])
    assert bad.exit_code == 2
    invoke("models", "retire", "small", "--log", url)
    assert run("models", "retire", "nobody", "--log", url).returncode == 1
    said = invoke("models", "changed", "large", "--factor", "0.5", "--why", "news", "--log", url)
    assert "what large taught before counts 0.5" in said
    assert [drift["why"] for drift in router.beliefs()["large"]["drifts"]] == ["news"]
    assert (
        CliRunner().invoke(cli, ["models", "changed", "large", "--at", "x", "--log", url]).exit_code == 2
    )


def test_rebuild(open_router: Open, url: str) -> None:
    router = open_router()
    for i in range(4):
        router.feedback(router.choose(f"question {i % 2} about the sea").id, "thumb", True)
    router.close()
    assert "4 observations" in invoke("rebuild", "--log", url)
    assert "hashed:buckets=16" in invoke("rebuild", "--log", url, "--features", "hashed:buckets=16")
    assert "features fitted:" in invoke("rebuild", "--log", url, "--features", "fitted")
    assert CliRunner().invoke(cli, ["rebuild", "--log", url, "--fit"]).exit_code == 1


def test_rebuild_with_embeddings(open_router: Open, url: str) -> None:
    def embed(body: dict[str, Any]) -> Reply:
        data = [{"index": i, "embedding": [1, len(s), ord(s[9])]} for i, s in enumerate(body["input"])]
        return Reply(raw=json.dumps({"data": data}).encode())

    router = open_router()
    for i in range(4):
        router.feedback(router.choose(f"question {i}").id, "thumb", True)
    router.close()
    with Upstream(embed) as upstream:
        spec = f"openai:model=m,base_url={upstream.url},dim=2"
        said = invoke("rebuild", "--log", url, "--features", spec, "--fit")
    assert "dim=2,projection=projection-" in said
    assert "4 decisions encoded again" in said


def test_the_demo_keeps_its_log_where_it_is_told(url: str) -> None:
    shown = invoke("demo", "--requests", "300", "--log", url, "--seed", "3")
    for wanted in ("300 requests", "always", "IPS", "dollars"):
        assert wanted in shown
