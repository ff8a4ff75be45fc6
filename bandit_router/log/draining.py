"""Draining: what waits in the journal comes into the log, each decision once, as soon as that answers again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from bandit_router.breaker import Breaker
from bandit_router.errors import BanditRouterError, FormatError, LogUnavailableError
from bandit_router.log import tables as t
from bandit_router.log.files import JournalFile
from bandit_router.log.forgotten import refuse_erased
from bandit_router.log.frames import Row, Rows, rows_of
from bandit_router.log.journal import Journal
from bandit_router.log.writer import RefusedRowError, Writer

logger = logging.getLogger(__name__)

BATCH = 200  # decisions recorded in one transaction
_ODD = (RefusedRowError, LookupError, TypeError, ValueError, ArithmeticError)  # of a row, not of the log
PAUSE_S = 0.25  # between two looks while something waits, or the log is away
ADOPT_S = 5.0  # how often files of processes that are gone are looked for
SYNC_S = 1.0  # how often what waits is brought to the disk


# -- into the log -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One decision of the journal: its rows, the decision's own first, and the frame that they came in."""

    rows: Rows
    frame: bytes

    @property
    def row(self) -> Row:
        """The decision's own row."""
        return self.rows[0][1]

    @property
    def id(self) -> str:
        """The decision's id."""
        return str(self.row["id"])


def record_kept(connection: sa.Connection, kept: Sequence[Kept]) -> None:
    """Record decisions of the journal that the log does not have; those that it has stay one.

    A key that another decision has used since is that one's: both were made, and both stay. Nobody who was
    erased meanwhile comes back.
    """
    c = t.decisions.c
    of = {one.id: one for one in without_erased(connection, kept)}
    _erase(connection, [one.id for one in kept if one.id not in of])
    there = set(connection.execute(sa.select(c.id).where(c.id.in_(of))).scalars())
    # Its commit was given up, and came nevertheless; whoever asked was told that it is degraded.
    told = [one.id for one in of.values() if one.id in there and one.row["reason"] == "degraded"]
    if told:
        connection.execute(sa.update(t.decisions).where(c.id.in_(told)).values(reason="degraded"))
    fresh = [one for one in of.values() if one.id not in there]
    keyed = _keyed(connection, [one.row for one in fresh])
    rows = [
        (table, row if table != t.decisions.name or row["id"] in keyed else {**row, "key": None})
        for one in fresh
        for table, row in one.rows
    ]
    rows += [(t.decision_keys.name, row) for row in keyed.values()]
    # One statement has the columns of its first row: a row with others has one of its own.
    for name, columns in dict.fromkeys((name, frozenset(row)) for name, row in rows):
        alike = [row for of_table, row in rows if of_table == name and row.keys() == columns]
        connection.execute(sa.insert(t.metadata.tables[name]), alike)


def _erase(connection: sa.Connection, gone: Sequence[str]) -> None:
    """Let decisions go whose commits were given up, and came after their users had been erased.

    What was learnt from one meanwhile can only be taken back by another erasure, which is asked for.
    """
    c = t.decisions.c
    there = _which(connection, c.id, gone)
    learnt = _which(connection, t.rewards.c.decision_id, there)
    learnt |= _which(connection, t.outcomes.c.decision_id, there)
    for one in sorted(learnt):
        logger.error("decision %s came after its user was erased, and was learnt from: erase again", one)
    found = there - learnt
    if found:
        for table in (t.texts, t.feedback, t.judgements, t.decision_keys):
            connection.execute(sa.delete(table).where(table.c.decision_id.in_(found)))
        connection.execute(sa.update(t.decisions).where(c.head.in_(found)).values(head=None))
        connection.execute(sa.delete(t.decisions).where(c.id.in_(found)))


def _which(connection: sa.Connection, column: sa.Column[str], ids: Collection[str]) -> set[str]:
    """Which of some decisions a column names."""
    return set(connection.execute(sa.select(column).where(column.in_(ids))).scalars()) if ids else set()


def without_erased(connection: sa.Connection, kept: Sequence[Kept]) -> Sequence[Kept]:
    """Return those whose users have not been erased since: a journal brings nobody back."""
    still = {row["id"] for row in refuse_erased(connection, [one.row for one in kept])}
    return [one for one in kept if one.id in still]


def _keyed(connection: sa.Connection, rows: Sequence[Row]) -> dict[str, Row]:
    """The rows of ``decision_keys`` to be made, by decision: a key is the first one's."""
    c = t.decision_keys.c
    asked = {(row["router"], row["key"]) for row in reversed(rows) if row["key"] is not None}
    routers, keys = {router for router, _ in asked}, {key for _, key in asked}
    used = sa.select(c.router, c.key).where(c.router.in_(routers), c.key.in_(keys))
    free = asked - {(row.router, row.key) for row in connection.execute(used)} if asked else set()
    keyed: dict[str, Row] = {}
    for row in rows:
        if (row["router"], row["key"]) in free:
            free.discard((row["router"], row["key"]))
            own = {name: row[name] for name in ("router", "key", "body_hash")}
            keyed[row["id"]] = own | {"decision_id": row["id"]}
    return keyed


def check_tables(rows: Rows) -> None:
    """See that the log has these tables and columns.

    Raises
    ------
    FormatError
        It has not: a newer program kept them.
    """
    for name, row in rows:
        table = t.metadata.tables.get(name)
        unknown = row.keys() if table is None else row.keys() - table.columns.keys()
        if unknown:
            raise FormatError(f"journal: the log has no {name}.{min(unknown)}")


def probe(connection: sa.Connection) -> None:
    """Write nothing, but see that it could be written."""
    c = t.routers.c
    connection.execute(sa.update(t.routers).where(c.name == "").values(revision=c.revision))


# -- the thread -------------------------------------------------------------------------------------


class Drain:
    """Records what waits in the journal, in a thread of its own, and closes the log's breaker after it.

    Parameters
    ----------
    journal : Journal
    writer : Writer
        Records; whatever else it has to do is not disturbed for long.
    breaker : Breaker
        The log's. While it is open, this tries for all.
    timeout_s : float
        How long the last try may take, at the end [s].
    """

    def __init__(self, journal: Journal, writer: Writer, breaker: Breaker, *, timeout_s: float) -> None:
        self._journal, self._writer, self._breaker = journal, writer, breaker
        self._timeout_s = timeout_s
        self._wake, self._closing = threading.Event(), threading.Event()
        self._adopted_at = self._synced_at = -float("inf")
        self._gate = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look for files of processes that are gone, now and then."""
        with self._gate:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="bandit-router-journal", daemon=True
                )
                self._thread.start()
                self._wake.set()

    def wake(self) -> None:
        """Look at once: something was kept, or the log has failed."""
        self._wake.set()
        if self._thread is None:
            self.start()

    def close(self) -> None:
        """Stop; what waits is tried once more."""
        with self._gate:
            self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._journal.waiting[0]:
            try:
                self._drain(time.monotonic() + self._timeout_s)
            except Exception as error:  # the rest of closing goes on
                logger.warning("the journal could not be drained: %s", error)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(PAUSE_S if self._is_busy() else ADOPT_S)
            self._wake.clear()
            try:
                self._look()
            except (BanditRouterError, OSError) as error:
                logger.debug("the journal waits: %s", error)
            except Exception:  # the thread must outlive whatever it meets
                logger.exception("the journal waits")
            if self._is_busy():
                self._closing.wait(PAUSE_S)

    def _is_busy(self) -> bool:
        return self._breaker.trouble is not None or self._journal.waiting[0] > 0

    def _look(self) -> None:
        self._sync()
        if self._breaker.trouble is not None and not self._breaker.allows():
            return
        if time.monotonic() - self._adopted_at >= ADOPT_S:
            self._adopted_at = time.monotonic()
            self._journal.adopt()
        began = time.monotonic()
        if self._breaker.trouble is not None:
            self._record(probe)
        took_s = time.monotonic() - began
        self._drain()
        self._close_breaker(took_s)

    def _sync(self) -> None:
        if time.monotonic() - self._synced_at >= SYNC_S:
            self._synced_at = time.monotonic()
            self._journal.sync()

    def _close_breaker(self, took_s: float) -> None:
        """Let requests through again, when almost nothing waits: under load something always does."""
        with self._journal.lock:
            if self._breaker.trouble is not None and self._journal.waiting[0] <= BATCH:
                self._breaker.succeeded(took_s=took_s)

    def _drain(self, until: float = float("inf")) -> None:
        """Record all that waits; without an end, what comes meanwhile only while that is much."""
        while files := self._journal.seal():
            for file in files:
                self._drain_file(file, until)
            if until == float("inf") and self._journal.waiting[0] <= BATCH:
                return

    def _drain_file(self, file: JournalFile, until: float) -> None:
        contents = file.read()
        recorded = 0
        for start in range(0, len(contents.frames), BATCH):
            try:
                kept = _read(contents.frames[start : start + BATCH])
            except FormatError as error:
                logger.error("journal %s is left for a newer program: %s", file.path, error)
                self._journal.leave(file)
                return
            self._record_all(file, kept, until)
            recorded += len(kept)
        strange = len(contents.frames) - recorded
        damaged = contents.damaged > 0 or strange > 0
        if damaged:
            logger.error(
                "journal %s: %d bytes and %d frames are damaged; the file is kept aside",
                *(file.path, contents.damaged, strange),
            )
        self._journal.done(file, damaged=damaged)
        logger.warning("journal: %d decisions have come into the log", recorded)

    def _record_all(self, file: JournalFile, kept: Sequence[Kept], until: float) -> None:
        try:
            self._record(partial(record_kept, kept=kept), until)
        except _ODD:
            for one in kept:  # each alone: only the bad one is left out
                self._record_one(file, one, until)

    def _record_one(self, file: JournalFile, one: Kept, until: float) -> None:
        try:
            self._record(partial(record_kept, kept=[one]), until)
        except _ODD as error:
            aside = file.set_aside(one.frame)
            logger.error(
                "journal: the log refuses decision %s, which is kept in %s: %s", one.id, aside, error
            )

    def _record(self, job: Callable[[sa.Connection], None], until: float = float("inf")) -> None:
        """Run a job in the log, and wait for it as long as need be; not when this ends meanwhile."""
        future = self._writer.submit(job)
        while not wait([future], PAUSE_S).done:
            self._sync()
            if time.monotonic() > until or (until == float("inf") and self._closing.is_set()):
                future.cancel()  # one that has begun may still come: it is found there the next time
                raise LogUnavailableError("log: the journal was not drained in time")
        future.result()


def _read(frames: Sequence[bytes]) -> list[Kept]:
    """The decisions in whole frames; those that hold none are left out.

    Raises
    ------
    FormatError
        A newer program kept them.
    """
    kept = []
    for frame in frames:
        with suppress(FormatError):
            kept.append(Kept(rows=rows_of(frame), frame=frame))
    for one in kept:
        check_tables(one.rows)
    return kept
