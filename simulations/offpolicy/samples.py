"""The rows on which one policy is judged, and all estimates from them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_router.values import Array
from simulations import estimators as est
from simulations.estimators import Estimate
from simulations.offpolicy.crossfit import cross_fitted, foretold_before
from simulations.offpolicy.draws import Draws
from simulations.offpolicy.responses import response_probabilities

SWEEP = (1.0, 3.0, 10.0, 30.0, 100.0)  # of clip and tau; lambda is their square
_BOOTSTRAP = 10_000  # rows up to which the bootstrap takes less than a second; beyond, it says no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How an estimate moves with its parameter."""

    estimator: str
    parameter: float
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Foretold:
    """What is foretold of each draw: whether a reward is heard, and which of every model.

    Attributes
    ----------
    responses : ndarray of shape (n,)
    rewards, before : ndarray of shape (n, K)
        By all other rows, and by earlier ones only.
    """

    responses: Array
    rewards: Array
    before: Array

    @classmethod
    def of(cls, draws: Draws, *, folds: int, seed: int) -> Foretold:
        """Fit the models that estimators need, once for all policies."""
        return cls(
            responses=response_probabilities(draws),
            rewards=cross_fitted(draws, folds=folds, seed=seed),
            before=foretold_before(draws),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """The m rows on which one policy is judged; a row without a reward has a ratio of 0.

    Attributes
    ----------
    target, logged, reward, q, v : ndarray of shape (m,)
        As in `estimators.dr`; `logged` holds how likely a reward was heard, too.
    before : tuple of ndarray of shape (m,)
        `q` and `v` by earlier rows only.
    clusters : ndarray of int, shape (m,), optional
    most : float
        What no ratio exceeds, drawn or not.
    """

    target: Array
    logged: Array
    reward: Array
    q: Array
    v: Array
    before: tuple[Array, Array]
    clusters: est.Clusters
    most: float

    @classmethod
    def of(
        cls, draws: Draws, p: Array, rows: NDArray[np.bool_], foretold: Foretold, *, most: float
    ) -> Sample:
        """Take the rows on which a policy with probabilities p, of shape (n, K), is judged."""
        heard = draws.heard
        (q, v), before = (
            (draws.of_chosen(grid)[rows], np.einsum("nk,nk->n", p, grid)[rows])
            for grid in (foretold.rewards, foretold.before)
        )
        return cls(
            target=np.where(heard, draws.of_chosen(p), 0.0)[rows],
            logged=np.where(heard, draws.logged * foretold.responses, 1.0)[rows],
            reward=np.nan_to_num(draws.reward)[rows],
            q=q,
            v=v,
            before=before,
            clusters=draws.cluster[rows] if draws.talks else None,
            most=most / float(foretold.responses[rows].min()),
        )

    @property
    def weighed(self) -> tuple[Array, Array, Array]:
        """What estimators without a reward model take."""
        return self.target, self.logged, self.reward

    @property
    def foretold(self) -> tuple[Array, Array, Array, Array, Array]:
        """What those with one take."""
        return (*self.weighed, self.q, self.v)

    @property
    def effective(self) -> float:
        """How many decisions of the policy itself, each with a reward, would tell as much."""
        return est.effective_size(self.target / self.logged)

    def estimates(self, seed: int) -> dict[str, Estimate]:
        """Return the value by estimator; with an interval of another kind, ``ips (bernstein)``."""
        c = self.clusters
        found = {
            "ips": est.ips(*self.weighed, clusters=c),
            "snips": est.snips(*self.weighed, clusters=c),
            "dm": est.direct(self.v, clusters=c),
            "dr": est.dr(*self.foretold, clusters=c),
            "sndr": est.sndr(*self.foretold, clusters=c),
            "ips (bernstein)": est.ips(*self.weighed, interval="bernstein", most=self.most),
            "dr (bernstein)": est.dr(*self.foretold, interval="bernstein", most=self.most),
        }
        with suppress(ValueError):  # where next to nothing is kept it has no interval
            found["replay"] = est.replay(*self.weighed, seed=seed, clusters=c)
        if self.reward.min() >= 0 and self.reward.max() <= 1:
            found["ips (sequence)"] = est.ips(*self.weighed, interval="sequence")
            known = (*self.weighed, *self.before)
            found["dr (sequence)"] = est.dr(*known, interval="sequence", most=self.most)
        if len(self.reward) <= _BOOTSTRAP:
            found["ips (bootstrap)"] = est.ips(*self.weighed, interval="bootstrap", clusters=c)
            found["dr (bootstrap)"] = est.dr(*self.foretold, interval="bootstrap", clusters=c)
        return found

    def swept(self) -> tuple[Swept, ...]:
        """Return how those with a parameter move with it."""
        c = self.clusters
        moves: dict[str, Callable[[float], tuple[float, Estimate]]] = {
            "clipped-ips": lambda m: (m, est.clipped_ips(*self.weighed, clip=m, clusters=c)),
            "switch-dr": lambda m: (m, est.switch_dr(*self.foretold, tau=m, clusters=c)),
            "dros": lambda m: (m * m, est.dros(*self.foretold, shrink=m * m, clusters=c)),
        }
        return tuple(
            Swept(estimator=name, parameter=at, estimate=estimate)
            for name, move in moves.items()
            for at, estimate in map(move, SWEEP)
        )


def paid(draws: Draws, p: Array, rows: NDArray[np.bool_]) -> Estimate | None:
    """Return what a request would have cost [USD], by SNIPS where a cost was told; None without any."""
    known = rows & ~np.isnan(draws.paid_usd)
    own = draws.of_chosen(p)[known]
    if np.count_nonzero(own) < 2:
        return None
    clusters = draws.cluster[known] if draws.talks else None
    return est.snips(own, draws.logged[known], draws.paid_usd[known], clusters=clusters)
