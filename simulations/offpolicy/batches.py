"""Policies on many rows at once: the same probabilities as row by row, in a few products."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bandit_router import policies as own
from bandit_router.values import Array

Mask = NDArray[np.bool_]
BLOCK = 16_384  # rows at a time
_CELLS = 2**17  # numbers in one array of a quadrature: what a cache holds


def choose_many(
    policy: own.Policy, mean: Array, std: Array, eligible: Mask, *, floor: float = 0.0
) -> Array:
    """Return how likely a policy draws each model in each row, of shape (n, K); 0 where one is not eligible.

    It is worked out in float64, and kept as `mean` is.

    Parameters
    ----------
    policy : Policy
    mean, std : ndarray of shape (n, K)
        As in `Policy.probabilities`; whatever stands where a model is not eligible.
    eligible : ndarray of bool, shape (n, K)
    floor : float
        Share of exploration over the eligible models.

    Examples
    --------
    >>> mean, std = np.array([[0.5, 0.6, np.nan]]), np.array([[0.3, 0.1, np.nan]])
    >>> choose_many(own.Greedy(), mean, std, np.isfinite(mean), floor=0.1)
    array([[0.05, 0.95, 0.  ]])
    """
    p = np.zeros(mean.shape, dtype=mean.dtype)

    def fill(start: int) -> None:
        rows = slice(start, start + BLOCK)
        there = eligible[rows]
        m = np.where(there, mean[rows], -np.inf).astype(np.float64)
        s = np.where(there, std[rows], 0.0).astype(np.float64)
        p[rows] = _with_floor(_probabilities(policy, m, s, there), there, floor)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter
        list(pool.map(fill, range(0, len(mean), BLOCK)))
    return p


def _with_floor(p: Array, there: Mask, floor: float) -> Array:
    counts = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mixed: Array = (1.0 - floor) * p + floor * there / counts
    return mixed


def _probabilities(policy: own.Policy, mean: Array, std: Array, there: Mask) -> Array:
    if isinstance(policy, own.Uniform):
        return _best(np.where(there, 0.0, -np.inf), there)
    if isinstance(policy, own.Greedy):
        return _best(mean, there)
    if isinstance(policy, own.LinUCB):
        return _best(mean + policy.alpha * std, there)
    if isinstance(policy, own.EpsilonGreedy):
        return _with_floor(_best(mean, there), there, policy.epsilon)
    if isinstance(policy, own.InverseGapWeighting):
        return _gaps(policy.gamma, mean, there)
    if isinstance(policy, own.ThompsonSampling):
        return _thompson(policy, mean, std, there)
    return _one_by_one(policy, mean, std, there)


def _best(score: Array, there: Mask) -> Array:
    top = there & (score == score.max(axis=1, keepdims=True))
    share: Array = top / np.maximum(top.sum(axis=1, keepdims=True), 1)
    return share


def _gaps(gamma: float, mean: Array, there: Mask) -> Array:
    top = mean.max(axis=1, keepdims=True)
    gap = np.where(there, np.where(np.isfinite(top), top, 0.0) - np.where(there, mean, 0.0), 0.0)
    p = np.where(there, 1.0 / (there.sum(axis=1, keepdims=True) + gamma * gap), 0.0)
    rest: Array = p + (1.0 - p.sum(axis=1, keepdims=True)) * _best(mean, there)
    return rest


def _one_by_one(policy: own.Policy, mean: Array, std: Array, there: Mask) -> Array:
    p = np.zeros(mean.shape)
    for i in np.flatnonzero(there.any(axis=1)):
        p[i, there[i]] = policy.probabilities(mean[i, there[i]], std[i, there[i]])
    return p


def _thompson(policy: own.ThompsonSampling, mean: Array, std: Array, there: Mask) -> Array:
    """As `ThompsonSampling.probabilities`: rows with equally many panels share one quadrature."""
    wide = policy.width * std
    reach = own._REACH * wide  # the rule's own numbers, so that both agree
    low = np.where(there, mean - reach, -np.inf).max(axis=1)
    live = there & (mean + reach >= low[:, None])
    high = np.where(live, mean + reach, -np.inf).max(axis=1)
    size = np.maximum(1.0, 1.0 + np.abs(np.where(live, mean, 0.0)).max(axis=1))
    wide = np.maximum(wide, 1e-12 * size[:, None])
    narrow = own._STEP * np.where(live, wide, np.inf).min(axis=1)
    counts = live.sum(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        panels = np.where(counts > 1, (high - low) / narrow, 0.0)
    even = (counts > 1) & (panels < np.minimum(counts * len(own._PANELS), own._MOST - 1))
    p = np.where((counts == 1)[:, None], live, 0.0).astype(np.float64)
    laid = np.where(even, np.nan_to_num(panels, posinf=0.0).astype(np.int64) + 1, 0)
    for many in np.unique(laid[even]):
        _even(p, np.flatnonzero(laid == many), int(many), mean, wide, live, low, narrow)
    rest = (counts > 1) & ~even
    p[rest] = _one_by_one(policy, mean[rest], std[rest], there[rest])
    return p


def _even(
    p: Array,
    rows: NDArray[np.intp],
    panels: int,
    mean: Array,
    std: Array,
    live: Mask,
    low: Array,
    w: Array,
) -> None:
    nodes = own._EVEN_NODES[: panels * len(own._NODES)]
    step = max(1, _CELLS // (mean.shape[1] * len(nodes)))
    for at in range(0, len(rows), step):
        some = rows[at : at + step]
        alive, wide = live[some], std[some]
        t = low[some, None] + w[some, None] * nodes
        middle = np.where(alive, mean[some], 0.0)
        z = (t[:, None, :] - middle[:, :, None]) / wide[:, :, None]
        below = np.where(alive[:, :, None], ndtr(z) + 1e-300, 1.0)
        weight = own._EVEN_WEIGHTS[: len(nodes)] * below.prod(axis=1)
        density = np.exp(-0.5 * z * z) / below
        share = np.einsum("nkm,nm->nk", density, weight) / wide * alive
        p[some] = share / share.sum(axis=1, keepdims=True)
