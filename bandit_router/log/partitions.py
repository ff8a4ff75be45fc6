"""Partitions: on PostgreSQL, the tables that grow with traffic are cut into weeks by the decision's id.

An id carries its decision's moment, so that a week is a range of ids: a lookup by id touches one partition,
and an old week is dropped instead of deleted row by row. Weeks are created ahead. What fits none of them
(clocks that are far off, weeks that nobody created in time) goes to a default partition, so that no insert
ever fails, and moves over when its week is created. An embedded log has plain tables, and nothing to do.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from bandit_router.errors import LogUnavailableError
from bandit_router.events import id_floor
from bandit_router.log import tables as t
from bandit_router.log.forking import unforked

logger = logging.getLogger(__name__)

WEEK_S = 604_800
AHEAD = 4  # weeks that are ready before they begin
PATIENCE_S = (
    2  # how long a lock may hold others up; longer than PostgreSQL lets an autovacuum stand in the way
)
_MONDAY_S = 345_600  # 1970 began on a Thursday
_PARTITIONING = 0x77_65_65_6B_73  # the lock that processes which create partitions take
_NO_RIGHT, _IN_USE = "42501", "55P03"  # PostgreSQL's insufficient_privilege, lock_not_available
_BOUNDS = re.compile(r"FROM \((?:MINVALUE|'(.*)')\) TO \((?:MAXVALUE|'(.*)')\)")
_ALL = sa.text(
    "SELECT p.relname AS table, c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds "
    "FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid JOIN pg_class p ON p.oid = inhparent "
    "WHERE inhparent = ANY(ARRAY(SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) name)) "
    "ORDER BY 1, 2"
)
_SIZE = sa.text(
    "SELECT pg_stat_get_live_tuples(c), pg_total_relation_size(c) FROM to_regclass(:name) AS c"
)
_BESIDE = (t.judgements, t.decision_keys)  # plain tables of rows that go with their decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition of one table: rows of decisions whose ids are in [lower, upper).

    Attributes
    ----------
    table, name : str
        The whole, and the part.
    lower, upper : str, optional
        None: it has no such bound.
    rest : bool
        The default partition: it has neither, and holds what is in no other.
    """

    table: str
    name: str
    lower: str | None
    upper: str | None
    rest: bool

    def overlaps(self, lower: str, upper: str) -> bool:
        """Whether it was made for some of the ids in [lower, upper)."""
        return not self.rest and (self.lower or "") < upper and not self.ends_by(lower)

    def cuts(self, identifier: str) -> bool:
        """Whether some of its ids are before one, and others are not."""
        return not self.rest and (self.lower or "") < identifier and not self.ends_by(identifier)

    def ends_by(self, identifier: str) -> bool:
        """Whether all of its ids are before one."""
        return self.upper is not None and self.upper <= identifier


def read_partitions(connection: sa.Connection) -> list[Partition]:
    """Return all partitions by table and time; none where the log is embedded."""
    if connection.dialect.name != "postgresql":
        return []
    found = connection.execute(_ALL, {"tables": [table.name for table in t.PARTITIONED]})
    return [_partition(row) for row in found.mappings()]


def _partition(row: sa.RowMapping) -> Partition:
    told = _BOUNDS.search(row["bounds"])
    lower, upper = (None, None) if told is None else told.groups()
    names = {"table": row["table"], "name": row["name"]}
    return Partition(**names, lower=lower, upper=upper, rest=told is None)


def read_size(connection: sa.Connection, partition: Partition) -> tuple[int, int]:
    """Return about how many rows a partition has, by PostgreSQL's statistics, and its bytes with indexes."""
    rows, size = connection.execute(_SIZE, {"name": partition.name}).one()
    return int(rows), int(size)


def ensure(engine: sa.Engine, now: float | None = None) -> int:
    """Create the partitions of last week, this week and the next four where they are missing.

    Costs one short query where none is. Each partition is created in a transaction of its own, by one process
    at a time; others go on at once. What is in the way for too long is left for the next time.

    Parameters
    ----------
    engine : Engine
    now : float, optional
        By default the database's clock, on which all workers agree [s since 1970].

    Returns
    -------
    int
        How many were created.

    Raises
    ------
    LogUnavailableError
        This database role has not the right; the message says which.
    """
    if engine.dialect.name != "postgresql":
        return 0
    made = 0
    try:
        # A default partition with much in it is looked through for long.
        with unforked(), engine.connect().execution_options(silence_s=math.inf) as connection:
            while _create_next(connection, now):
                made += 1
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state == _NO_RIGHT:
            raise LogUnavailableError(_lacking(engine)) from error
        if state != _IN_USE:
            raise
        logger.info("log: partitions are not created yet: a table is in use")
    return made


def _create_next(connection: sa.Connection, now: float | None) -> bool:
    """Create one missing partition; False where there is none, or another process is at it."""
    with connection.begin():
        at = database_time(connection) if now is None else now
        if not _missing(read_partitions(connection), at):
            return False
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(_PARTITIONING))):
            return False
        missing = _missing(
            read_partitions(connection), at
        )  # what another process has just created is seen
        if missing:
            create(connection, *missing[0])
        return bool(missing)


def database_time(connection: sa.Connection) -> float:
    """Return what the database's clock says; an embedded log's is this machine's [s since 1970]."""
    if connection.dialect.name != "postgresql":
        return time.time()
    return float(
        connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    )


def _missing(found: Sequence[Partition], now: float) -> list[tuple[sa.Table, str, str]]:
    """The table and bounds of each partition that there should be by now and is not."""
    this = int(now - _MONDAY_S) // WEEK_S * WEEK_S + _MONDAY_S
    mondays = [this + k * WEEK_S for k in range(-1, AHEAD + 1)]
    weeks = [(id_floor(monday), id_floor(monday + WEEK_S)) for monday in mondays]
    return [
        (table, lower, upper)
        for lower, upper in weeks
        for table in t.PARTITIONED
        if not any(p.table == table.name and p.overlaps(lower, upper) for p in found)
    ]


def create(connection: sa.Connection, table: sa.Table, lower: str, upper: str) -> None:
    """Create one partition, and move what the default one has of it; readers and writers of others go on.

    Attaching waits for who reads the default partition, and lets nobody else read it meanwhile: not for long.
    """
    whole, column = table.name, t.PARTITIONED[table]
    name, rest = f"{whole}_{_day(lower)}", f"{whole}_default"
    for statement in (
        f"SET LOCAL lock_timeout = '{PATIENCE_S}s'",
        f"CREATE TABLE {name} (LIKE {whole} INCLUDING DEFAULTS)",
        f"LOCK TABLE {whole} IN SHARE UPDATE EXCLUSIVE MODE",
        f"LOCK TABLE {rest} IN ACCESS EXCLUSIVE MODE",
        f"WITH moved AS (DELETE FROM {rest} WHERE {column} >= '{lower}' AND {column} < '{upper}' RETURNING *) "
        f"INSERT INTO {name} SELECT * FROM moved",
        f"ALTER TABLE {whole} ATTACH PARTITION {name} FOR VALUES FROM ('{lower}') TO ('{upper}')",
    ):
        connection.exec_driver_sql(statement)


def _day(identifier: str) -> str:
    """The day that an id's time is in, as a name has it."""
    seconds = int(identifier.replace("-", "")[:12], 16) / 1000
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d}"


def edge(connection: sa.Connection, until: str) -> str:
    """Return the highest id up to `until` that cuts no partition: before it `drop` can drop everything."""
    cut = [p.lower or "" for p in read_partitions(connection) if p.cuts(until)]
    return edge(connection, min(cut)) if cut else until


def drop(connection: sa.Connection, until: str) -> list[str]:
    """Let go of all rows of decisions before an id, and of the partitions that held them, in this transaction.

    The tables are locked against everybody until the transaction ends, so that it should end soon.

    Parameters
    ----------
    connection : Connection
        Of a transaction that writes.
    until : str
        One that `edge` has returned: a partition that it cuts stays whole.

    Returns
    -------
    list of str
        The partitions that are gone.

    Raises
    ------
    OperationalError
        A table was in use for too long: nothing is done, and may be tried again.
    """
    for table in _BESIDE:
        connection.execute(sa.delete(table).where(table.c.decision_id < until))
    for table, column in t.PARTITIONED.items():
        rest = table.name if connection.dialect.name == "sqlite" else f"{table.name}_default"
        connection.execute(sa.text(f"DELETE FROM {rest} WHERE {column} < :until"), {"until": until})
    gone = [p.name for p in read_partitions(connection) if p.ends_by(until)]
    if gone:
        wholes = ", ".join(table.name for table in t.PARTITIONED)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")
        connection.exec_driver_sql(f"LOCK TABLE {wholes} IN ACCESS EXCLUSIVE MODE")
        connection.exec_driver_sql(f"DROP TABLE {', '.join(gone)}")
    return gone


def _lacking(engine: sa.Engine) -> str:
    role = engine.url.username or "this role"
    return (
        f"log: {role!r} may not create partitions: make it (or a role that it is a member of) the owner of the "
        "log's tables with CREATE on their schema, or let their owner run `bandit-router migrate` "
        f"at least every {AHEAD} weeks; until then rows go to the default partitions"
    )
