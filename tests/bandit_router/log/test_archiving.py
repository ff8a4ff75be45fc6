"""Archiving: archived ids are told from those that never were; who copies what has changed begins anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from bandit_router import ArchivedDecisionError, EventLog, StaleGenerationError
from bandit_router.events import id_floor, new_id
from bandit_router.log import archiving
from bandit_router.log.archiving import (
    archived_routers,
    close_range,
    find_archived,
    move_on,
    no_decision,
    no_feedback,
    prints_of,
    read_entries,
    read_entry,
    start_over,
    write_prints,
)


@pytest.fixture
def log(log_url: str) -> EventLog:
    return EventLog.open(log_url)


def test_archived_ids_are_known_and_others_are_not(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "_PRINTS", 100)  # several rows for each router
    there = [(f"router:{i % 2}", new_id(1_000.0 + i)) for i in range(1_000)]

    def fill(connection: sa.Connection) -> None:
        close_range(connection, "a", id_floor(3_000.0), Path("/archive"), 4_000.0)
        entry = read_entry(connection, "a")
        assert entry is not None
        move_on(connection, entry, {}, archived=5_000.0)
        for _ in range(2):  # the second time in the place of the first
            write_prints(connection, "a", prints_of("a", "decision", there))

    with log:
        log.write(fill).result()
        for router, identifier in there[::37]:
            assert log.read(lambda c, i=identifier: find_archived(c, "decision", i)) == {router: 5_000.0}
            assert log.read(lambda c, i=identifier: find_archived(c, "feedback", i)) == {}
        never = [new_id(1_000.0 + i) for i in range(1_000)]
        assert log.read(lambda c: archived_routers(c, "decision", never)) == {}
        router, identifier = there[5]
        told = log.read(lambda c: no_decision(c, router, identifier))
        assert isinstance(told, ArchivedDecisionError)
        assert "archived on 1970-01-01T01:23:20+00:00" in str(told)
        assert "no decision" in str(log.read(lambda c: no_decision(c, "another", identifier)))
        assert "no feedback" in str(log.read(lambda c: no_feedback(c, router, identifier)))


def test_whoever_copies_a_range_that_changed_must_begin_anew(log: EventLog) -> None:
    def close(connection: sa.Connection) -> None:
        close_range(connection, "a", id_floor(3_000.0), Path("/archive"), 4_000.0)

    with log:
        log.write(close).result()
        (old,) = log.read(lambda c: read_entries(c, closing=True))
        log.write(start_over).result()
        with pytest.raises(StaleGenerationError):
            log.write(lambda c: move_on(c, old, {}, archived=5.0)).result()
        (new,) = log.read(lambda c: read_entries(c, closing=True))
        log.write(lambda c: move_on(c, new, {}, archived=5.0)).result()
        assert log.read(lambda c: read_entries(c, closing=True)) == []
        assert log.read(read_entries)[0].archived == 5.0
