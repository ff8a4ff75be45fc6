"""The group-committing writer: order, isolation of what is bad, and acknowledgement after the commit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bandit_router import ClosedError, EventLog, LogUnavailableError
from bandit_router.log import writer as writing
from bandit_router.log.tables import extractors
from bandit_router.log.writer import Writer, committed


@pytest.fixture
def log(url: str) -> Iterator[EventLog]:
    with EventLog.open(url) as opened:
        yield opened


def row(version: str | None) -> tuple[sa.Table, dict[str, Any]]:
    return extractors, {"version": version, "at_us": 0, "artefact": b""}


def versions(log: EventLog) -> set[str]:
    return set(log.read(lambda c: c.execute(sa.select(extractors.c.version)).scalars().all()))


class Gate:
    """A job that holds the writer until it is let go, so that what follows makes one batch."""

    def __init__(self, log: EventLog) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.future = log.write(self)
        assert self.entered.wait(10)

    def __call__(self, connection: sa.Connection) -> None:
        self.entered.set()
        assert self.go.wait(10)


def test_what_is_acknowledged_is_there(log: EventLog, tmp_path: Path) -> None:
    log.writer.insert(row("a"), row("b")).result(10)
    with sqlite3.connect(tmp_path / "chat.db") as raw:
        assert raw.execute("SELECT count(*) FROM extractors").fetchone() == (2,)
    raw.close()


def test_one_bad_row_fails_alone(log: EventLog) -> None:
    gate = Gate(log)
    futures = [log.writer.insert(row(name)) for name in ("a", "b", None, "a", "c")]
    gate.go.set()
    for i, future in enumerate(futures):
        if i in (2, 3):
            with pytest.raises(LogUnavailableError, match="refused"):
                future.result(10)
        else:
            future.result(10)
    assert versions(log) == {"a", "b", "c"}


def test_rows_of_one_call_come_together_or_not_at_all(log: EventLog) -> None:
    with pytest.raises(LogUnavailableError):
        log.writer.insert(row("a"), row(None)).result(10)
    assert versions(log) == set()


def test_one_bad_job_undoes_only_itself(log: EventLog) -> None:
    def bad(connection: sa.Connection) -> None:
        connection.execute(sa.insert(extractors), row("half")[1])
        raise RuntimeError("on purpose")

    gate = Gate(log)
    before, job, after = log.writer.insert(row("a")), log.write(bad), log.writer.insert(row("b"))
    gate.go.set()
    before.result(10), after.result(10)
    with pytest.raises(RuntimeError, match="on purpose"):
        job.result(10)
    assert versions(log) == {"a", "b"}


def test_values_that_cannot_be_sent_say_nothing_of_the_log(log: EventLog) -> None:
    def lacks_a_column(connection: sa.Connection) -> None:
        whole = row("x")[1]
        connection.execute(sa.insert(extractors), [whole, {"version": "y", "at_us": 0}])

    gate = Gate(log)
    before, job, after = log.insert(row("a")), log.write(lacks_a_column), log.insert(row("b"))
    gate.go.set()
    before.result(10), after.result(10)
    with pytest.raises(LogUnavailableError, match=r"refused: .*A value is required"):
        job.result(10)
    assert versions(log) == {"a", "b"}


def test_a_job_sees_what_came_before_it(log: EventLog) -> None:
    gate = Gate(log)
    count = sa.select(sa.func.count()).select_from(extractors)
    futures = []
    for i in range(5):
        log.writer.insert(row(str(i)))
        futures.append(log.write(lambda c: c.execute(count).scalar()))
    gate.go.set()
    assert [future.result(10) for future in futures] == [1, 2, 3, 4, 5]


def test_a_locked_log_is_waited_for(log: EventLog, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    future = log.writer.insert(row("a"))
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    future.result(10)
    other.close()
    assert versions(log) == {"a"}


def test_a_log_that_stays_locked_is_said_to_be(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EventLog.open(url).close()
    monkeypatch.setattr(writing, "BUSY_PATIENCE_S", 0.1)
    monkeypatch.setattr("bandit_router.log.engine.BUSY_TIMEOUT_S", 0.1)
    with EventLog.open(url) as log:
        other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailableError, match="no commit"):
            log.writer.insert(row("a")).result(10)
        other.execute("COMMIT")
        other.close()
        log.writer.insert(row("a")).result(10)  # and it goes on
        assert versions(log) == {"a"}


def test_closing_commits_what_waits(url: str) -> None:
    log = EventLog.open(url)
    gate = Gate(log)
    futures = [log.writer.insert(row(str(i))) for i in range(50)]
    gate.go.set()
    log.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ClosedError):
        log.writer.insert(row("x"))
    log.close()


def test_too_much_waiting_is_refused_not_dropped(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "QUEUE_LIMIT", 3)
    with EventLog.open(url) as log:
        gate = Gate(log)
        futures = [log.writer.insert(row(str(i))) for i in range(3)]
        with pytest.raises(LogUnavailableError, match="wait already"):
            log.writer.insert(row("x"))
        gate.go.set()
        for future in futures:
            future.result(10)
        assert versions(log) == {"0", "1", "2"}


def test_eight_threads_lose_nothing(log: EventLog) -> None:
    def write(name: int) -> None:
        futures = [log.writer.insert(row(f"{name}-{i}")) for i in range(50)]
        for future in futures:
            future.result(10)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions(log)) == 400


def test_a_lost_database_is_said_to_be_lost(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Writer, batch: object) -> None:
        raise sa.exc.OperationalError("BEGIN", {}, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr(Writer, "_transact", away)
    with pytest.raises(LogUnavailableError, match="disk I/O"):
        log.writer.insert(row("a")).result(10)


def test_a_file_that_is_gone_is_not_made_anew(log: EventLog, tmp_path: Path) -> None:
    log.writer.insert(row("a")).result(10)
    (tmp_path / "chat.db").rename(tmp_path / "elsewhere.db")
    for _ in range(3):
        with pytest.raises(LogUnavailableError, match="moved or deleted"):
            log.writer.insert(row("b")).result(10)
        with pytest.raises(LogUnavailableError, match="moved or deleted"):
            versions(log)
    assert not (tmp_path / "chat.db").exists()
    (tmp_path / "elsewhere.db").rename(tmp_path / "chat.db")
    log.writer.insert(row("c")).result(10)
    assert versions(log) == {"a", "c"}


def test_a_disk_that_is_full_loses_the_whole_batch_and_no_half_of_it(log: EventLog) -> None:
    pages = log.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())

    @sa.event.listens_for(log.engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")

    gate, large = Gate(log), (extractors, {"version": "big", "at_us": 0, "artefact": b"x" * 100_000})
    futures = [
        log.writer.insert(row("a")),
        log.writer.insert(row("b"), large),
        log.writer.insert(row("c")),
    ]
    gate.go.set()
    for future in futures:
        with pytest.raises(LogUnavailableError, match=r"no commit: .*full"):
            future.result(10)
    assert versions(log) == set()


def test_what_is_not_committed_in_time_is_dropped_where_it_has_not_begun(log: EventLog) -> None:
    gate = Gate(log)
    late = log.writer.insert(row("a"))
    with pytest.raises(LogUnavailableError, match=r"no answer within 0\.01 s"):
        committed(late, 0.01)
    gate.go.set()
    log.writer.insert(row("b")).result(10)
    assert versions(log) == {"b"}
