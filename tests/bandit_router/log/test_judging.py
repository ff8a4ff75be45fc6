"""The queue of judgements in SQL: found, claimed by one, paid for once, finished once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from bandit_router import EventLog, Outcome, Router
from bandit_router.log import judging
from bandit_router.log import tables as t
from bandit_router.log.judging import Claim, Ending, JudgeStatus, Queue

QUEUE = Queue(router="default", judge="grader")
NOON = 1_000_000.5 * 86_400


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


@pytest.fixture
def log(router: Router) -> EventLog:
    return router.log


def written(log: EventLog, job: Callable[..., Any], *arguments: object, **options: object) -> Any:
    return log.write(lambda c: job(c, *arguments, **options)).result(30)


def decide(log: EventLog, *decisions: str) -> None:
    """See that there are decisions of these ids."""
    known = log.read(lambda c: set(c.execute(sa.select(t.decisions.c.id)).scalars()))
    row = {"router": "default", "at_us": 0, "model": "small", "probability": 1.0, "reason": "only"}
    row |= {"policy": "greedy", "features": b"", "features_version": "", "candidates": "[]"}
    rows = [{**row, "id": of, "input_tokens": 1.0} for of in decisions if of not in known]
    if rows:
        log.write(lambda c: c.execute(sa.insert(t.decisions), rows)).result(30)


def enqueue(log: EventLog, *decisions: str, now: float = NOON, queue: Queue = QUEUE) -> int:
    decide(log, *decisions)
    made: int = written(log, judging.enqueue, queue, decisions, probability=0.5, now=now)
    return made


def claim(log: EventLog, *, now: float = NOON, lease_s: float = 60.0, attempts: int = 3) -> Claim | None:
    found: Claim | None = written(log, judging.claim, QUEUE, now=now, lease_s=lease_s, attempts=attempts)
    return found


def claimed(log: EventLog, *, now: float = NOON) -> Claim:
    found = claim(log, now=now)
    assert found is not None
    return found


def status(log: EventLog, *, now: float = NOON) -> JudgeStatus:
    return log.read(lambda c: judging.status(c, QUEUE, now))


def test_a_judgement_is_made_once(log: EventLog) -> None:
    assert enqueue(log, "a", "b") == 2
    assert enqueue(log, "b", "c") == 1
    assert enqueue(log, "a", "b", "c") == 0
    assert enqueue(log) == 0
    assert enqueue(log, "a", queue=Queue(router="default", judge="another")) == 1
    assert status(log) == JudgeStatus(waiting=3)


def test_the_longest_due_is_claimed_first_and_by_one(log: EventLog) -> None:
    enqueue(log, "second", now=NOON + 1)
    enqueue(log, "first")
    enqueue(log, "future", now=NOON + 1_000)
    found = [claim(log, now=NOON + 2) for _ in range(3)]
    assert [c and c.decision_id for c in found] == ["first", "second", None]
    assert claim(log, now=NOON + 59) is None
    again = claim(log, now=NOON + 63)  # the claims have ended
    assert again is not None
    assert (again.decision_id, again.attempts) == ("first", 2)


def test_claims_at_the_same_time_take_different_ones(log: EventLog) -> None:
    enqueue(log, *map(str, range(40)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: claimed(log).decision_id, range(40)))
    assert sorted(found) == sorted(map(str, range(40)))


def test_two_claims_of_one_have_different_times(log: EventLog) -> None:
    enqueue(log, "a")
    one = claimed(log)
    written(log, judging.settle, one, Ending(state="waiting"), now=NOON)
    assert claimed(log).claimed_us > one.claimed_us


def test_who_kills_its_workers_fails_and_the_next_is_claimed(log: EventLog) -> None:
    enqueue(log, "killer")
    for i in range(3):
        assert claimed(log, now=NOON + 100 * i).attempts == i + 1
    enqueue(log, "other", now=NOON + 390)
    assert claimed(log, now=NOON + 400).decision_id == "other"
    assert status(log) == JudgeStatus(waiting=1, failed=1)


def test_money_is_reserved_corrected_and_counted_by_the_day(log: EventLog) -> None:
    enqueue(log, "a", "b")
    one, two = claimed(log), claimed(log)
    afford = {"budget_usd": 1.0, "now": NOON}
    paid = written(log, judging.reserve, QUEUE, one, 0.7, **afford)
    assert paid.reserved_usd == 0.7
    assert written(log, judging.reserve, QUEUE, two, 0.4, **afford) == "spent"
    assert status(log).spent_today_usd == 0.7
    written(log, judging.settle, paid, Ending(state="graded", grade=1.0, cost_usd=0.2), now=NOON)
    assert status(log).spent_today_usd == pytest.approx(0.2)
    assert written(log, judging.reserve, QUEUE, two, 0.4, **afford).reserved_usd == 0.4
    assert status(log) == JudgeStatus(waiting=1, graded=1, spent_today_usd=pytest.approx(0.6))
    assert status(log, now=NOON + 43_199).spent_today_usd == pytest.approx(0.6)
    assert status(log, now=NOON + 43_201).spent_today_usd == 0.0  # midnight UTC
    assert claimed(log, now=NOON + 43_201) == Claim(
        id=two.id, decision_id=two.decision_id, attempts=2, claimed_us=round((NOON + 43_201) * 1e6)
    )
    assert status(log, now=NOON + 43_201).spent_today_usd == 0.4  # all that it cost, for its last day


def test_what_nobody_knows_the_cost_of_stays_spent(log: EventLog) -> None:
    enqueue(log, "a")
    paid = written(log, judging.reserve, QUEUE, claimed(log), 0.7, budget_usd=None, now=NOON)
    written(log, judging.settle, paid, Ending(state="waiting", error="timeout", after_s=5.0), now=NOON)
    assert status(log).spent_today_usd == 0.7
    assert claim(log, now=NOON + 4) is None
    assert claimed(log, now=NOON + 5).attempts == 2


def test_what_does_not_count_is_no_attempt(log: EventLog) -> None:
    enqueue(log, "a")
    for _ in range(5):
        one = claimed(log)
        assert one.attempts == 1
        written(log, judging.settle, one, Ending(state="waiting", counts=False), now=NOON)


def test_what_is_finished_stays_finished(log: EventLog) -> None:
    enqueue(log, "a")
    slow, fast = claimed(log), claimed(log, now=NOON + 100)
    written(log, judging.settle, fast, Ending(state="graded", grade=0.25, cost_usd=0.1), now=NOON + 101)
    for late in (
        Ending(state="graded", grade=1.0, cost_usd=0.1),
        Ending(state="failed"),
        Ending(state="waiting"),
    ):
        written(log, judging.settle, slow, late, now=NOON + 102)
    row = log.read(lambda c: c.execute(sa.select(t.judgements)).mappings().one())
    assert (row["state"], row["grade"]) == ("graded", 0.25)
    assert row["cost_usd"] == pytest.approx(0.2)  # both were paid for


def test_a_late_word_does_not_end_anothers_claim(log: EventLog) -> None:
    enqueue(log, "a")
    slow, _ = claimed(log), claimed(log, now=NOON + 100)
    written(log, judging.settle, slow, Ending(state="waiting"), now=NOON + 101)
    assert claim(log, now=NOON + 102) is None


def test_dropped_is_gone(log: EventLog) -> None:
    enqueue(log, "a")
    written(log, judging.drop, claimed(log))
    assert status(log) == JudgeStatus()


def test_a_decision_that_was_erased_meanwhile_gets_no_judgement(router: Router, log: EventLog) -> None:
    stays, goes = router.choose("stays", user="user:1").id, router.choose("goes", user="user:2").id
    router.forget_user("user:2")
    assert written(log, judging.enqueue, QUEUE, [stays, goes], probability=0.5, now=NOON) == 1
    assert claimed(log).decision_id == stays


def test_answers_are_found_page_by_page(router: Router, log: EventLog) -> None:
    decisions = [router.choose(f"question {i}").id for i in range(7)]
    for i, decision_id in enumerate(decisions):
        router.report(decision_id, Outcome(output_tokens=i), answer=None if i == 3 else "an answer")
    router.report(decisions[0], Outcome(output_tokens=99), answer="a second one")
    enqueue(log, decisions[5])
    found, after, more, pages = [], 0, True, 0
    while more:
        page = log.read(lambda c, after=after: judging.unjudged(c, QUEUE, after, limit=3))
        ids, after, more = page
        found += ids
        pages += 1
    assert found == [*decisions[:3], decisions[4], decisions[6], decisions[0]]
    assert pages == 3
    assert log.read(lambda c: judging.unjudged(c, QUEUE, after, limit=3)) == ([], after, False)
    other = Queue(router="other", judge="grader")
    assert log.read(lambda c: judging.unjudged(c, other, 0, limit=3)) == ([], 0, False)


def test_where_to_begin(router: Router, log: EventLog) -> None:
    assert log.read(lambda c: judging.outcome_before(c, "default", NOON)) == 0
    decision = router.choose("x")
    router.report(decision.id, Outcome(output_tokens=1))
    assert log.read(lambda c: judging.outcome_before(c, "default", decision.at - 60)) == 0
    last = log.read(lambda c: judging.outcome_before(c, "default", decision.at + 60))
    assert last == log.read(lambda c: c.execute(sa.select(t.outcomes.c.seq)).scalar_one())


def test_postgresql_passes_over_what_another_holds(
    postgres_url: str, open_router: Callable[..., Router]
) -> None:
    """Nobody waits: not for a claim that is not yet committed, nor for one who reserves."""
    log = open_router(log=postgres_url).log
    enqueue(log, "a", "b")
    with log.engine.connect() as other, other.begin():
        other.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        theirs = judging.claim(other, QUEUE, now=NOON, lease_s=60.0, attempts=3)
        mine = claimed(log)
        assert theirs is not None
        assert {theirs.decision_id, mine.decision_id} == {"a", "b"}
        assert claim(log) is None
        budget = {"budget_usd": 1.0, "now": NOON}
        assert isinstance(judging.reserve(other, QUEUE, theirs, 0.9, **budget), Claim)
        assert written(log, judging.reserve, QUEUE, mine, 0.9, **budget) == "busy"
    assert written(log, judging.reserve, QUEUE, mine, 0.9, **budget) == "spent"
