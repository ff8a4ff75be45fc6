"""One factor behind several noisy signals: how far each follows it, on which scale, and whom it favours.

References
----------
.. [1] Spearman, "General intelligence, objectively determined and measured", Am. J. Psychol. 15 (1904).
.. [2] Stoffelen, "Toward the true near-surface wind speed: error modeling and calibration using triple
   collocation", J. Geophys. Res. 103 (1998).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from bandit_router.values import Array

BIAS_COUNTS = 20.0
_ANCHOR = 10.0  # overlaps that the assumed reliability is worth
_SLOPES = (0.25, 4.0)
_EACH = 5  # overlaps of a model, before its bias is looked at


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """Loadings, and on which scale each signal speaks."""

    loadings: Array
    slopes: Array  # of the calibration
    truth: float  # the variance of what should be said, T
    agreement: float  # the largest correlation of two of them, in standard errors

    def totals(self, biases: Array) -> Array:
        """The variance of one observation on the scale of the reference; infinite where it says nothing."""
        squared = np.maximum(self.loadings, 0.0) ** 2
        totals = self.truth / np.maximum(squared, 1e-12) + BIAS_COUNTS * biases**2
        return np.where(squared > 0, totals, np.inf)


def fit_factor(
    values: Array, there: Array, weights: Array, reference: int | None, reliability: float
) -> Fit:
    """Fit loadings to the correlations of all pairs, each counted as often as it overlaps."""
    counted = there * weights[:, None]
    n = there.T @ counted
    firsts, seconds = values.T @ counted, (values**2).T @ counted  # (j, k): of j where k spoke too
    safe = np.maximum(n, 1.0)
    spreads = np.maximum(seconds / safe - (firsts / safe) ** 2, 0.0)
    together = (values.T @ (values * weights[:, None])) / safe - firsts * firsts.T / safe**2
    scale = np.sqrt(spreads * spreads.T)
    r = np.clip(np.divide(together, scale, out=np.zeros_like(together), where=scale > 1e-12), -1, 1)
    loadings = _loadings(r, n, reference, reliability)
    spread = np.sqrt(np.diag(spreads))
    truths = loadings * spread  # s_j sqrt(T)
    if reference is None:
        told = np.maximum(truths, 0.0)
        share = np.maximum(loadings, 0.0) ** 2
        root = float(share @ told / share.sum()) if share.sum() else 0.0
    else:
        root = float(truths[reference])
    slopes = root / np.maximum(truths, 1e-12)
    return Fit(
        loadings=loadings,
        slopes=np.clip(slopes, *_SLOPES),
        truth=root**2,
        agreement=float((r * np.sqrt(n))[np.triu_indices(len(r), 1)].max()),
    )


def _loadings(r: Array, n: Array, reference: int | None, reliability: float) -> Array:
    """One factor: ``r[j, k] = l[j] l[k]``."""
    k = len(r)
    above = np.triu_indices(k, 1)
    roots = np.sqrt(n[above])
    known, anchor = math.sqrt(reliability), math.sqrt(_ANCHOR)

    def misfit(loadings: Array) -> Array:
        missed = roots * (r[above] - np.outer(loadings, loadings)[above])
        # Without a reference nobody is taken for better than the others for want of data.
        target = loadings - loadings.mean() if reference is None else loadings[[reference]] - known
        return np.concatenate([missed, anchor * target])

    found = np.clip(least_squares(misfit, np.full(k, known), method="lm").x, -1.0, 1.0)
    return np.asarray(-found if reference is None and found.sum() < 0 else found)


def find_biases(
    values: Array, there: Array, models: NDArray[np.int_], fit: Fit, base: int | None
) -> Array:
    """How far each signal favours models against the reference, or against what the others say."""
    told, biases = values * fit.slopes, np.zeros(values.shape[1])
    for _ in range(2):  # so that one which favours a model does not make the others look biased
        counts = 1 / fit.totals(biases)
        biases = np.array([_bias(told, there, models, counts, i, base) for i in range(len(biases))])
    return biases


def _bias(
    told: Array, there: Array, models: NDArray[np.int_], counts: Array, i: int, base: int | None
) -> float:
    others = [base] if base is not None else [j for j in range(len(counts)) if j != i]
    counted = there[:, others] * counts[others]
    both = (there[:, i] > 0) & (counted.sum(axis=1) > 0)
    if i == base or not both.any():
        return 0.0
    theirs = (counted * told[:, others]).sum(axis=1)[both] / counted.sum(axis=1)[both]
    return _spread_over(told[both, i] - theirs, models[both])


def _spread_over(apart: Array, models: NDArray[np.int_]) -> float:
    """The standard deviation of the models' means, without what chance adds to it."""
    groups = [some for m in np.unique(models) if len(some := apart[models == m]) >= _EACH]
    if len(groups) < 2:
        return 0.0
    n = np.array([len(some) for some in groups])
    means = np.array([some.mean() for some in groups])
    chance = np.array([some.var(ddof=1) / len(some) for some in groups])
    excess = (means - n @ means / n.sum()) ** 2 - chance
    return math.sqrt(max(0.0, float(n @ excess / n.sum())))
