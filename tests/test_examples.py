"""The examples that are read rather than mounted: each runs as its reader runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from serving import Serving

from bandit_router.cli import cli

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture
def curl() -> None:
    """A curl, and a bash to call it from."""
    for program in ("curl", "bash"):
        if shutil.which(program) is None:
            missing = pytest.fail if os.environ.get("CI") else pytest.skip
            missing(f"not obtained: {program}: install {program}")


@pytest.fixture
def serve(tmp_path: Path, sqlite_url: str) -> Iterator[Callable[[], Serving]]:
    """Start the service over a log that may have keys by then."""
    started: list[Serving] = []

    def start() -> Serving:
        started.append(Serving(tmp_path, "--log", sqlite_url))
        return started[-1]

    yield start
    for serving in started:
        serving.end()


def run(url: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script against a service."""
    environ = {**os.environ, "BASE": url, "KEY": key}
    command = [str(EXAMPLES / "curl.sh")]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def told(said: str) -> list[dict[str, Any]]:
    """The bodies that a run shows."""
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@pytest.mark.usefixtures("curl")
def test_curl_plays_the_whole_loop(serve: Callable[[], Serving], sqlite_url: str) -> None:
    ran = run(serve().url)
    assert (ran.returncode, ran.stderr) == (0, "")
    check(ran.stdout)


@pytest.mark.usefixtures("curl")
def test_curl_shows_its_key(serve: Callable[[], Serving], sqlite_url: str) -> None:
    named = ["keys", "create", "--log", sqlite_url, "--name", "backend"]
    made = CliRunner().invoke(cli, [*named, "--scope", "route", "--scope", "feedback"])
    assert made.exit_code == 0, made.output
    url = serve().url
    ran = run(url, made.stdout.strip())
    assert (ran.returncode, ran.stderr) == (0, "")
    check(ran.stdout)
    ran = run(url)
    assert ran.returncode != 0
    assert "401" in ran.stderr


def check(said: str) -> None:
    decision, outcome, up, down, retracted, story, beliefs = told(said)
    assert outcome == {"decision_id": decision["id"], "cost_usd": 0.0, "duplicate": False}
    assert (up["reward"]["value"], down["reward"]["value"]) == (1.0, 0.5)
    assert retracted == {"id": down["id"], "retracted": True}
    assert [word["source"] for word in story["feedback"]] == ["user:42", "user:43"]
    assert (story["answer"], story["reward"]["value"]) == ("A qubit is ...", 1.0)
    assert beliefs["beliefs"][decision["model"]]["n"] == 1.0


def test_the_chat_is_short() -> None:
    assert len((EXAMPLES / "chat.py").read_text("utf-8").splitlines()) < 100
