"""Intervals of a mean: of one draw a number, each with what it assumes; 95 % unless told otherwise."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from bandit_router.values import Array

Interval = tuple[float, float]
Kind = Literal["student", "bernstein", "bootstrap", "sequence"]
ALPHA = 0.05  # how often an interval may miss
_RESAMPLES = 1_000
_BETS = 0.5 ** np.arange(1, 17)  # for samples from a handful of rows to thousands of millions


def student(terms: Array, *, alpha: float = ALPHA) -> Interval:
    """Return ``mean -+ t(1 - alpha/2, n - 1) s / sqrt(n)``.

    Right for large n; too narrow where a few large weights that were not drawn carry the value.
    """
    half = stats.t.ppf(1 - alpha / 2, len(terms) - 1) * terms.std(ddof=1) / np.sqrt(len(terms))
    return float(terms.mean() - half), float(terms.mean() + half)


def bernstein(terms: Array, span: float, *, alpha: float = ALPHA) -> Interval:
    """Return the empirical-Bernstein interval, which holds at every n.

    ``mean -+ (sqrt(2 V log(4/alpha) / n) + 7 span log(4/alpha) / (3 (n - 1)))`` with the sample variance V.

    Parameters
    ----------
    terms : ndarray of shape (n,)
    span : float
        Of the range that every term must lie in, drawn or not.

    References
    ----------
    .. [1] Maurer and Pontil, "Empirical Bernstein bounds and sample-variance penalization",
       COLT 2009, theorem 4.
    """
    n, log = len(terms), np.log(4 / alpha)
    half = np.sqrt(2 * terms.var(ddof=1) * log / n) + 7 * span * log / (3 * (n - 1))
    return float(terms.mean() - half), float(terms.mean() + half)


def bootstrap(
    terms: Array, clusters: NDArray[np.int64] | None = None, *, seed: int = 0, alpha: float = ALPHA
) -> Interval:
    """Return the percentiles of the mean where whole clusters are drawn anew, each with a Poisson(1) weight.

    Parameters
    ----------
    terms : ndarray of shape (n,)
    clusters : ndarray of int, shape (n,), optional
        Rows of one conversation share a number; by default every row is its own.

    References
    ----------
    .. [1] Chamandy et al., "Estimating uncertainty for massive data streams", Google 2012.
    """
    sums, counts = _by_cluster(terms, clusters)
    rng = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        copies = rng.poisson(1.0, len(sums))
        means[i] = copies @ sums / max(float(copies @ counts), 1.0)
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _by_cluster(terms: Array, clusters: NDArray[np.int64] | None) -> tuple[Array, Array]:
    if clusters is None:
        return terms, np.ones(len(terms))
    _, at = np.unique(clusters, return_inverse=True)
    return np.bincount(at, weights=terms).astype(np.float64), np.bincount(at).astype(np.float64)


def clustered(terms: Array, clusters: NDArray[np.int64] | None, *, alpha: float = ALPHA) -> Interval:
    """Return `student` where rows of one conversation count as one draw: the sandwich of their sums."""
    if clusters is None:
        return student(terms, alpha=alpha)
    sums, counts = _by_cluster(terms, clusters)
    if len(sums) < 2:
        return -np.inf, np.inf
    mean, m = terms.mean(), len(sums)
    residual = sums - mean * counts
    half = stats.t.ppf(1 - alpha / 2, m - 1) * np.sqrt(m / (m - 1) * (residual**2).sum()) / len(terms)
    return float(mean - half), float(mean + half)


def sequence(ratio: Array, reward: Array, *, alpha: float = ALPHA) -> Interval:
    """Return the anytime-valid interval of the mean value so far: look after every row, stop when you like.

    The lower end goes by ``xi = ratio * reward >= 0``, the upper one by ``ratio * (1 - reward)``, whose mean
    is one minus the value, since ratios have mean one; so no bound on ratios is needed [2]_. With predictable
    ``g`` in [0, 1] and ``l`` in [0, 1), ``exp(l sum(xi - v) - psi(l) sum (xi - g)^2)`` with
    ``psi(l) = -log(1 - l) - l`` is a supermartingale at the true ``v`` [1]_, whether or not ``v`` changes from
    row to row. A mixture over a grid of ``l`` gives the bound [3]_. Valid for policies that change too, if each
    goes by earlier rows only.

    Parameters
    ----------
    ratio, reward : ndarray of shape (n,)
        In the order of time; rewards in [0, 1].
    alpha : float
        How often it may ever miss.

    References
    ----------
    .. [1] Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024.
    .. [2] Waudby-Smith et al., "Anytime-valid off-policy inference for contextual bandits", 2022.
    .. [3] Howard et al., "Time-uniform, nonparametric, nonasymptotic confidence sequences", AoS 2021.
    """
    low = _lower(ratio * reward, alpha / 2)
    high = 1.0 - _lower(ratio * (1.0 - reward), alpha / 2)
    return max(low, 0.0), min(high, 1.0)


def _lower(xi: Array, alpha: float) -> float:
    """Where the mixture says that the mean of terms from 0 on is not lower."""
    n = np.arange(1, len(xi) + 1)
    g = np.concatenate([[0.5], np.minimum((0.5 + np.cumsum(xi)) / (n + 1), 1.0)[:-1]])
    spent = float(((xi - g) ** 2).sum())
    loss = (-np.log1p(-_BETS) - _BETS) * spent + np.log(len(_BETS))
    log = float(np.log(1 / alpha))
    enough = float(((log + loss) / _BETS).min())  # where the best bet alone is convinced
    excess = brentq(lambda s: float(np.logaddexp.reduce(_BETS * s - loss)) - log, -spent, enough)
    return float(xi.mean() - excess / len(xi))
