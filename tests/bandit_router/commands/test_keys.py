"""``bandit-router keys``: shown once, listed without, revoked; secrets rotate."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router import EventLog
from bandit_router.cli import cli
from bandit_router.errors import SettingsError
from bandit_router.log.keys import hash_key, read_keys, read_secrets


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["keys", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_key_lives_from_making_to_revoking(url: str, tmp_path: Path) -> None:
    shown = invoke("create", "--log", url, "--name", "chat", "--scope", "route", "--scope", "feedback")
    key = shown.strip()
    assert key.startswith("br_")
    with EventLog.open(url) as log:
        (kept,) = log.read(read_keys)
    assert (kept.hash, kept.scopes, kept.expires) == (hash_key(key), {"route", "feedback"}, None)
    listed = invoke("list", "--log", url)
    assert kept.id in listed
    assert "valid" in listed
    assert key not in listed
    assert "revoked" in invoke("revoke", kept.id, "--log", url)
    assert "revoked" in invoke("list", "--log", url)
    with pytest.raises(SettingsError, match="no key"):
        CliRunner().invoke(cli, ["keys", "revoke", kept.id, "--log", url], catch_exceptions=False)
    file = tmp_path / "keys.json"
    invoke("list", "--log", url, "--json", str(file))
    assert json.loads(file.read_text("utf-8"))[0]["name"] == "chat"


def test_a_key_in_a_file_is_for_its_owner(url: str, tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    options = ("--name", "n", "--scope", "admin", "--expires-days", "2", "--json", str(file))
    assert "br_" not in invoke("create", "--log", url, *options)
    said = json.loads(file.read_text("utf-8"))
    assert said["key"].startswith("br_")
    assert said["expires"] > said["created"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "options",
    [
        ["--name", "n"],
        ["--scope", "route"],
        ["--name", "n", "--scope", "all"],
        ["--name", "n", "--scope", "route", "--expires-days", "0"],
    ],
    ids=str,
)
def test_what_is_missing_or_wrong_is_a_usage_error(url: str, options: list[str]) -> None:
    assert CliRunner().invoke(cli, ["keys", "create", "--log", url, *options]).exit_code == 2


def test_secrets_rotate(url: str) -> None:
    invoke("rotate-secret", "--log", url)
    invoke("rotate-secret", "--log", url)
    with EventLog.open(url) as log:
        assert len(log.read(read_secrets)) == 2
    assert "retired" in invoke("rotate-secret", "--retire-old", "--log", url)
    with EventLog.open(url) as log:
        assert len(log.read(read_secrets)) == 1
