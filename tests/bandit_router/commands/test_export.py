"""``export``, and ``replay`` of what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router import Model, Router, Uniform
from bandit_router.cli import cli
from bandit_router.errors import SettingsError


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_an_export_is_replayed_as_its_log_is(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path / 'log.db'}", str(tmp_path / "out")
    with Router.open(url, models=[Model(name) for name in "ab"], policy=Uniform()) as router:
        for i in range(70):
            decision = router.choose(f"x {i}")
            router.feedback(decision.id, "rating", 0.9 if decision.model == "a" else 0.1)
    assert "70 decisions in" in run("export", "--log", url, folder)
    asked = ("--policy", "logged", "--policy", "uniform")
    assert run("replay", "--export", folder, *asked) == run("replay", "--log", url, *asked)
    with pytest.raises(SettingsError, match="is there already"):
        run("export", "--log", url, folder)
    with pytest.raises(SettingsError, match="no router 'other'"):
        run("export", "--log", url, "--router", "other", str(tmp_path / "other"))
    refused = CliRunner().invoke(cli, ["replay", "--export", folder, "--since", "2026-01-01"])
    assert "an export is of one period" in refused.output
