"""Words that come before their decision: kept, said again, taken back, and applied once and in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_router import (
    ConflictError,
    EventLog,
    LogUnavailableError,
    Outcome,
    UnknownDecisionError,
    UnknownFeedbackError,
)
from bandit_router.asking import read_word
from bandit_router.events import Candidate, Decision, Feedback, FeedbackValue, new_id
from bandit_router.log import tables as t
from bandit_router.log.deciding import Story, decision_rows, read_story
from bandit_router.log.hearing import Reported
from bandit_router.log.pending import (
    AHEAD_S,
    KEPT_S,
    YOUNG_S,
    apply_pending,
    has_pending,
    hear,
    report,
    retract,
)
from bandit_router.log.rows import from_us
from bandit_router.log.writer import committed
from bandit_router.rewards import METRICS

ROUTER = "default"


@dataclass
class Desk:
    """One log, a clock that stands still, and decisions that the log does not have until they appear."""

    log: EventLog
    now: float = field(default_factory=lambda: round(time.time(), 6))

    def decide(self, router: str = ROUTER, **who: Any) -> Decision:
        return Decision(
            id=new_id(self.now),
            router=router,
            model="small",
            probability=1.0,
            reason="only",
            policy="greedy",
            candidates=(Candidate(model="small", probability=1.0, mean=0.5, std=0.1),),
            at=self.now,
            features=np.ones(3),
            features_version="of these tests",
            **who,
        )

    def appear(self, decision: Decision) -> Decision:
        rows = decision_rows(decision, None, keep="none", input_tokens=1.0, body_hash=None)
        committed(self.log.writer.insert(*rows))
        return decision

    def say(
        self, decision_id: str, value: FeedbackValue, name: str = "thumb", **options: Any
    ) -> Feedback:
        options.setdefault("source", "user:1")
        word = read_word(decision_id, name, value, options, metrics=METRICS, now=self.now)
        return committed(self.log.write(lambda c: hear(c, ROUTER, word, METRICS)))

    def report(self, decision_id: str) -> Reported:
        sides: dict[str, Any] = {"answer": None, "models": {}, "metrics": METRICS, "now": self.now}
        outcome = Outcome(latency_s=1.0)
        return committed(self.log.write(lambda c: report(c, ROUTER, decision_id, outcome, **sides)))

    def take_back(self, feedback_id: str) -> Feedback:
        return committed(self.log.write(lambda c: retract(c, ROUTER, feedback_id, METRICS, self.now)))

    def sweep(self, router: str = ROUTER) -> int:
        return committed(self.log.write(lambda c: apply_pending(c, router, METRICS, self.now)))

    def waits(self, router: str = ROUTER) -> bool:
        return self.log.read(lambda c: has_pending(c, router))

    def story(self, decision: Decision) -> Story:
        return self.log.read(lambda c: read_story(c, ROUTER, decision.id))

    def value(self, decision: Decision) -> float | None:
        reward = self.story(decision).reward
        return None if reward is None else reward.value


@pytest.fixture
def desk(log_url: str) -> Iterator[Desk]:
    with EventLog.open(log_url) as log:
        yield Desk(log)


def test_a_word_waits_for_its_decision_and_keeps_its_id_and_times(desk: Desk) -> None:
    decision = desk.decide(user="user:7")
    said_at = desk.now - 5
    early = desk.say(decision.id, True, source=None, comment="good", key="k", at=said_at)
    assert (early.pending, early.applied, early.reward, early.source) == (True, False, None, None)
    assert (early.decision_id, early.at, early.key) == (decision.id, said_at, "k")
    received, desk.now = desk.now, desk.now + 60
    assert desk.sweep() == 0
    assert desk.waits()
    desk.appear(decision)
    assert desk.sweep() == 1
    assert not desk.waits()
    assert desk.sweep() == 0
    story = desk.story(decision)
    (said,) = story.feedback
    assert (said.feedback.id, said.feedback.source, said.feedback.at) == (early.id, "user:7", said_at)
    assert (said.feedback.value, said.feedback.comment, said.feedback.key) == (True, "good", "k")
    assert desk.value(decision) == 1
    kept = desk.log.read(lambda c: c.execute(sa.select(t.feedback.c.received_us)).scalar_one())
    assert from_us(kept) == received


def test_an_anonymous_word_gets_its_source_from_the_decision(desk: Desk) -> None:
    decision = desk.decide()
    desk.say(decision.id, False, source=None)
    desk.appear(decision)
    desk.sweep()
    (said,) = desk.story(decision).feedback
    assert said.feedback.source == f"anonymous:{decision.id}"


def test_ties_go_to_the_last_to_come(desk: Desk) -> None:
    decision = desk.decide()
    ids = [desk.say(decision.id, value).id for value in (True, False, True, False)]
    desk.appear(decision)
    assert desk.sweep() == 4
    assert [said.feedback.id for said in desk.story(decision).feedback] == ids
    assert desk.value(decision) == 0


def test_what_waits_comes_before_a_word_that_finds_the_decision(desk: Desk) -> None:
    decision = desk.decide()
    first = desk.say(decision.id, True)
    desk.appear(decision)
    second = desk.say(decision.id, False)  # at the same moment: it came later, so it wins
    assert (second.pending, desk.waits()) == (False, False)
    assert second.reward is not None
    assert second.reward.value == 0
    assert [said.feedback.id for said in desk.story(decision).feedback] == [first.id, second.id]
    again = desk.decide()
    held = desk.say(again.id, True)
    desk.appear(again)
    repeated = desk.say(again.id, True)
    assert (repeated.id, repeated.duplicate) == (held.id, True)


def test_a_late_word_is_kept_but_does_not_win(desk: Desk) -> None:
    decision = desk.decide()
    desk.say(decision.id, False, at=desk.now)
    desk.say(decision.id, True, at=desk.now - 60)
    desk.appear(decision)
    late = desk.say(decision.id, True, at=desk.now - 30)
    assert late.reward is not None
    assert late.reward.value == 0
    assert [said.feedback.value for said in desk.story(decision).feedback] == [False, True, True]


def test_a_waiting_word_may_be_late_itself(desk: Desk) -> None:
    """It waited while a newer one was heard by a worker that saw the decision."""
    decision = desk.decide()
    desk.say(decision.id, True, at=desk.now - 60)
    desk.appear(decision)
    newer = desk.say(decision.id, False, at=desk.now - 30)
    assert newer.reward is not None
    assert newer.reward.value == 0


def test_a_repeated_word_is_said_once_and_holds_from_its_latest_time(desk: Desk) -> None:
    decision = desk.decide()
    first = desk.say(decision.id, True, at=desk.now - 60)
    again = desk.say(decision.id, True, at=desk.now)
    assert (again.id, again.duplicate, again.pending) == (first.id, True, True)
    between = desk.say(decision.id, False, at=desk.now - 30)
    assert not between.duplicate
    others = [
        desk.say(decision.id, True, source="user:2"),
        desk.say(decision.id, 1.0, name="rating"),
        desk.say(decision.id, True, comment="new"),
    ]
    assert not any(word.duplicate for word in others)
    desk.appear(decision)
    assert desk.sweep() == 5
    assert desk.value(decision) == 1


def test_keys_count_once_before_and_after(desk: Desk) -> None:
    decision, other = desk.decide(), desk.decide()
    first = desk.say(decision.id, True, key="k")
    assert desk.say(other.id, False, key="k").duplicate is False
    for _ in range(2):
        again = desk.say(decision.id, True, key="k")
        assert (again.id, again.duplicate, again.value) == (first.id, True, True)
        with pytest.raises(ConflictError):
            desk.say(decision.id, False, key="k")
        if again.pending:
            desk.appear(decision)
    desk.sweep()
    assert len(desk.story(decision).feedback) == 1


def test_what_was_taken_back_while_it_waited_stays_so(desk: Desk) -> None:
    decision = desk.decide()
    desk.say(decision.id, True, at=desk.now - 60)
    second = desk.say(decision.id, False, key="k")
    taken = desk.take_back(second.id)
    assert (taken.id, taken.duplicate, taken.pending, taken.reward) == (second.id, False, True, None)
    assert desk.take_back(second.id).duplicate
    assert desk.say(decision.id, False, key="k").duplicate
    desk.appear(decision)
    assert desk.sweep() == 2
    assert desk.value(decision) is None  # the first one does not return
    assert [said.retracted for said in desk.story(decision).feedback] == [False, True]
    assert desk.take_back(second.id).duplicate


def test_a_word_can_be_taken_back_under_its_first_id_after_it_was_applied(desk: Desk) -> None:
    decision = desk.decide()
    early = desk.say(decision.id, True)
    desk.appear(decision)
    desk.sweep()
    taken = desk.take_back(early.id)
    assert (taken.duplicate, taken.pending, taken.reward) == (False, False, None)
    with pytest.raises(UnknownFeedbackError):
        desk.take_back(new_id())


def test_said_again_after_it_was_taken_back_it_is_a_new_word(desk: Desk) -> None:
    decision = desk.decide()
    first = desk.say(decision.id, True)
    desk.take_back(first.id)
    again = desk.say(decision.id, True)
    assert (again.duplicate, again.id == first.id) == (False, False)
    desk.appear(decision)
    desk.sweep()
    assert desk.value(decision) == 1


@pytest.mark.parametrize(
    ("age", "held"),
    [(0.0, True), (YOUNG_S - 1, True), (YOUNG_S + 1, False), (1 - AHEAD_S, True), (-1 - AHEAD_S, False)],
)
def test_only_a_young_decision_is_waited_for(desk: Desk, age: float, held: bool) -> None:
    unknown = new_id(desk.now - age)
    if held:
        assert desk.say(unknown, True).pending
    else:
        with pytest.raises(UnknownDecisionError):
            desk.say(unknown, True)
    assert desk.waits() is held


def test_only_an_id_as_ours_are_is_waited_for(desk: Desk) -> None:
    young = new_id(desk.now)
    for odd in (young.upper(), f"{{{young}}}", young.replace("-", ""), f"urn:uuid:{young}", "not-an-id"):
        with pytest.raises(UnknownDecisionError):
            desk.say(odd, True)
    with pytest.raises(UnknownDecisionError):
        desk.say(f"{young[:14]}4{young[15:]}", True)  # version 4
    assert not desk.waits()


def test_a_decision_of_another_router_is_not_waited_for(desk: Desk) -> None:
    other = desk.decide("other")
    early = desk.say(other.id, True)
    assert early.pending
    desk.appear(other)
    with pytest.raises(UnknownDecisionError):
        desk.say(other.id, False)
    # What came before either router could know is applied by the one that decided.
    assert desk.waits("other")
    assert desk.sweep() == 0
    assert desk.sweep("other") == 1
    story = desk.log.read(lambda c: read_story(c, "other", other.id))
    assert [said.feedback.id for said in story.feedback] == [early.id]


def test_what_waits_in_vain_is_dropped_aloud(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    lost, found = new_id(desk.now), desk.decide()
    desk.say(lost, True)
    desk.say(found.id, True)
    desk.now += KEPT_S - 1
    assert desk.sweep() == 0
    assert not caplog.records
    desk.now += 2
    desk.appear(found)  # at the last moment
    with caplog.at_level(logging.WARNING):
        assert desk.sweep() == 1
    assert "1 words of feedback were dropped" in caplog.text
    assert not desk.waits()
    assert desk.value(found) == 1


def test_a_refused_word_leaves_what_waits_as_it_was(desk: Desk) -> None:
    decision = desk.decide()
    early = desk.say(decision.id, True, key="k")
    desk.appear(decision)
    with pytest.raises(ConflictError):
        desk.say(decision.id, False, key="k")
    assert desk.waits()
    assert desk.story(decision).feedback == ()
    assert desk.sweep() == 1
    assert desk.story(decision).feedback[0].feedback.id == early.id


def test_two_that_sweep_at_once_apply_every_word_once(desk: Desk, log_url: str) -> None:
    decisions = [desk.decide() for _ in range(40)]
    said = [
        desk.say(d.id, value, source=s).id for d in decisions for s, value in (("a", True), ("b", False))
    ]
    for decision in decisions:
        desk.appear(decision)
    counts: list[int] = []
    start = threading.Barrier(3)

    def sweep() -> None:
        with EventLog.open(log_url) as log:
            start.wait(30)
            for _ in range(3):
                counts.append(
                    committed(log.write(lambda c: apply_pending(c, ROUTER, METRICS, desk.now)))
                )

    threads = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in threads:
        thread.start()
    start.wait(30)
    for decision in decisions:  # meanwhile others speak about the same decisions
        desk.say(decision.id, True, source="c")
    for thread in threads:
        thread.join(60)
    assert not desk.waits()
    recorded = [word.feedback.id for d in decisions for word in desk.story(d).feedback]
    assert len(recorded) == len(set(recorded)) == 3 * len(decisions)
    assert set(said) < set(recorded)
    for decision in decisions:
        assert [word.feedback.source for word in desk.story(decision).feedback] == ["a", "b", "c"]


def test_a_key_that_two_workers_hear_at_once_counts_once(desk: Desk, log_url: str) -> None:
    word = read_word(
        desk.decide().id, "thumb", True, {"source": "user:1", "key": "k"}, metrics=METRICS, now=desk.now
    )
    heard, go = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> Feedback:
        first = hear(connection, ROUTER, word, METRICS)
        heard.set()
        assert go.wait(30)
        return first

    with EventLog.open(log_url) as other:
        slowly = desk.log.write(slow)
        assert heard.wait(30)
        again = other.write(lambda c: hear(c, ROUTER, word, METRICS))
        with pytest.raises(TimeoutError):
            again.result(0.3)  # it waits for the first one's commit
        go.set()
        first, second = committed(slowly), committed(again)
    assert (second.id, first.duplicate, second.duplicate) == (first.id, False, True)


def test_a_word_that_is_taken_back_while_it_is_applied_is_taken_back(desk: Desk, log_url: str) -> None:
    early = desk.say(desk.decide().id, True)
    decision = desk.decide()
    kept = desk.say(decision.id, True)
    desk.appear(decision)
    swept, go = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> int:
        applied = apply_pending(connection, ROUTER, METRICS, desk.now)
        swept.set()
        assert go.wait(30)
        return applied

    with EventLog.open(log_url) as other:
        sweeping = desk.log.write(slow)
        assert swept.wait(30)
        taking = other.write(lambda c: retract(c, ROUTER, kept.id, METRICS, desk.now))
        with pytest.raises(TimeoutError):
            taking.result(0.3)
        go.set()
        assert committed(sweeping) == 1
        taken = committed(taking)
    assert (taken.pending, taken.duplicate, desk.value(decision)) == (False, False, None)
    assert desk.take_back(early.id).pending


# -- the law ---------------------------------------------------------------------------------------

_words = st.fixed_dictionaries(
    {
        "name": st.just("thumb"),
        "value": st.sampled_from([True, False, None]),
        "source": st.sampled_from(["user:1", "user:2"]),
        "ago": st.integers(0, 3),
        "key": st.sampled_from([None, None, "k", "l"]),
    }
)
_steps = st.lists(st.one_of(_words, st.integers(0, 7)), max_size=10)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk for many examples: each has decisions of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('law') / 'chat.db'}"
    with EventLog.open(url) as log:
        yield Desk(log)


@settings(max_examples=60)
@given(before=_steps, after=_steps)
def test_waiting_changes_nothing(embedded: Desk, before: list[Any], after: list[Any]) -> None:
    """Words about a decision that appears late amount to what they would about one seen at once."""
    late, seen = embedded.decide(), embedded.appear(embedded.decide())
    ids: list[tuple[str, str]] = []
    _play(embedded, late, seen, before, ids)
    embedded.appear(late)
    _play(embedded, late, seen, after, ids)
    embedded.sweep()
    assert _votes(embedded, late) == _votes(embedded, seen)
    assert embedded.value(late) == embedded.value(seen)


def _play(
    desk: Desk, late: Decision, seen: Decision, steps: list[Any], ids: list[tuple[str, str]]
) -> None:
    for step in steps:
        if isinstance(step, int):
            if ids:
                taken = [desk.take_back(id_) for id_ in ids[step % len(ids)]]
                assert taken[0].duplicate == taken[1].duplicate
            continue
        said = [_say(desk, decision, step) for decision in (late, seen)]
        assert type(said[0]) is type(said[1])
        if isinstance(said[0], Feedback) and isinstance(said[1], Feedback):
            assert said[0].duplicate == said[1].duplicate
            ids.append((said[0].id, said[1].id))


def _say(desk: Desk, decision: Decision, step: dict[str, Any]) -> Feedback | ConflictError:
    options = {"source": step["source"], "key": step["key"], "at": desk.now - step["ago"]}
    try:
        return desk.say(decision.id, step["value"], step["name"], **options)
    except ConflictError as error:
        return error


def _votes(desk: Desk, decision: Decision) -> list[tuple[Any, ...]]:
    story = desk.story(decision)
    return [
        (s.feedback.source, s.feedback.value, s.feedback.at, s.feedback.key, s.retracted)
        for s in story.feedback
    ]


def test_an_outcome_that_comes_before_its_decision_is_to_come_again(desk: Desk) -> None:
    decision = desk.decide()
    with pytest.raises(LogUnavailableError, match="not there yet"):
        desk.report(decision.id)
    desk.appear(decision)
    assert not desk.report(decision.id).duplicate
    with pytest.raises(UnknownDecisionError):  # none of its age can be on its way
        desk.report(new_id(desk.now - YOUNG_S - 1))
