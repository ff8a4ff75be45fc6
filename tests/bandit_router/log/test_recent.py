"""A sample of what happened lately: exact where there is little, bounded where there is much."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from bandit_router import EventLog, Outcome, Router
from bandit_router.events import Decision, new_id
from bandit_router.log import tables as t
from bandit_router.log.recent import read_recent, stacked
from bandit_router.log.rows import decision_row, to_us

HOUR_S = 3600.0


@pytest.fixture
def url(log_url: str) -> str:
    """Each kind of log."""
    return log_url


@pytest.fixture
def log(url: str, router: Router) -> Iterator[EventLog]:
    """The router's log, opened beside it."""
    with EventLog.open(url) as log:
        yield log


def repeat(log: EventLog, decision: Decision, moments: list[float]) -> None:
    """The same decision again, at other moments."""
    again = [replace(decision, id=new_id(at), at=at) for at in moments]
    rows = [decision_row(d, input_tokens=1.0, body_hash=None, prompt_hash=None) for d in again]
    log.write(lambda c: c.execute(sa.insert(t.decisions), rows)).result()


def test_what_was_decided_and_heard(router: Router, log: EventLog) -> None:
    decisions = [router.choose("hi") for _ in range(4)]
    router.report(decisions[0].id, Outcome(input_tokens=10, output_tokens=10))
    router.report(decisions[1].id, Outcome(latency_s=1.0))
    router.feedback(decisions[0].id, "thumb", False)
    router.feedback(decisions[0].id, "thumb", True)
    router.feedback(decisions[0].id, "rating", 1.0)
    router.retract(router.feedback(decisions[1].id, "thumb", True).id)

    recent = log.read(lambda c: read_recent(c, "default", now=time.time()))
    assert [s.id for s in recent.seen] == [decision.id for decision in decisions]
    first, second, third, _ = recent.seen
    assert (first.outcome, first.cost_known, first.reward) == (True, True, 1.0)
    assert sorted(first.words) == [("rating", "1.0", 1.0), ("thumb", "true", 1.0)]
    assert (second.outcome, second.cost_known, second.reward, second.words) == (True, False, None, ())
    assert (third.outcome, third.cost_known) == (False, False)
    assert first.probabilities == decisions[0].probabilities
    assert recent.decisions == 4
    assert recent.last_reward > 0
    assert recent.configured <= time.time()
    places, features = stacked(recent.seen)
    assert places.tolist() == [23.0] * 4
    np.testing.assert_array_equal(features[0], decisions[0].features)
    assert log.read(lambda c: read_recent(c, "another", now=time.time())).seen == ()
    flagged = replace(recent.seen[-1], features_version=f"{recent.seen[-1].features_version}~")
    assert len(stacked([*recent.seen, flagged])[0]) == 4  # what lacks its embedding has not drifted
    assert len(stacked([flagged])[0]) == 1


def test_a_sample_spans_the_window_and_is_bounded(router: Router, log: EventLog) -> None:
    now = time.time()
    decision = router.choose("hi")
    busy = [now - 2 * HOUR_S + 5 + 10 * i for i in range(360)]  # one every 10 s, for an hour
    repeat(log, decision, busy)
    repeat(log, decision, [now - 5 * HOUR_S])
    recent = log.read(
        lambda c: read_recent(c, "default", now=now, window_s=4 * HOUR_S, slices=4, each=20)
    )
    assert Counter(s.place for s in recent.seen) == {2: 20, 3: 1}
    assert max(s.at for s in recent.seen if s.place == 2) == pytest.approx(busy[-1])  # the newest
    assert [s.at for s in recent.seen] == sorted(s.at for s in recent.seen)
    assert recent.decisions == pytest.approx(361, rel=0.1)


def test_words_that_wait_in_vain_are_counted(router: Router, log: EventLog) -> None:
    for _ in range(3):
        router.feedback(new_id(), "thumb", True)
    late = sa.update(t.pending).values(received_us=to_us(time.time() - 1000))
    some = sa.select(t.pending.c.id).limit(2).scalar_subquery()
    log.write(lambda c: c.execute(late.where(t.pending.c.id.in_(some)))).result()
    assert log.read(lambda c: read_recent(c, "default", now=time.time())).waiting == 2


def test_judgements_are_counted_by_judge(router: Router, log: EventLog) -> None:
    now = to_us(time.time())
    rows = [
        {
            "id": new_id(),
            "router": router_name,
            "decision_id": f"d{i}",
            "judge": judge,
            "probability": 1.0,
            "state": state,
            "attempts": 1,
            "created_us": now,
            "due_us": now,
            "claimed_us": claimed,
        }
        for i, (judge, state, router_name, claimed) in enumerate(
            [
                ("a", "graded", "default", now),
                ("a", "failed", "default", now),
                ("a", "failed", "default", now - to_us(100 * HOUR_S)),
                ("b", "malformed", "default", now),
                ("b", "failed", "another", now),
                ("c", "waiting", "default", None),
            ]
        )
    ]
    log.write(lambda c: c.execute(sa.insert(t.judgements), rows)).result()
    recent = log.read(lambda c: read_recent(c, "default", now=time.time()))
    assert recent.judged == {"a": {"graded": 1, "failed": 1}, "b": {"malformed": 1}}


def test_no_statement_reads_a_whole_table(router: Router, log: EventLog) -> None:
    """Every look-up can go through an index; so on many rows its cost does not grow with history."""
    decision = router.choose("hi")
    now = time.time()
    repeat(log, decision, [now - 60 * i for i in range(3_000)])
    said: list[tuple[str, object]] = []

    def heard(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.lstrip().startswith("SELECT") and "alembic" not in statement:
            said.append((statement, parameters))

    sa.event.listen(log.engine, "before_cursor_execute", heard)
    log.read(lambda c: read_recent(c, "default", now=now))
    sa.event.remove(log.engine, "before_cursor_execute", heard)
    assert len(said) > 24
    for statement, parameters in said:
        for line in plan(log, statement, parameters):
            assert not re.search(r"SCAN (?!anon)|Seq Scan on decisions", line), line


def plan(log: EventLog, statement: str, parameters: object) -> list[str]:
    """How the database would go about a statement if it read whole tables only where it must.

    Whether PostgreSQL reads a table of a few pages in order hangs on its statistics, thus on chance.
    """
    sqlite = log.engine.dialect.name == "sqlite"
    explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "

    def explained(connection: sa.Connection) -> list[str]:
        if not sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        # As the driver got them.
        found = connection.exec_driver_sql(explain + statement, parameters)  # type: ignore[arg-type]
        return [" ".join(map(str, row)) for row in found]

    return log.read(explained)
