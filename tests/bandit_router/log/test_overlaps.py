"""Overlaps: read as they are, and rewards made anew by other trust."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from beliefs import demand_fold, until_well

from bandit_router import Outcome, Router
from bandit_router.log.overlaps import read_outdated, reweigh
from bandit_router.log.writer import committed
from bandit_router.rewards import METRICS, Metric, Trust

Open = Callable[..., Router]
FAIR = {**METRICS, "judge": Metric(weight=0.5, limited=False, trust={"judge:a": Trust(weight=0.25)})}


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def spoken_of(router: Router, n: int) -> list[str]:
    """Decisions, each with a grade, and every other one with a thumb."""
    decisions = [router.choose(f"question {i}").id for i in range(n)]
    for i, of in enumerate(decisions):
        router.feedback(of, "judge", 0.75, source="judge:a")
        if i % 2:
            router.feedback(of, "thumb", True, source=f"user:{i}")
    return decisions


def revisions(router: Router, decisions: Sequence[str]) -> list[int]:
    return [len(router.decision(of).revisions) for of in decisions]


def test_answers_are_the_newest_with_all_that_is_said(router: Router) -> None:
    decisions = spoken_of(router, 4)
    router.report(decisions[3], Outcome(model="large", output_tokens=1))
    router.retract(router.feedback(decisions[2], "thumb", False, source="user:9").id)
    router.choose("nobody says anything about it")
    answers = router.answers(newest=3)
    assert [len(answer.votes) for answer in answers] == [2, 1, 2]
    assert answers[-1].model == "large"
    assert {vote.name for vote in answers[0].votes} == {"judge", "thumb"}
    mean = sum(c.mean for c in router.decision(decisions[1]).decision.candidates) / 2
    assert answers[0].level == pytest.approx(mean)


def test_beliefs_are_the_fold_afterwards_on_every_worker(open_router: Open) -> None:
    router, other = open_router(), open_router()
    decisions = spoken_of(router, 6)
    before = revisions(router, decisions)
    router.configure(metrics=FAIR)
    assert router.reweigh() == 6
    assert revisions(router, decisions) == [n + 1 for n in before]
    plain, thumbed = (router.decision(of).reward for of in decisions[:2])
    assert plain is not None
    assert (plain.value, plain.weight) == (0.75, 0.25)
    assert thumbed is not None
    assert (thumbed.value, thumbed.weight) == (pytest.approx((0.75 / 4 + 1) / 1.25), 1.0)
    until_well(3 * 0.25 + 3, router, other)
    demand_fold(router, other)
    assert router.reweigh() == other.reweigh() == 0


def test_one_that_died_half_way_is_finished_by_the_next(router: Router) -> None:
    decisions = spoken_of(router, 6)
    router.configure(metrics=FAIR)
    page = router.log.read(partial(read_outdated, router="default", metrics=FAIR, after="", limit=4))
    assert (len(page.ids), page.more, page.last) == (4, True, decisions[3])
    half = partial(reweigh, router="default", ids=page.ids[:3], metrics=FAIR, now=1.0)
    assert committed(router.log.write(half)) == 3
    assert committed(router.log.write(half)) == 0
    assert router.reweigh() == 3
    until_well(3 * 0.25 + 3, router)
    demand_fold(router)


def test_a_source_that_counts_nothing_any_more_leaves_nothing(router: Router) -> None:
    decisions = spoken_of(router, 2)
    nothing = Metric(limited=False, trust={"judge:a": Trust(weight=0.0)})
    router.configure(metrics={"judge": nothing})
    assert router.reweigh() == 2
    assert router.decision(decisions[0]).reward is None
    router.feedback(decisions[0], "judge", 0.5, source="judge:b")
    until_well(2.0, router)
    demand_fold(router)


def test_a_decision_that_is_gone_meanwhile_is_passed_over(router: Router) -> None:
    decisions = spoken_of(router, 2)
    router.configure(metrics=FAIR)
    job = partial(reweigh, router="default", ids=["gone", *decisions], metrics=FAIR, now=1.0)
    assert committed(router.log.write(job)) == 2
