"""Weeks of traffic in a moment: a clock that goes when it is told to, and what happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bandit_router import Decision, EventLog, Outcome, Router
from bandit_router.retention import DAY_S, Range, retain

BEGAN = 1_770_000_000.0  # 2026-02-02, a Monday


class Clock:
    """A clock; ids and times of all that happens while it is in force are its own."""

    def __init__(self, now: float = BEGAN) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, days: float) -> None:
        """Let time go by."""
        self.now += days * DAY_S

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let routers that are opened meanwhile, and all else, go by this clock."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(time, "time", self)
            yield


def talk(router: Router, clock: Clock, *, weeks: int = 3, each: int = 4) -> list[Decision]:
    """Let users ask and answer: each of two users half of the time, and the other about it."""
    decisions = []
    for i in range(weeks * each):
        decision = router.choose(f"question {i}", user=f"user:{i % 2}")
        router.report(decision.id, Outcome(output_tokens=10 + i, cost_usd=0.01 * (1 + i), latency_s=1.0))
        router.feedback(decision.id, "rating", (i % 5) / 4)
        if i % 3 == 0:
            router.feedback(decision.id, "thumb", i % 2 == 0, source=f"user:{1 - i % 2}")
        decisions.append(decision)
        clock.wait(7.0 / each)
    return decisions


def archive(url: str, folder: Path, clock: Clock, *, days: float = 1.0) -> list[Range]:
    """Archive what is older than some days."""
    with EventLog.open(url) as log:
        return list(retain(log, folder, older_than_s=days * DAY_S, now=clock.now))


def counted(router: Router) -> dict[str, float]:
    """How many observations each model has, and their mean."""
    found = {}
    for model, belief in router.beliefs().items():
        found[f"{model} n"] = belief["n"]
        found[f"{model} mean"] = belief["mean_reward"] or 0.0
    return found
