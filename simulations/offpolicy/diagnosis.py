"""Whether a log's probabilities are those that its models were drawn with, and how far it reaches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bandit_router.values import Array
from simulations.estimators import effective_size
from simulations.offpolicy.draws import Draws

EDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99, 1.0)  # of the bins of probability
DOUBT = 1e-4  # below which chance no longer explains the difference
_FEW = 5.0  # draws that must be expected and not expected where a normal is to hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How often something was drawn, against what its probabilities said.

    Attributes
    ----------
    what : str
    drawn, expected : float
        Draws; where the promise is looked at, the sum of promised rewards.
    z : float
        The difference in standard errors; NaN where too few were expected.
    """

    what: str
    drawn: float
    expected: float
    z: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Checks of the logged probabilities.

    Attributes
    ----------
    checks : tuple of Check
        Per model, per bin of probability, and by promise.
    p_value : float
        Of the worst of them, times how many there are.
    """

    checks: tuple[Check, ...]
    p_value: float

    @property
    def sound(self) -> bool:
        """Whether the probabilities may be those that were drawn with."""
        return self.p_value >= DOUBT

    @property
    def worst(self) -> Check:
        """The check that fits worst."""
        return max(self.checks, key=lambda c: 0.0 if np.isnan(c.z) else abs(c.z))


def calibration(draws: Draws) -> Calibration:
    """Hold logged probabilities against the models that were drawn.

    Per model, and per bin of probability over all models, ``z = (drawn - sum p) / sqrt(sum p (1 - p))``. By
    promise, ``sum(m_chosen - sum_k p_k m_k)`` over its own standard error: whoever writes 1/K while he draws
    the promising ones is found here, though every model may be drawn as often as another.
    """
    p = draws.probabilities
    checks = [*_by_model(draws, p), *_by_bin(draws, p), _by_promise(draws, p)]
    known = np.array([c.z for c in checks if not np.isnan(c.z)])
    least = float(2 * stats.norm.sf(np.abs(known)).min()) if len(known) else 1.0
    return Calibration(checks=tuple(checks), p_value=min(1.0, least * max(len(known), 1)))


def _by_model(draws: Draws, p: Array) -> list[Check]:
    drawn = np.bincount(draws.chosen, minlength=p.shape[1])
    expected, square = p.sum(axis=0, dtype=np.float64), np.einsum("nk,nk->k", p, p, dtype=np.float64)
    parts = zip(draws.models, drawn, expected, expected - square, strict=True)
    return [_check(name, n, mean, variance) for name, n, mean, variance in parts]


def _by_bin(draws: Draws, p: Array) -> list[Check]:
    bins = len(EDGES) - 1
    sums = np.zeros((3, bins))  # drawn, p, p (1 - p)
    for start in range(
        0, len(p), 65_536
    ):  # a block at a time: an index as large as the log would not do
        some = p[start : start + 65_536].astype(np.float64)
        at = np.clip(np.searchsorted(EDGES, some, side="left") - 1, 0, bins - 1)
        chosen = draws.chosen[start : start + len(some)]
        sums[0] += np.bincount(at[np.arange(len(some)), chosen], minlength=bins)
        sums[1] += np.bincount(at.ravel(), weights=some.ravel(), minlength=bins)
        sums[2] += np.bincount(at.ravel(), weights=(some * (1 - some)).ravel(), minlength=bins)
    names = [f"p in ({low:g}, {high:g}]" for low, high in pairwise(EDGES)]
    return [_check(name, *row) for name, row in zip(names, sums.T.tolist(), strict=True)]


def _check(what: str, drawn: float, expected: float, variance: float) -> Check:
    z = (drawn - expected) / np.sqrt(variance) if variance > 0 else np.nan
    if variance < _FEW:
        # Too few for a normal: rather Chernoff's bound on their chance, as the z of that chance.
        z = _rare(float(drawn), float(expected))
    return Check(what=what, drawn=float(drawn), expected=float(expected), z=float(z))


def _rare(drawn: float, expected: float) -> float:
    """The z whose tail is ``exp(-D)``, with Poisson's ``D = n log(n / expected) - n + expected``."""
    if drawn <= expected:
        return np.nan
    bound = drawn - expected - drawn * np.log(drawn / max(expected, 1e-12))
    return float(max(stats.norm.isf(np.exp(max(bound, -700.0))), 0.0))


def _by_promise(draws: Draws, p: Array) -> Check:
    mean = np.nan_to_num(draws.mean)
    got, hoped = draws.of_chosen(mean).astype(np.float64), np.einsum("nk,nk->n", p, mean)
    variance = float(np.maximum(np.einsum("nk,nk,nk->n", p, mean, mean) - hoped**2, 0.0).sum())
    z = (got - hoped).sum() / np.sqrt(variance) if variance > 1e-9 and len(p) >= 30 else np.nan
    return Check(what="promise", drawn=float(got.sum()), expected=float(hoped.sum()), z=float(z))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a log reaches to a policy.

    Attributes
    ----------
    overlap : float
        Share of what the policy would draw whose model had a logged probability above 0: of the rest the log
        can say nothing.
    agreeing : float
        Share of rows in which the model drawn is one that the policy may draw.
    mean_weight, z : float
        Mean of ``w``, and how many standard errors it is from what it must be on average, the overlap: by
        ``sum_k pi_k^2 / p_k``, not by the weights drawn, of which the large ones may all be missing.
    most : float
        The largest ratio that could have been drawn.
    largest : float
        The largest that was.
    effective : float
        Rows of the policy itself that would tell as much (Kish).
    """

    overlap: float
    agreeing: float
    mean_weight: float
    z: float
    most: float
    largest: float
    effective: float


def reach(draws: Draws, target: Array, rows: NDArray[np.bool_]) -> Reach:
    """Look at the weights of a policy.

    Parameters
    ----------
    draws : Draws
    target : ndarray of shape (n, K)
        Its probabilities.
    rows : ndarray of bool, shape (n,)
        Which rows it can be judged on.
    """
    ratio = (draws.of_chosen(target) / draws.logged)[rows]
    if len(ratio) < 2:
        return Reach(overlap=0, agreeing=0, mean_weight=0, z=np.nan, most=0, largest=0, effective=0)
    held = np.einsum("nk,nk->n", target, draws.probabilities > 0)[rows]
    error = _error(target, draws.probabilities, rows, held)
    return Reach(
        overlap=float(held.mean()),
        agreeing=float((ratio > 0).mean()),
        mean_weight=float(ratio.mean()),
        z=float((ratio.mean() - held.mean()) / error) if error > 1e-9 else 0.0,
        most=max(_most(p, q, rows) for p, q in zip(target.T, draws.probabilities.T, strict=True)),
        largest=float(ratio.max()),
        effective=effective_size(ratio),
    )


def _error(target: Array, logged: Array, rows: NDArray[np.bool_], held: Array) -> float:
    """The standard error that the mean ratio of some rows has by the logged probabilities."""
    square = np.zeros(len(target))
    for pi, p in zip(target.T, logged.T, strict=True):
        square += np.divide(pi * pi, p, out=np.zeros(len(pi)), where=p > 0)
    variance = np.maximum(square[rows] - held**2, 0.0)
    return float(np.sqrt(variance.sum()) / len(held))


def _most(target: Array, logged: Array, rows: NDArray[np.bool_]) -> float:
    """The largest ratio of one model's probabilities, of shape (n,) each, where it could be drawn."""
    there = rows & (logged > 0)
    return float((target[there] / logged[there]).max(initial=0.0))
