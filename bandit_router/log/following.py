"""Following a table whose numbers do not commit in order.

A row's number is drawn when it is inserted, and the row appears when its transaction commits; on PostgreSQL a
later number may appear first. A follower therefore reads what it sees at once, and remembers which rows
those were, until every transaction that could still bring an earlier row is over. Which those are is known, for
each writing transaction takes its own number before its first row's (`engine`), and a database tells which
transactions are running. On SQLite there is one writer at a time, and numbers do commit in order.

Somebody else's transaction may stay open for hours, in whatever database of the same server. It does not hold
followers back: a transaction that has drawn a number holds a lock on the table until its end, and one that
holds none has not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from bandit_router.log import tables as t
from bandit_router.log.eventlog import EventLog

SETTLE_S = 5.0  # how long a fold waits for transactions that were running when it began
HELD_BACK = 64  # transactions begun since the oldest that runs: from there on it is looked whose that is
# A snapshot's xmax follows the last transaction that is over; `age` counts on to the next to begin.
_BEGUN = sa.text(
    "SELECT pg_snapshot_xmin(s)::text::bigint, "
    "pg_snapshot_xmax(s)::text::bigint + age(pg_snapshot_xmax(s)::xid) FROM pg_current_snapshot() AS s"
)
# The oldest that runs, without those that have no number of ours. Locks are looked at once, and later than the
# snapshot: who runs on without a lock had none before, and who has ended meanwhile counts as running.
_BEGUN_OF_OURS = sa.text("""
WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS s),
ends AS MATERIALIZED (
  SELECT pg_snapshot_xmax(s)::text::bigint AS first,
    pg_snapshot_xmax(s)::text::bigint + age(pg_snapshot_xmax(s)::xid) AS upcoming FROM s
),
running AS MATERIALIZED (
  SELECT pg_snapshot_xip(s)::text::bigint AS x FROM s
  UNION ALL SELECT generate_series(first, upcoming - 1) FROM ends
),
locks AS MATERIALIZED (
  SELECT virtualtransaction AS held_by, locktype, mode, relation, transactionid FROM pg_locks
  WHERE granted
),
writers AS (
  SELECT held_by FROM locks WHERE locktype = 'relation' AND mode <> 'AccessShareLock'
  AND relation IN ('rewards'::regclass, 'outcomes'::regclass)
),
others AS (
  SELECT transactionid::text::bigint AS x FROM locks
  WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND held_by NOT IN (SELECT held_by FROM writers)
)
SELECT coalesce(min(x), (SELECT upcoming FROM ends)), (SELECT upcoming FROM ends) FROM running
WHERE x % 4294967296 NOT IN (SELECT x FROM others)
""")
_LAST_OF_SEQUENCE = sa.text(
    "SELECT coalesce(pg_sequence_last_value(sequence::regclass), 0) "
    "FROM pg_get_serial_sequence(:name, 'seq') AS sequence WHERE sequence IS NOT NULL"
)
_LAST_OF_SQLITE = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :name")
_TIME = sa.text("SELECT extract(epoch FROM clock_timestamp())::float8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """Which transactions were running when a reading transaction began.

    Attributes
    ----------
    oldest : int
        All transactions before this one are over, or have drawn no number of ours.
    upcoming : int
        No transaction from this one on had begun.
    """

    oldest: int = 0
    upcoming: int = 0

    @property
    def clear(self) -> bool:
        """Whether nothing was being written."""
        return self.oldest >= self.upcoming


def horizon(connection: sa.Connection, *, held_back: int = HELD_BACK) -> Horizon:
    """Return the horizon of a reading transaction.

    Parameters
    ----------
    held_back : int
        From how many running transactions on it is looked whether the oldest can have rows of ours: that costs
        more than to wait for a short one.
    """
    if connection.dialect.name != "postgresql":
        return Horizon()
    oldest, upcoming = connection.execute(_BEGUN).one()
    if upcoming - oldest > held_back:
        oldest, upcoming = connection.execute(_BEGUN_OF_OURS).one()
    return Horizon(oldest=oldest, upcoming=upcoming)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far one table has been read.

    Attributes
    ----------
    complete : int
        All rows up to here have been read.
    seen : frozenset of int
        Rows after it that have been read too.
    waits_for : (int, int), optional
        Once this transaction is over, and all before it, rows up to that one have been read.
    drawn : int, optional
        The last number that any router's row had got when it was read before.
    rested : int, optional
        All rows whose numbers had been drawn by then have been read: one that none has followed is no news.

    Examples
    --------
    >>> place = Place(complete=3).after([5], Horizon(oldest=10, upcoming=12))  # row 4 may be on its way
    >>> place.complete, 5 in place, 4 in place
    (3, True, False)
    >>> place.after([4], Horizon(oldest=12, upcoming=13)).complete  # all that were running then are over
    5
    """

    complete: int = 0
    seen: frozenset[int] = frozenset()
    waits_for: tuple[int, int] | None = None
    drawn: int | None = None
    rested: int | None = None

    def __contains__(self, seq: int) -> bool:
        return seq <= self.complete or seq in self.seen

    @property
    def last(self) -> int:
        """The highest row that has been read."""
        return max(self.seen, default=self.complete)

    def and_some(self, rows: Iterable[int]) -> Place:
        """Return the place once some rows have been read, where a reader saw more."""
        return replace(self, seen=self.seen.union(rows))

    def rests(self, drawn: int | None) -> bool:
        """Whether there is nothing to read where that is the last number drawn."""
        return bool(drawn) and drawn == self.rested and self.last <= (drawn or 0)

    def after(self, rows: Iterable[int], horizon: Horizon, *, drawn: int | None = None) -> Place:
        """Return the place once all rows have been read that a reader with that horizon saw.

        `drawn` is the last number drawn: the reader may have begun before it was.
        """
        read = self.and_some(rows)
        upcoming, up_to = self.waits_for or (horizon.upcoming, read.last)
        complete = read.last if horizon.clear else up_to if horizon.oldest >= upcoming else self.complete
        complete = max(complete, self.complete)
        if horizon.oldest >= upcoming:
            upcoming, up_to = horizon.upcoming, read.last
        seen = frozenset(seq for seq in read.seen if seq > complete)
        # Who had drawn a number before this reader began was over then.
        rested = self.drawn if horizon.clear else self.rested
        waits_for = (upcoming, up_to)
        return Place(complete=complete, seen=seen, waits_for=waits_for, drawn=drawn, rested=rested)


def settled(log: EventLog, router: str) -> tuple[Place, Place]:
    """Return places in rewards and outcomes before which no row can appear any more.

    Waits for the transactions that are running, but not for ever: then the places are the beginning.
    """
    deadline, waited_for = time.monotonic() + SETTLE_S, None
    last: tuple[int, ...] = (0, 0)
    while time.monotonic() < deadline:
        with log.reading() as connection:
            seen_from = horizon(connection, held_back=0)
            if waited_for is None:
                waited_for = seen_from.upcoming
                last = tuple(last_row(connection, table, router) for table in (t.rewards, t.outcomes))
        if seen_from.oldest >= waited_for:
            return Place(complete=last[0]), Place(complete=last[1])
        time.sleep(0.005)
    return Place(), Place()


def last_number(connection: sa.Connection, table: sa.Table) -> int | None:
    """Return the last number that a row of a table got, whatever became of that row; None if not known."""
    postgresql = connection.dialect.name == "postgresql"
    statement = _LAST_OF_SEQUENCE if postgresql else _LAST_OF_SQLITE
    last = connection.execute(statement, {"name": table.name}).scalar()
    return 0 if last is None and not postgresql else last


def last_numbers(connection: sa.Connection) -> dict[sa.Table, int | None]:
    """Return the last numbers of the tables that are followed."""
    return {table: last_number(connection, table) for table in (t.rewards, t.outcomes)}


def log_skew_s(log: EventLog, clock: Callable[[], float] = time.time) -> float | None:
    """Return how far a clock is ahead of the database's [s]; None where that has no clock of its own."""
    if log.engine.dialect.name != "postgresql":
        return None
    with log.reading() as connection:
        connection.execute(_TIME)  # the first answer of a connection may take long
        before = clock()
        told = connection.execute(_TIME).scalar_one()
        return (before + clock()) / 2 - float(told)


def late_rows(
    connection: sa.Connection, table: sa.Table, router: str, place: Place, limit: int
) -> list[int]:
    """Return rows that have appeared before the last one that was read."""
    if not place.seen:
        return []
    c = table.c
    between = (c.router == router, c.seq > place.complete, c.seq <= place.last)
    count = sa.select(sa.func.count()).select_from(table).where(*between)
    if connection.execute(count).scalar() == len(place.seen):
        return []
    found = connection.execute(sa.select(c.seq).where(*between).order_by(c.seq)).scalars()
    return [seq for seq in found if seq not in place.seen][:limit]


def last_row(connection: sa.Connection, table: sa.Table, router: str) -> int:
    """Return the highest row of a router, 0 where there is none."""
    found = connection.execute(
        sa.select(sa.func.max(table.c.seq)).where(table.c.router == router)
    ).scalar()
    return int(found or 0)


def rows_after(connection: sa.Connection, table: sa.Table, router: str, seq: int) -> list[int]:
    """Return a router's rows after one."""
    c = table.c
    return list(connection.execute(sa.select(c.seq).where(c.router == router, c.seq > seq)).scalars())
