"""Tune on a full-information table: candidates live through some rows, and a few of them through others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import ReplayError
from bandit_router.features import HashedFeatures
from bandit_router.values import Array
from simulations.offpolicy.intervals import ALPHA, student
from simulations.replay import Scene
from simulations.simulate import stage
from simulations.tables import Table
from simulations.tuning.candidates import Candidate, suggest
from simulations.tuning.changes import Change
from simulations.tuning.living import live
from simulations.tuning.search import FEWEST, Confirmed, Tuned, best_of, new_study

ORDERS = 3  # of the rows, for each candidate
ROWS = 1_000  # that a candidate of the search lives through, at most
Rows = NDArray[np.intp]


def tune_table(
    table: Table,
    *,
    now: str = "thompson",
    trials: int = 60,
    share: float = 0.5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Search on some rows of a table, and confirm on the others, against what is used now.

    Parameters
    ----------
    table : Table
    now : str
        The policy SPEC that is used now, with the default floor.
    trials, share, seed, progress
        As `tune_draws`.
    """
    order = np.random.default_rng(seed).permutation(len(table))
    cut = int(share * len(table))
    earlier, later = order[:cut][:ROWS], order[cut:]
    sizes = {"searched": len(earlier), "confirmed": len(later)}
    if min(len(earlier), len(later)) < FEWEST:
        return Tuned(
            refusal=f"each part needs {FEWEST} rows", searched=len(earlier), confirmed=len(later)
        )
    if len(table.names) < 2:
        raise ReplayError("there is one model only")
    scene = stage(table, HashedFeatures())
    used = Candidate(policy=now, floor=scene.floor)
    study, seen = new_study(seed), {}
    before = _lived(scene, used, earlier, seed)
    for done in range(1, trials + 1):
        trial = study.ask()
        candidate = suggest(trial)
        after = _lived(scene, candidate, earlier, seed)
        seen[candidate] = student(after[0] - before[0])[0]
        study.tell(trial, seen[candidate])
        if progress is not None:
            progress(done, trials)
    return _confirm(scene, used, best_of(seen), later, seed + 1, sizes)


def _lived(scene: Scene, candidate: Candidate, rows: Rows, seed: int) -> tuple[Array, Array]:
    """Return reward and cost [USD] of each row, of shape (m,): means over some orders, by the row."""
    sums = np.zeros((2, len(scene.table)))
    for i in range(ORDERS):
        order = np.random.default_rng((seed, i)).permutation(rows)
        lived = live(replace(scene, order=order, floor=candidate.floor), candidate, seed=i)
        sums[0, lived.order] += lived.reward
        sums[1, lived.order] += lived.cost_usd
    return sums[0, rows] / ORDERS, sums[1, rows] / ORDERS


def _confirm(
    scene: Scene, used: Candidate, found: list[Candidate], rows: Rows, seed: int, sizes: dict[str, int]
) -> Tuned:
    alpha, told = ALPHA / max(len(found), 1), []
    before = _lived(scene, used, rows, seed)
    for candidate in found:
        after = _lived(scene, candidate, rows, seed)
        reward, usd = (_change(new - old, alpha) for new, old in zip(after, before, strict=True))
        told.append(Confirmed(candidate=candidate, reward=reward, usd=usd))
    return Tuned.of(told, **sizes)


def _change(terms: Array, alpha: float) -> Change:
    low, high = student(terms, alpha=alpha)
    return Change(value=float(terms.mean()), low=low, high=high, effective=float(len(terms)))
