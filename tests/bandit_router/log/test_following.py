"""Following rows whose numbers do not commit in order: on PostgreSQL a later number may appear first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from bandit_router import EventLog, Router
from bandit_router.log import tables as t
from bandit_router.log.following import Horizon, Place, horizon, last_number, settled

Open = Callable[..., Router]


@given(st.data())
def test_a_place_is_complete_only_where_nothing_can_appear_any_more(data: st.DataObject) -> None:
    """A little database: transactions take numbers, draw rows, and commit in any order."""
    running: dict[int, list[int]] = {}
    visible: set[int] = set()
    next_number, next_row, place = 1, 1, Place()
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["begin", "draw", "commit", "abort", "read"]))
        if step == "begin":
            running[next_number] = []
            next_number += 1
        elif step == "draw" and running:
            running[data.draw(st.sampled_from(sorted(running)))].append(next_row)
            next_row += 1
        elif step in ("commit", "abort") and running:
            rows = running.pop(data.draw(st.sampled_from(sorted(running))))
            visible |= set(rows) if step == "commit" else set()
        elif step == "read":
            seen_from = Horizon(oldest=min(running, default=next_number), upcoming=next_number)
            place = place.after(visible - {row for row in visible if row in place}, seen_from)
            assert all(row in place for row in visible)
            on_their_way = [row for rows in running.values() for row in rows]
            assert not [row for row in on_their_way if row in place]
    idle = place.after((), Horizon(oldest=next_number, upcoming=next_number))
    assert idle.seen == frozenset()  # once nothing is written, nothing need be remembered


@given(st.data())
def test_a_place_rests_only_where_there_is_nothing_to_read(data: st.DataObject) -> None:
    """As above; the last number is told by a sequence, which knows of no transactions."""
    running: dict[int, list[int]] = {}
    visible: set[int] = set()
    next_number, next_row, place = 1, 1, Place()
    state = (frozenset[int](), Horizon())
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["write", "commit", "look", "look", "read", "read"]))
        if step == "write":
            running.setdefault(next_number, []).append(next_row)
            next_number, next_row = next_number + 1, next_row + 1
        elif step == "commit" and running:
            visible |= set(running.pop(data.draw(st.sampled_from(sorted(running)))))
        elif step == "look":  # a reading transaction begins
            upcoming = next_number
            state = (
                frozenset(visible),
                Horizon(oldest=min(running, default=upcoming), upcoming=upcoming),
            )
        elif step == "read" and not place.rests(next_row - 1):
            there, seen_from = state
            news = [row for row in there if row not in place]
            place = place.after(news, seen_from, drawn=next_row - 1)
            upcoming = next_number  # the next transaction begins after this one
            state = (
                frozenset(visible),
                Horizon(oldest=min(running, default=upcoming), upcoming=upcoming),
            )
        if place.rests(next_row - 1):
            assert not running
            assert all(row in place for row in visible)
    for _ in range(3):  # once nothing is written, it comes to rest
        place = place.after(
            [row for row in visible if row not in place],
            Horizon(oldest=99, upcoming=99),
            drawn=next_row - 1,
        )
    assert next_row == 1 or running or place.rests(next_row - 1)


def test_a_reader_that_has_more_to_read_completes_nothing() -> None:
    place = Place(complete=3).and_some([5, 7])
    assert (place.complete, place.last) == (3, 7)
    assert 5 in place
    assert 6 not in place


@contextmanager
def writing(url: str) -> Iterator[sa.Connection]:
    """A writing transaction of another process, rolled back unless it is committed."""
    with EventLog.open(url) as log, log.engine.execution_options(writes=True).connect() as connection:
        connection.begin()
        yield connection


def late_reward(connection: sa.Connection, decision_id: str) -> None:
    """Insert a reward row, as the writer of another worker does."""
    row = {"router": "default", "revision": 0, "at_us": 1, "made_us": 1, "model": "small"}
    connection.execute(
        sa.insert(t.rewards), row | {"decision_id": decision_id, "value": 1.0, "weight": 1.0}
    )


def counted(router: Router) -> float:
    return float(sum(belief["n"] for belief in router.beliefs().values()))


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


def test_only_who_may_have_drawn_a_number_is_waited_for(url: str) -> None:
    """Somebody else's transaction is not, however long it runs; a writer of ours is, whatever else runs."""
    with (
        EventLog.open(url) as log,
        log.engine.connect() as foreign,
        writing(url) as older,
        writing(url) as writer,
    ):
        foreign.execute(sa.text("SELECT pg_current_xact_id()"))
        own = writer.execute(sa.text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
        idle = older.execute(sa.text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
        with log.reading() as connection:
            assert horizon(connection).oldest <= idle < own  # how it looks at first
            assert horizon(connection, held_back=0).clear
        late_reward(writer, "x" * 36)
        foreign.execute(sa.text("CREATE TEMPORARY TABLE other (x int)"))
        foreign.execute(sa.text("INSERT INTO other VALUES (1)"))
        with log.reading() as connection:
            assert horizon(connection, held_back=0).oldest == own
        writer.rollback()
        with log.reading() as connection:
            assert horizon(connection, held_back=0).clear
            late_reward(older, "y" * 36)  # begun before, and writing after what was seen
        with log.reading() as connection:
            assert horizon(connection, held_back=0).oldest == idle
            older.commit()
            assert horizon(connection, held_back=0).oldest == idle  # as long as it cannot be seen
        with log.reading() as connection:
            assert horizon(connection, held_back=0).clear


def test_the_last_number_is_known_whatever_became_of_its_row(url: str, sqlite_url: str) -> None:
    for each in (url, sqlite_url):
        with EventLog.open(each) as log:
            assert log.read(lambda c: last_number(c, t.rewards)) == 0
            for decision_id in ("x" * 36, "y" * 36):
                log.write(lambda c: late_reward(c, decision_id)).result()  # noqa: B023
            log.write(lambda c: c.execute(sa.delete(t.rewards))).result()
            assert log.read(lambda c: last_number(c, t.rewards)) == 2


def test_a_row_that_commits_late_counts_once(url: str, open_router: Open) -> None:
    router = open_router()
    late, soon = router.choose("late"), router.choose("soon")
    with writing(url) as connection:
        late_reward(connection, late.id)  # takes a number, and is not committed yet
        assert router.feedback(soon.id, "thumb", True).applied  # a later number, visible first
        assert counted(router) == 1
        connection.commit()
        assert counted(router) == 2
    assert counted(open_router()) == 2
    router.rebuild()
    assert counted(router) == 2


def test_a_checkpoint_taken_meanwhile_neither_loses_nor_doubles_it(url: str, open_router: Open) -> None:
    router = open_router()
    late, soon = router.choose("late"), router.choose("soon")
    with writing(url) as connection:
        late_reward(connection, late.id)
        router.feedback(soon.id, "thumb", True)
        router.close()  # keeps a checkpoint that contains the later row, and not the earlier one
        with EventLog.open(url) as log:
            kept = log.read(lambda c: c.execute(sa.select(t.checkpoints)).mappings().one())
            rows = log.read(lambda c: list(c.execute(sa.select(t.rewards.c.seq)).scalars()))
        assert kept["reward_seq"] < rows[0]
        assert str(2 * rows[0] + 1) in kept["beyond"]
        connection.commit()
    alone = open_router(store="memory://")  # from the checkpoint, without what Redis remembers
    assert counted(alone) == 2


def test_forgetting_a_user_takes_out_what_a_checkpoint_has_beyond(url: str, open_router: Open) -> None:
    router = open_router()
    late, soon = router.choose("late", user="user:1"), router.choose("soon", user="user:2")
    with writing(url) as connection:
        late_reward(connection, late.id)
        router.feedback(soon.id, "thumb", True)
        router.close()
        connection.commit()
    again = open_router(store="memory://")
    again.forget_user("user:2")
    assert counted(again) == 1


def test_who_folds_waits_for_whoever_writes_but_not_for_ever(
    url: str, open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bandit_router.log.following.SETTLE_S", 0.2)
    router = open_router()
    first, second = router.choose("first"), router.choose("second")
    router.feedback(second.id, "thumb", True)
    with writing(url) as connection, EventLog.open(url) as log:
        late_reward(connection, first.id)
        assert settled(log, "default") == (Place(), Place())
        other = open_router(store="memory://")
        assert counted(other) == 1
        connection.commit()
        assert counted(other) == 2
        assert settled(log, "default")[0].complete > 0


def test_a_writer_is_seen_before_its_first_row(url: str) -> None:
    with EventLog.open(url) as log, writing(url):
        seen_from = log.read(horizon)
        assert not seen_from.clear
