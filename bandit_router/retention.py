"""Retention: old decisions go to files and leave the log, and what they have taught stays.

A run may die at any point, and two may be started at once: the next one goes on where the last one stopped.
What it did becomes visible in one transaction for each range of decisions (`log.archiving`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from bandit_router.errors import (
    ArchiveError,
    BanditRouterError,
    LogUnavailableError,
    StaleGenerationError,
)
from bandit_router.events import id_floor, new_id
from bandit_router.log import EventLog, partitions
from bandit_router.log import tables as t
from bandit_router.log.archive import (
    TABLES,
    Archive,
    alone,
    as_json,
    check_installed,
    export,
    files_of,
    week_of,
)
from bandit_router.log.archiving import (
    Entry,
    close_range,
    count_rows,
    ends_at,
    move_on,
    oldest_decision,
    prints_of,
    read_entries,
    read_entry,
    reopen_range,
    write_prints,
)
from bandit_router.log.bases import Base, read_bases, write_base
from bandit_router.log.checkpoints import drop_checkpoints, fold_now, write_checkpoint
from bandit_router.log.engine import need_program, translated
from bandit_router.log.erasure import expire_texts
from bandit_router.log.faults import is_busy
from bandit_router.log.folding import Fold
from bandit_router.log.following import SETTLE_S, horizon
from bandit_router.log.forking import unforked
from bandit_router.log.lens import Lens
from bandit_router.log.pending import KEPT_S, apply_pending
from bandit_router.log.raters import tallying
from bandit_router.log.refolding import refold
from bandit_router.log.registration import (
    Registration,
    begin_generation,
    hold,
    read_registration,
    router_names,
    versions,
)
from bandit_router.view import find_registration, lens_of, load_features

logger = logging.getLogger(__name__)
T = TypeVar("T")

DAY_S = 86_400.0
WEEK_S, MONDAY_S = 7 * DAY_S, 4 * DAY_S  # 1970 began on a Thursday
KNOWS_BASES = "0005"  # the oldest schema whose programs know what archiving leaves behind
TRIES = 5  # that a range is copied, where its rows change meanwhile
BUSY_S = 60.0  # how long one transaction is tried again while others are in its way


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Decisions that were, or would be, archived.

    Attributes
    ----------
    week : str
        The day on which its last week began.
    rows : mapping of str to int
        Of each table.
    bytes : int
        Of all files.
    """

    week: str
    rows: Mapping[str, int]
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How a router looks at the log."""

    registration: Registration
    lens: Lens

    @property
    def since(self) -> float:
        return self.registration.settings.budget_since or 0.0


def see(log: EventLog, router: str) -> Sight:
    """Return how a router looks at the log now."""
    registration = find_registration(log, router)
    features = load_features(log, registration.settings.features)
    return Sight(registration=registration, lens=lens_of(registration, features))


def transact(log: EventLog, job: Callable[[sa.Connection], T]) -> T:
    """Run a job in a transaction of its own, again while others are in its way.

    Raises
    ------
    LogUnavailableError
    """
    engine = log.engine.execution_options(writes=True, silence_s=math.inf)
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            with translated("archiving"), unforked(), engine.begin() as c, tallying(c):
                return job(c)
        except LogUnavailableError as error:
            cause = error.__cause__
            if not (isinstance(cause, Exception) and is_busy(cause)) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# -- which decisions are old ------------------------------------------------------------------------


def old_ranges(log: EventLog, older_than_s: float, now: float) -> Iterator[str]:
    """Yield the bound of each range of decisions that is old enough, the oldest first.

    Whole weeks; on PostgreSQL whole partitions, so that the first one of a log that was there before it had
    weeks is one range.
    """
    if older_than_s < KEPT_S:
        raise ValueError(
            f"older_than: expected at least {KEPT_S / DAY_S:g} day, got {older_than_s / DAY_S:g}"
        )
    done = ""
    while (end := log.read(partial(_next_end, done=done, until=now - older_than_s))) is not None:
        done = end
        yield end


def _next_end(connection: sa.Connection, done: str, until: float) -> str | None:
    oldest = oldest_decision(connection, done)
    if oldest is None:
        return None
    end = math.floor((oldest - MONDAY_S) / WEEK_S + 1) * WEEK_S + MONDAY_S
    while end <= until:
        bound = partitions.edge(connection, id_floor(end))
        if bound > done and oldest < ends_at(bound):
            return bound
        end += WEEK_S
    return None


# -- archiving --------------------------------------------------------------------------------------


def plan(log: EventLog, *, older_than_s: float, now: float) -> list[Range]:
    """Return what a run would archive."""
    found, before = [], dict.fromkeys(TABLES, 0)
    for end in old_ranges(log, older_than_s, now):
        up_to = log.read(partial(_counts, before=end))
        rows = {table: up_to[table] - before[table] for table in TABLES}
        found.append(Range(week=week_of(ends_at(end)), rows=rows))
        before = up_to
    return found


def _counts(connection: sa.Connection, before: str) -> dict[str, int]:
    return {table: count_rows(connection, table, before) for table in TABLES}


def retain(log: EventLog, folder: Path, *, older_than_s: float, now: float) -> Iterator[Range]:
    """Archive what is old, range by range; yield each that is done.

    Parameters
    ----------
    log : EventLog
    folder : Path
        Where the files go; it is made if it is not there.
    older_than_s : float
        At least a day, for words may wait so long for their decision [s].
    now : float
        [s since 1970]

    Raises
    ------
    ArchiveError
        Another run is at work there, or what was written came back with other rows.
    SettingsError
        pyarrow is missing.
    """
    check_installed()
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        for entry in log.read(lambda c: read_entries(c, closing=True)):  # of a run that died
            if entry.folder != folder:
                raise ArchiveError(
                    f"archives: a range was being archived to {entry.folder}: go on there"
                )
            yield _archive(log, entry.id, now)
        for end in old_ranges(log, older_than_s, now):
            identifier = new_id(now)
            close = partial(_close, identifier=identifier, before=end, folder=folder, now=now)
            transact(log, close)
            yield _archive(log, identifier, now)


def _close(connection: sa.Connection, identifier: str, before: str, folder: Path, now: float) -> None:
    """Apply what waits for the decisions of a range, and let nothing more be said about them."""
    if read_entries(connection, closing=True):
        raise ArchiveError("archives: another run is archiving")
    for router in router_names(connection):
        found = read_registration(connection, router)
        assert found is not None
        settings = found.settings
        while apply_pending(connection, router, settings.metrics, now, settings.rater_limit):
            pass
        if settings.text_retention is not None:
            expire_texts(connection, router, now - settings.text_retention.total_seconds())
    need_program(connection, KNOWS_BASES)
    close_range(connection, identifier, before, folder, now)


def _archive(log: EventLog, identifier: str, now: float) -> Range:
    """Copy a closed range, keep what it has taught, and let it go; else let it be spoken of again."""
    try:
        _wait_for_writers(log)
        for _ in range(TRIES):
            try:
                return _copy_and_drop(log, identifier, now)
            except StaleGenerationError as error:
                logger.info("archives: the range is copied again: %s", error)
        raise ArchiveError(f"archives: the rows of archive {identifier} changed {TRIES} times")
    except (OSError, BanditRouterError) as error:
        _give_up(log, identifier)
        if isinstance(error, OSError):  # such as a full disk
            raise ArchiveError(f"archives: {error}") from error
        raise


def _give_up(log: EventLog, identifier: str) -> None:
    entry = log.read(lambda c: read_entry(c, identifier))
    if entry is not None and entry.archived is None:
        archive_of(entry).sweep()
        transact(log, lambda c: reopen_range(c, identifier))


def _wait_for_writers(log: EventLog) -> None:
    """Wait until all have ended who may not know yet that a range is closed."""
    deadline, upcoming = time.monotonic() + SETTLE_S, None
    while True:
        seen = log.read(horizon)
        upcoming = seen.upcoming if upcoming is None else upcoming
        if seen.oldest >= upcoming:
            return
        if time.monotonic() > deadline:
            raise LogUnavailableError("log: a transaction does not end: archive later")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """What replaces the rows of a range."""

    entry: Entry
    archive: Archive
    sights: Mapping[str, Sight]
    prints: Sequence[Mapping[str, object]]
    bases: Sequence[Base]
    states: Mapping[str, Fold]
    now: float


def _copy_and_drop(log: EventLog, identifier: str, now: float) -> Range:
    entry = log.read(lambda c: read_entry(c, identifier))
    if entry is None:
        raise ArchiveError(f"archives: archive {identifier} was given up by another run")
    archive = archive_of(entry)
    archive.sweep()  # what a run that died has left
    sights = {name: see(log, name) for name in log.read(lambda c: _routers_before(c, entry.before))}
    with log.reading() as connection:
        archive = export(connection, archive, entry.before, entry.revision)
    end = ends_at(entry.before)
    bases = [refold(archive, s.lens, before=end, since=s.since) for s in sights.values()]
    states = {
        name: fold_now(log, sight.lens, sight.registration.generation) for name, sight in sights.items()
    }
    copy = _Copy(
        entry=entry,
        archive=archive,
        sights=sights,
        prints=list(all_prints(archive)),
        bases=bases,
        states=states,
        now=now,
    )
    transact(log, lambda c: _drop(c, copy))
    files = archive.files.values()
    rows = {table: file.rows for table, file in archive.files.items()}
    return Range(week=archive.week, rows=rows, bytes=sum(file.bytes for file in files))


def _drop(connection: sa.Connection, copy: _Copy) -> None:
    """Let a range go, and keep what it has taught: all of it, or nothing."""
    entry, archive = copy.entry, copy.archive
    if connection.dialect.name == "postgresql":  # no decision comes in between the count and the end
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{partitions.PATIENCE_S}s'")
        connection.exec_driver_sql(f"LOCK TABLE {t.decisions.name} IN SHARE ROW EXCLUSIVE MODE")
    hold_all(connection, copy.sights)
    move_on(connection, entry, as_json(archive), archived=copy.now)
    for table, file in archive.files.items():
        if count_rows(connection, table, entry.before) != file.rows:
            raise StaleGenerationError(f"archive {entry.id}: {table} changed while it was written")
    partitions.drop(connection, entry.before)
    write_prints(connection, entry.id, copy.prints)
    for base in copy.bases:
        write_base(connection, base)
    for router, sight in copy.sights.items():
        drop_checkpoints(connection, router)
        generation = begin_generation(connection, router)
        write_checkpoint(connection, sight.lens, copy.states[router], generation, copy.now)


def hold_all(connection: sa.Connection, sights: Mapping[str, Sight]) -> None:
    """Hold routers, and see that nothing about their lens has changed.

    Raises
    ------
    StaleGenerationError
    """
    for router in sorted(sights):
        hold(connection, router)
        current = versions(connection, router)
        if current is None or current[1] != sights[router].registration.generation:
            raise StaleGenerationError(f"archives: router {router!r} was folded anew meanwhile")


def all_prints(archive: Archive) -> Iterator[dict[str, object]]:
    """Yield rows of ``archived`` for all that an archive has."""
    for kind, table in (("decision", "decisions"), ("feedback", "feedback")):
        groups = archive.groups(table, ("router", "id"))
        ids = ((row["router"], row["id"]) for group in groups for row in group.to_pylist())
        yield from prints_of(archive.id, kind, ids)


def check_archives(log: EventLog) -> None:
    """See that what archives have taught is whole, and so are those files that can be seen from here.

    Raises
    ------
    ArchiveError
        Something is damaged.
    """
    for router in log.read(router_names):
        log.read(partial(read_bases, router=router))
    for entry in log.read(read_entries):
        if archive_of(entry).reachable():
            archive_of(entry).check()


def archive_of(entry: Entry) -> Archive:
    """An archive's files as the log has them."""
    week = week_of(ends_at(entry.before))
    return Archive(id=entry.id, folder=entry.folder, week=week, files=files_of(entry.files))


def _routers_before(connection: sa.Connection, before: str) -> list[str]:
    c = t.decisions.c
    return list(connection.execute(sa.select(c.router).where(c.id < before).distinct()).scalars())
