"""Partitions: created ahead by whoever comes first; no insert fails; a lookup by id touches one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from bandit_router import EventLog, LogUnavailableError, Outcome, Router
from bandit_router.events import id_floor, new_id
from bandit_router.log import partitions
from bandit_router.log import tables as t
from bandit_router.log.partitions import (
    AHEAD,
    WEEK_S,
    Partition,
    database_time,
    drop,
    edge,
    ensure,
    read_partitions,
    read_size,
)
from bandit_router.log.upkeep import Upkeep
from simulations.chaos.servers import PostgresServer

Open = Callable[..., Router]
TABLES = [table.name for table in t.PARTITIONED]


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def store_url() -> str:
    return "memory://"


@contextmanager
def writing(log: EventLog) -> Iterator[sa.Connection]:
    with log.engine.execution_options(writes=True).begin() as connection:
        yield connection


def weeks(log: EventLog, table: str = "decisions") -> list[Partition]:
    return [p for p in log.read(read_partitions) if p.table == table and not p.rest]


def holder(log: EventLog, identifier: str) -> dict[str, str]:
    """In which partition each table has its rows of a decision."""
    found = {}
    with log.reading() as connection:
        for table, column in t.PARTITIONED.items():
            mine = sa.select(sa.literal_column("tableoid::regclass::text")).select_from(table)
            name = connection.scalar(mine.where(table.c[column] == identifier))
            if name is not None:
                found[table.name] = name
    return found


def decide(router: Router, monkeypatch: pytest.MonkeyPatch, at: float) -> str:
    """A decision of a clock that is wrong, with all that hangs on it."""
    monkeypatch.setattr("bandit_router.decider.new_id", lambda _: new_id(at))
    decision = router.choose(f"at {at}", user="user:1")
    monkeypatch.undo()
    router.report(decision.id, Outcome(output_tokens=3), answer="x")
    assert router.feedback(decision.id, "thumb", True).applied
    return decision.id


def test_weeks_are_there_without_gaps_from_the_last_one_to_four_ahead(url: str) -> None:
    with EventLog.open(url) as log:
        now = log.read(database_time)
        for table in TABLES:
            found = weeks(log, table)
            assert [p.upper for p in found[:-1]] == [p.lower for p in found[1:]]
            assert (found[0].lower or "") <= id_floor(now - WEEK_S)
            assert (found[-1].upper or "") > id_floor(now + AHEAD * WEEK_S)
            assert found[1].overlaps(id_floor(now), id_floor(now + 1))
        assert ensure(log.engine) == 0


def test_many_workers_create_each_partition_once(url: str) -> None:
    with EventLog.open(url) as log:
        later = log.read(database_time) + 2 * WEEK_S
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: ensure(log.engine, later), range(4)))
        ensure(log.engine, later)  # where one left it to another that was just done
        assert sum(made) <= 2 * len(TABLES)
        assert len(log.read(read_partitions)) == (1 + 6 + 2) * len(TABLES)
        assert ensure(log.engine, later) == 0


def test_rows_of_clocks_that_are_off_are_kept_and_move_when_their_week_is_created(
    url: str, open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = open_router()
    with EventLog.open(url) as log:
        now = log.read(database_time)
        past, soon, ahead = (
            decide(router, monkeypatch, at) for at in (1.0, now + 7 * WEEK_S, now + 500 * WEEK_S)
        )
        rest = {name: f"{name}_default" for name in TABLES}
        assert holder(log, past) == holder(log, soon) == holder(log, ahead) == rest
        believed = router.beliefs()
        assert ensure(log.engine, now + 7 * WEEK_S) > 0
        assert set(holder(log, soon)) == set(TABLES)
        assert not any(name.endswith("default") for name in holder(log, soon).values())
        assert holder(log, past) == holder(log, ahead) == rest
        router.feedback(soon, "thumb", False)
        router.rebuild()
        assert sum(b["n"] for b in router.beliefs().values()) == pytest.approx(3.0)
        assert router.beliefs() != believed


def test_a_lookup_by_id_touches_one_partition(url: str, open_router: Open) -> None:
    decision = open_router().choose("p")
    with EventLog.open(url) as log, log.reading() as connection:
        for table, column in t.PARTITIONED.items():
            mine = sa.text(f"EXPLAIN SELECT * FROM {table.name} WHERE {column} = :of FOR UPDATE")
            plan = "\n".join(connection.execute(mine, {"of": decision.id}).scalars())
            assert plan.count(f"on {table.name}_") == 1, plan


def test_who_reads_for_long_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "PATIENCE_S", 0.05)
    with EventLog.open(url) as log:
        later = log.read(database_time) + WEEK_S
        with log.reading() as connection:
            connection.execute(sa.select(sa.func.count()).select_from(t.decisions))
            assert ensure(log.engine, later) == 0
        assert ensure(log.engine, later) == len(TABLES)


def test_a_role_without_the_right_hears_which_and_its_router_goes_on(
    url: str, postgres_server: PostgresServer, open_router: Open, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"guest_{new_id()[:8]}"
    with EventLog.open(url) as log, writing(log) as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        rights = "SELECT, INSERT, UPDATE, DELETE"
        connection.exec_driver_sql(f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
    guest = str(sa.make_url(url).set(username=role))
    try:
        with EventLog.open(guest) as log:
            assert ensure(log.engine) == 0
            later = log.read(database_time) + WEEK_S
            with pytest.raises(
                LogUnavailableError, match=f"'{role}' may not create .*bandit-router migrate"
            ):
                ensure(log.engine, later)
            caplog.set_level(logging.WARNING)
            router = open_router(log=guest)
            assert router.feedback(router.choose("p").id, "thumb", True).applied
            upkeep = Upkeep(log)
            with EventLog.open(url) as owners, writing(owners) as connection:
                connection.exec_driver_sql(f"DROP TABLE {weeks(log)[-1].name}")
            upkeep.look()
            upkeep.look()
            assert caplog.text.count("may not create partitions") == 1
            router.close()
    finally:
        with EventLog.open(url) as log, writing(log) as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_what_is_old_goes_with_its_partitions(
    url: str, open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = open_router()
    with EventLog.open(url) as log:
        now = log.read(database_time)
        ensure(log.engine, now - 3 * WEEK_S)
        past, old = decide(router, monkeypatch, 1.0), decide(router, monkeypatch, now - 3 * WEEK_S)
        kept = decide(router, monkeypatch, now - WEEK_S)
        until = log.read(lambda c: edge(c, id_floor(now - WEEK_S)))
        assert old < until <= kept
        assert until == log.read(lambda c: edge(c, until))
        with writing(log) as connection:
            gone = drop(connection, until)
        assert len(gone) == 3 * len(TABLES)
        assert not set(gone) & {p.name for p in log.read(read_partitions)}
        assert holder(log, past) == holder(log, old) == {}
        assert set(holder(log, kept)) == set(TABLES)


def test_an_embedded_log_has_none_and_drops_rows(sqlite_url: str, open_router: Open) -> None:
    router = open_router(log=sqlite_url)
    old, kept = router.choose("old", key="a"), router.choose("kept", key="b")
    for decision in (old, kept):
        router.report(decision.id, Outcome(output_tokens=3))
    with EventLog.open(sqlite_url) as log:
        assert ensure(log.engine) == 0
        assert log.read(read_partitions) == []
        assert log.read(lambda c: edge(c, kept.id)) == kept.id
        with writing(log) as connection:
            assert drop(connection, kept.id) == []
        for table, column in (t.PARTITIONED | {t.decision_keys: "decision_id"}).items():
            left = log.read(lambda c, of=table.c[column]: c.execute(sa.select(of)).scalars().all())
            assert left in ([kept.id], [])
        assert router.decision(kept.id).outcome is not None


def test_sizes_are_told(url: str) -> None:
    with EventLog.open(url) as log, log.reading() as connection:
        rows, size = read_size(connection, read_partitions(connection)[0])
        assert (rows, size > 0) == (0, True)
