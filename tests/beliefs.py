"""Workers' beliefs: filled with words, waited for, and held against the fold of the log."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from bandit_router import Router
from bandit_router.log.folding import fold
from bandit_router.log.following import Place

BACK_S = 15.0  # until all is well again, on a busy machine; about one where it is not


def hear(router: Router, n: int) -> list[bool]:
    """Let a router hear some thumbs; return which were applied at once."""
    applied = []
    for i in range(n):
        decision = router.choose(f"question {i}")
        applied.append(router.feedback(decision.id, "thumb", i % 3 > 0).applied)
    return applied


def demand_fold(*routers: Router, within_s: float = BACK_S) -> None:
    """The beliefs of all workers are, or soon become, the fold of the log."""
    deadline = time.monotonic() + within_s
    for router in routers:
        while difference := _from_fold(router):
            if time.monotonic() > deadline:
                pytest.fail(difference)
            time.sleep(0.02)


def _from_fold(router: Router) -> str:
    """What tells a worker's beliefs from the fold of the log; nothing where they agree."""
    worker = router._worker
    lens, held = worker.learner.view.lens, worker.learner.view.beliefs.evidence
    wanted = worker.log.read(lambda connection: fold(connection, lens, Place(), Place())).evidence
    known = {model for model, sums in held.items() if sums.n}
    if known != set(wanted):
        return f"beliefs about {sorted(known)}, the log about {sorted(wanted)}"
    for model, sums in wanted.items():
        for name in ("A", "b", "c", "n"):
            mine, theirs = (np.asarray(getattr(e, name)) for e in (held[model], sums))
            if not np.allclose(mine, theirs, rtol=0, atol=1e-9 * max(1.0, sums.n)):
                return f"{name} of {model}: {mine} where the log says {theirs}"
    return ""


def until(true: Callable[[], bool], within_s: float, why: Callable[[], object]) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(str(why()))
        time.sleep(0.01)


def until_well(n: float, *routers: Router, within_s: float = BACK_S) -> None:
    """All workers hold so many observations, and nothing is wrong."""

    def well() -> bool:
        return all(r.health().well and r.health().observations == n for r in routers)

    until(well, within_s, lambda: (n, [router.health() for router in routers]))
