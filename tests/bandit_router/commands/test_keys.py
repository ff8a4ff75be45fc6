"""``bandit-router keys``: shown once, listed without, revoked; secrets rotate."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bandit_router import EventLog
from bandit_router.cli import cli
from bandit_router.commands.keys import TOKEN_HOURS
from bandit_router.errors import SettingsError
from bandit_router.log.keys import hash_key, read_keys, read_secrets
from feedback.tokens import LIFETIME


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["keys", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


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


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (["--scope", "feedback"], 1000.0),
        (["--scope", "feedback", "--scope", "route"], 5000.0),
        (["--scope", "feedback", "--scope", "judge"], None),
        (["--scope", "feedback", "--influence", "all"], None),
        (["--scope", "route", "--influence", "7.5"], 7.5),
        (["--scope", "feedback", "--influence", "0"], 0.0),
    ],
    ids=str,
)
def test_how_much_a_key_counts(url: str, options: list[str], counts: float | None) -> None:
    result = CliRunner().invoke(cli, ["keys", "create", "--log", url, "--name", "n", *options])
    said = "all" if counts is None else f"{counts:g}"
    assert f"counts {said} at a time" in result.stderr
    with EventLog.open(url) as log:
        (kept,) = log.read(read_keys)
    assert kept.influence == counts
    assert said in invoke("list", "--log", url)


@pytest.mark.parametrize("influence", ["none", "-1", "nan", "inf", ""])
def test_an_influence_that_is_none(url: str, influence: str) -> None:
    options = ["--name", "n", "--scope", "route", "--influence", influence]
    assert CliRunner().invoke(cli, ["keys", "create", "--log", url, *options]).exit_code == 2


def test_a_key_is_rotated(url: str) -> None:
    options = ("--name", "chat", "--scope", "feedback", "--influence", "7", "--expires-days", "10")
    first = invoke("create", "--log", url, *options).strip()
    with EventLog.open(url) as log:
        (old,) = log.read(read_keys)
    assert "ends soon" in invoke("list", "--log", url)
    second = invoke("rotate", old.id, "--log", url, "--overlap-hours", "1").strip()
    with EventLog.open(url) as log:
        old, new = log.read(read_keys)
    assert (old.hash, new.hash) == (hash_key(first), hash_key(second))
    assert (new.name, new.scopes, new.influence) == ("chat", {"feedback"}, 7.0)
    assert old.expires == pytest.approx(new.created + 3_600)
    assert new.expires == pytest.approx(new.created + 864_000)
    invoke("rotate", new.id, "--log", url, "--overlap-hours", "0")
    assert "expired" in invoke("list", "--log", url)
    for gone in (new.id, "nobody"):
        with pytest.raises(SettingsError, match="no key"):
            invoke("rotate", gone, "--log", url)


def test_secrets_rotate(url: str) -> None:
    def count(after_hours: float) -> int:
        with EventLog.open(url) as log:
            return len(log.read(lambda c: read_secrets(c, time.time() + 3_600 * after_hours)))

    invoke("rotate-secret", "--log", url)
    assert "168 hours" in invoke("rotate-secret", "--log", url)
    assert "2 hours" in invoke("rotate-secret", "--log", url, "--overlap-hours", "2")
    assert (count(1.9), count(2.1)) == (3, 1)
    assert "retired" in invoke("rotate-secret", "--retire-old", "--log", url)
    assert count(0.0) == 1


def test_old_secrets_outlive_what_they_signed() -> None:
    assert LIFETIME.total_seconds() == TOKEN_HOURS * 3_600
