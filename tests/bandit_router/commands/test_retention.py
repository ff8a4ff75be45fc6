"""``bandit-router retention``: what it shows and does, and what becomes of it when it is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from weeks import Clock, counted, talk

from bandit_router import ArchivedDecisionError, ArchiveError, EventLog, Router, SettingsError
from bandit_router.cli import cli
from bandit_router.log.archiving import read_entries

Open = Callable[..., Router]
pytestmark = pytest.mark.timeout(300)  # processes start slowly on a busy machine
# The command, which stands still before it writes its third file, and says so.
STANDING = """
import sys, time
from bandit_router.cli import cli
from bandit_router.log.archive import Archive
write, n = Archive.write, 0
def standing(self, *arguments, **options):
    global n
    n += 1
    if n == 3:
        print("here", flush=True)
        time.sleep(600)
    return write(self, *arguments, **options)
Archive.write = standing
cli(sys.argv[1:])
"""


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["retention", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def old(open_router: Open) -> list[str]:
    """Decisions of three weeks, long ago."""
    clock = Clock()
    with clock.in_force():
        router = open_router()
        ids = [decision.id for decision in talk(router, clock)]
        router.close()
    return ids


def test_it_shows_archives_checks_and_tells_machines(
    old: list[str], open_router: Open, url: str, tmp_path: Path
) -> None:
    before, file = counted(open_router()), tmp_path / "done.json"
    shown = invoke("--log", url, "--dry-run")
    assert "2026-02-02" in shown
    assert shown.count("\n") == 4
    invoke("--log", url, "--archive", tmp_path / "archive", "--json", file)
    done = json.loads(file.read_text("utf-8"))
    assert [week["week"] for week in done["archived"]] == ["2026-02-02", "2026-02-09", "2026-02-16"]
    assert sum(week["rows"]["decisions"] for week in done["archived"]) == len(old)
    assert "Nothing is old enough" in invoke("--log", url, "--dry-run")
    assert "Nothing was archived" in invoke("--log", url, "--archive", tmp_path / "archive", "--check")
    assert counted(open_router()) == pytest.approx(before)
    router = open_router()
    (tmp_path / "archive").rename(tmp_path / "moved")
    assert router.forget_user("user:1").archives_pending == 3
    assert "Nothing was archived.\n3 archives" in invoke("--log", url, "--erasures")
    assert "6 decisions" in invoke("--log", url, "--archive", tmp_path / "moved")
    assert router.forget_user("user:1") == type(router.forget_user("user:1"))()
    next((tmp_path / "moved").glob("texts/*/*.parquet")).write_bytes(b"")
    with pytest.raises(ArchiveError, match="damaged"):
        invoke("--log", url, "--check")


def test_check_alone_changes_nothing(
    old: list[str], open_router: Open, url: str, tmp_path: Path
) -> None:
    folder, away = tmp_path / "archive", tmp_path / "away"
    invoke("--log", url, "--archive", folder)
    folder.rename(away)
    router = open_router(text_retention=timedelta(days=1), apply=True)
    assert router.forget_user("user:1").archives_pending == 3
    away.rename(folder)
    (first, *_) = folder.glob("texts/*/*.parquet")
    first.with_name(f".{first.name}.tmp").touch()  # a run that died has left it
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    assert "Nothing was archived" in invoke("--log", url, "--check")
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before
    assert "6 decisions" in invoke("--log", url, "--erasures")
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} != before


def test_it_asks_where_to(url: str, old: list[str]) -> None:
    with pytest.raises(SettingsError, match="where to"):
        invoke("--log", url)


def test_a_run_that_is_killed_is_finished_by_the_next(
    old: list[str], open_router: Open, url: str, tmp_path: Path
) -> None:
    router, folder = open_router(), tmp_path / "archive"
    command = [sys.executable, "-c", STANDING, "retention", "--log", url, "--archive", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "here\n"
        with pytest.raises(ArchivedDecisionError):  # while it is copied, nothing can be said any more
            router.feedback(old[0], "rating", 0.0)
        assert router.feedback(old[-1], "rating", 0.75).applied
        with pytest.raises(ArchiveError, match="another run is at work"):
            invoke("--log", url, "--archive", folder)
        run.send_signal(signal.SIGKILL)
    with pytest.raises(ArchivedDecisionError):
        router.feedback(old[0], "rating", 0.0)
    with pytest.raises(ArchiveError, match="go on there"):
        invoke("--log", url, "--archive", tmp_path / "elsewhere")
    invoke("--log", url, "--archive", folder)
    with EventLog.open(url) as log:
        assert len(log.read(read_entries)) == 3
        assert not log.read(lambda c: read_entries(c, closing=True))
    assert len(list(folder.glob("decisions/*/*"))) == 3  # and nothing that was left over
    live = counted(router)
    assert live["small n"] + live["large n"] == pytest.approx(len(old))
    router.rebuild()
    assert counted(router) == pytest.approx(live, rel=1e-9)


def test_two_runs_at_once_archive_everything_once(
    old: list[str], open_router: Open, url: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "bandit_router", "retention", "--log", url]
    command += ["--archive", str(tmp_path / "archive")]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    said = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    with EventLog.open(url) as log:
        assert len(log.read(read_entries)) == 3
    found = counted(open_router())
    assert found["small n"] + found["large n"] == pytest.approx(len(old))
