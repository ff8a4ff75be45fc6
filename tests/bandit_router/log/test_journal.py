"""The journal's files: locks, room, what is left behind, and what is set aside."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bandit_router import ConflictError, LogUnavailableError
from bandit_router.log import journal as keeping
from bandit_router.log.frames import rows_of
from bandit_router.log.journal import Journal

Open = Callable[..., Journal]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal"


@pytest.fixture
def open_journal(folder: Path) -> Iterator[Open]:
    opened: list[Journal] = []

    def open_(*folders: Path, limit_bytes: int = 100_000) -> Journal:
        opened.append(Journal(folders or (folder,), limit_bytes=limit_bytes))
        return opened[-1]

    yield open_
    for journal in opened:
        journal.close()


def rows(name: str, key: str | None = None, body: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    row = {"id": name, "router": "default", "key": key, "body_hash": body, "features": b"\x00" * 64}
    return [("decisions", row)]


def fill(journal: Journal) -> tuple[int, str]:
    """Keep decisions until no more are taken; return how many were, and why not more."""
    for n in range(100):
        try:
            journal.keep(rows(str(n)))
        except LogUnavailableError as error:
            return n, str(error)
    pytest.fail("it has no end")


def held(journal: Journal) -> list[str]:
    """The ids of what waits in a journal; it is taken out."""
    found: list[str] = []
    while files := journal.seal():
        for file in files:
            found += [rows_of(body)[0][1]["id"] for body in file.read().frames]
            journal.done(file)
    return found


def test_nothing_is_made_before_the_first_decision(open_journal: Open, folder: Path) -> None:
    journal = open_journal()
    journal.adopt()
    assert journal.seal() == []
    assert not folder.parent.exists()
    journal.keep(rows("a"))
    (file,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)] == [0o700, 0o600]


def test_what_is_kept_waits_until_it_is_done(open_journal: Open, folder: Path) -> None:
    journal = open_journal()
    for name in "abc":
        assert journal.keep(rows(name)) is None
    assert journal.waiting == (3, sum(path.stat().st_size for path in folder.iterdir()))
    journal.sync()
    (file,) = journal.seal()
    journal.keep(rows("d"))
    assert journal.seal() == [file]  # one after the other
    assert held(journal) == ["a", "b", "c", "d"]
    assert (journal.waiting, list(folder.iterdir())) == ((0, 0), [])


def test_a_key_finds_its_decision_until_that_is_done(open_journal: Open) -> None:
    journal = open_journal()
    assert journal.keep(rows("a", key="k", body="x")) is None
    assert journal.keep(rows("b", key="k", body="x")) == rows("a", key="k", body="x")[0][1]
    with pytest.raises(ConflictError, match="other body"):
        journal.keep(rows("b", key="k", body="y"))
    journal.seal()
    assert journal.find("default", "k", "x") is not None
    assert journal.find("other", "k", "x") is None
    assert held(journal) == ["a"]
    assert journal.find("default", "k", "x") is None


def test_a_full_journal_keeps_nothing_more_and_says_so(open_journal: Open) -> None:
    journal = open_journal(limit_bytes=1000)
    kept, trouble = fill(journal)
    assert "of 1000 are taken" in trouble
    assert journal.waiting[0] == kept > 1
    assert journal.trouble is not None
    assert held(journal) == [str(n) for n in range(kept)]
    journal.keep(rows("again"))
    assert journal.trouble is None


def test_its_room_is_that_of_all_processes(open_journal: Open) -> None:
    one, two = open_journal(limit_bytes=1000), open_journal(limit_bytes=1000)
    one.keep(rows("a"))
    assert "taken" in fill(two)[1]
    assert one.waiting[1] + two.waiting[1] <= 1000


def test_a_folder_that_cannot_be_is_said_to_be_or_another_serves(
    open_journal: Open, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LogUnavailableError, match="taken"):
        open_journal(tmp_path / "taken").keep(rows("a"))
    journal = open_journal(tmp_path / "taken", tmp_path / "free")
    journal.keep(rows("a"))
    assert held(journal) == ["a"]


def test_a_folder_that_all_may_write_to_is_refused(open_journal: Open, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(LogUnavailableError, match="all may write"):
        open_journal().keep(rows("a"))


def test_nothing_is_taken_from_where_others_could_have_put_it(open_journal: Open, folder: Path) -> None:
    first = open_journal()
    first.keep(rows("a"))
    first.close()
    journal = open_journal(limit_bytes=1_000)
    folder.chmod(0o777)
    assert held_after_adoption(journal) == []
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes() * 100)
    with pytest.raises(LogUnavailableError, match="all may write"):  # nor is what lies there counted
        journal.keep(rows("b"))
    folder.chmod(0o700)
    assert held_after_adoption(journal) == ["a"] * 100


def test_a_disk_that_is_full_takes_back_what_was_half_written(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, write, room = open_journal(), os.write, [250]

    def scarce(fd: int, data: memoryview) -> int:
        if room[0] == 0:
            raise OSError(28, "No space left on device")
        written = write(fd, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(keeping.os, "write", scarce)
    journal.keep(rows("a"))
    for _ in range(2):
        with pytest.raises(LogUnavailableError, match="No space"):
            journal.keep(rows("b"))
    room[0] = 100_000
    journal.keep(rows("c"))
    assert held(journal) == ["a", "c"]


def test_a_living_owner_keeps_its_files(open_journal: Open) -> None:
    one, two = open_journal(), open_journal()
    one.keep(rows("a"))
    two.adopt()
    assert two.seal() == []
    one.close()
    with pytest.raises(LogUnavailableError, match="closed"):
        one.keep(rows("b"))
    two.adopt()
    assert held(two) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from bandit_router.log.journal import Journal
journal = Journal([Path(sys.argv[1])], limit_bytes=100_000)
for name in "abc":
    journal.keep([("decisions", {"id": name, "router": "r", "key": None, "body_hash": None})])
if os.fork() == 0:
    sys.stdin.read()  # a child that goes on does not hold what its parent held
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_kept_is_adopted_once(open_journal: Open, folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdin=subprocess.PIPE)
    assert child.wait(60) < 0
    journals, found = [open_journal() for _ in range(4)], []

    def adopt(journal: Journal) -> None:
        journal.adopt()
        found.extend(held(journal))

    threads = [threading.Thread(target=adopt, args=(journal,)) for journal in journals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["a", "b", "c"]
    assert child.stdin is not None
    child.stdin.close()


def test_a_torn_end_is_passed_over_and_damage_is_kept_aside(open_journal: Open, folder: Path) -> None:
    journal = open_journal()
    for name in "abc":
        journal.keep(rows(name))
    journal.close()
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-1])
    assert held_after_adoption(open_journal()) == ["a", "b"]
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = open_journal()
    again.adopt()
    (file,) = again.seal()
    assert (len(file.read().frames), file.read().damaged) == (2, len(data) // 3)
    again.done(file, damaged=True)
    assert [path.suffix for path in folder.iterdir()] == [".damaged"]
    assert held_after_adoption(open_journal()) == []


def held_after_adoption(journal: Journal) -> list[str]:
    journal.adopt()
    return held(journal)


def test_what_cannot_be_adopted_is_left_and_told_once(
    open_journal: Open, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(parents=True)
    (folder / "1.journal").mkdir()
    (folder / "2.journal").symlink_to("/etc/passwd")
    journal = open_journal()
    for _ in range(2):
        assert held_after_adoption(journal) == []
    assert caplog.text.count("1.journal is left") == caplog.text.count("2.journal is left") == 1
    assert len(list(folder.iterdir())) == 2
