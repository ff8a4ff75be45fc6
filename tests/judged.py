"""Routers whose answers were kept, judges over them, and a journey through time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from upstream import Upstream

from bandit_router import Outcome, Router
from bandit_router.log import tables as t
from bandit_router.log.deciding import Story
from feedback.judge import Judge, JudgeSettings

CALL_USD = 0.0002  # what the server's usual reply costs


class Clock:
    """The time, and a journey through it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def settings_of(upstream: Upstream, **changes: Any) -> JudgeSettings:
    given: dict[str, Any] = {
        "url": upstream.url,
        "model": "grader",
        "share": 1.0,
        "input_usd_per_mtok": 1.0,
        "output_usd_per_mtok": 10.0,
        "timeout_s": 20.0,
        "poll_s": 0.05,
    }
    return JudgeSettings(**{**given, **changes})


def judge_of(
    router: Router,
    upstream: Upstream,
    *,
    clock: Callable[[], float] = time.time,
    reference: Callable[[Story], str | None] | None = None,
    environ: dict[str, str] | None = None,
    **changes: Any,
) -> Judge:
    settings = settings_of(upstream, **changes)
    return Judge(router, settings, clock=clock, reference=reference, environ=environ)


def answered(router: Router, n: int, *, answer: str = "an answer", **options: Any) -> list[str]:
    decisions = [router.choose(f"question {i} about the sea", **options).id for i in range(n)]
    for i, decision_id in enumerate(decisions):
        router.report(decision_id, Outcome(output_tokens=7), answer=f"{answer} {i}")
    return decisions


def jobs_of(router: Router) -> list[dict[str, Any]]:
    order = sa.select(t.judgements).order_by(t.judgements.c.id)
    return [dict(row) for row in router.log.read(lambda c: c.execute(order).mappings().all())]


def grades_of(router: Router, decision_id: str) -> list[object]:
    said = router.decision(decision_id).feedback
    return [s.feedback.value for s in said if s.feedback.source == "judge:grader"]


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not come to be")
