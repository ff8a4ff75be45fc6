"""Workers whose clocks differ by ten minutes: no word, no decision and no evidence suffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from bandit_router import EventLog, Router
from bandit_router.asking import read_request
from bandit_router.events import id_time
from bandit_router.log.deciding import decision_rows
from bandit_router.log.folding import fold
from bandit_router.log.following import Place, log_skew_s
from bandit_router.log.writer import committed
from bandit_router.worker import Worker

Open = Callable[..., Router]
OFF_S = 600.0


@pytest.fixture
def url(log_url: str) -> str:
    """Each test here runs embedded (SQLite, memory) and on servers (PostgreSQL, Redis)."""
    return log_url


@pytest.fixture
def open_off(url: str) -> Iterator[Callable[[Router, float], Router]]:
    """Open another worker of a router, whose clock is off by so many seconds."""
    opened: list[Router] = []

    def open_(router: Router, off_s: float) -> Router:
        plan = replace(router._worker.plan, clock=lambda: time.time() + off_s)
        opened.append(Router(Worker(plan, EventLog.open(url)), durable=True))
        return opened[-1]

    yield open_
    for router in opened:
        router.close()


def counted(router: Router) -> float:
    return float(sum(belief["n"] for belief in router.beliefs().values()))


def mean(router: Router) -> float:
    beliefs = router.beliefs().values()
    return float(sum(b["n"] * (b["mean_reward"] or 0.0) for b in beliefs) / sum(b["n"] for b in beliefs))


@pytest.mark.parametrize("off_s", [OFF_S, -OFF_S])
def test_words_without_a_time_follow_each_other_as_they_arrive(
    off_s: float, router: Router, open_off: Callable[[Router, float], Router]
) -> None:
    off = open_off(router, off_s)
    for first, second in ((router, off), (off, router)):
        decision = router.choose("x", user="u")
        for i, worker in enumerate((first, second, first, second, second)):
            said = worker.feedback(decision.id, "thumb", i % 2 == 0)
            assert not said.duplicate
            assert said.reward is not None
            assert said.reward.value == (i + 1) % 2
        assert second.feedback(decision.id, "thumb", True).duplicate
        assert first.feedback(decision.id, "thumb", True).duplicate
        last = first.feedback(decision.id, "thumb", False)
        assert last.reward is not None
        assert last.reward.value == 0.0
    # A time of its own is still what counts.
    decision = router.choose("y", user="u")
    assert not router.feedback(decision.id, "thumb", True, at=time.time() - 10).duplicate
    stale = off.feedback(decision.id, "thumb", False, at=time.time() - 20)
    assert stale.reward is not None
    assert stale.reward.value == 1.0


@pytest.mark.parametrize("off_s", [OFF_S, -OFF_S])
def test_words_before_their_decision_is_visible_follow_each_other_too(
    off_s: float, router: Router, open_off: Callable[[Router, float], Router]
) -> None:
    off = open_off(router, off_s)
    made = off._worker.decider.decide(read_request("x", {"user": "u"}))  # it is on its way to the log
    assert id_time(made.id) == pytest.approx(time.time() + off_s, abs=60)
    words = [(router, True), (off, False), (router, True), (off, False)]
    for worker, value in words:
        assert worker.feedback(made.id, "thumb", value, source="u").pending
    rows = decision_rows(made, "x", keep="full", input_tokens=1.0, body_hash=None)
    committed(router.log.writer.insert(*rows))
    deadline = time.monotonic() + 20
    while counted(router) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (counted(router), mean(router)) == (1, 0.0)
    assert [said.feedback.value for said in router.decision(made.id).feedback] == [v for _, v in words]


def test_evidence_of_a_clock_that_is_off_counts_like_any_other(
    open_router: Open, open_off: Callable[[Router, float], Router]
) -> None:
    router = open_router(half_life=timedelta(days=1))
    ahead, behind = open_off(router, OFF_S), open_off(router, -OFF_S)
    for i in range(12):
        worker = (router, ahead, behind)[i % 3]
        decision = worker.choose(f"question {i}")
        assert router.feedback(decision.id, "thumb", i % 2 == 0).applied
    workers = (router, ahead, behind)
    assert [counted(worker) for worker in workers] == [pytest.approx(12, rel=0.01)] * 3
    held = [worker._worker.learner.view.beliefs.evidence for worker in workers]
    lens = router._worker.learner.view.lens
    wanted = router._worker.log.read(lambda c: fold(c, lens, Place(), Place())).evidence
    for model, sums in wanted.items():
        at = time.time()
        for evidence in held:
            mine, theirs = (e.A * e.fading(at) for e in (evidence[model], sums))
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9 * 12)
    assert all(worker.choose("x").id for worker in workers)


def test_how_far_clocks_differ_is_known(
    router: Router, url: str, open_off: Callable[[Router, float], Router]
) -> None:
    off = open_off(router, OFF_S)
    decision = off.choose("x")
    off.feedback(decision.id, "thumb", True)
    deadline, servers = time.monotonic() + 20, not url.startswith("sqlite")
    while servers and off.health().store_skew_s is None and time.monotonic() < deadline:
        time.sleep(0.02)
    wanted = pytest.approx(OFF_S, abs=2) if servers else None
    assert (off.health().log_skew_s, off.health().store_skew_s) == (wanted, wanted)
    assert log_skew_s(router.log) == (pytest.approx(0, abs=2) if servers else None)
