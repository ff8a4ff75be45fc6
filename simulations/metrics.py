"""What a run is worth: hulls over cost and quality, regret, and intervals over seeds."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bandit_router.values import Array


def hull(cost: ArrayLike, quality: ArrayLike) -> Array:
    """Return the zero router: the best that mixing single models reaches at each mean cost.

    The upper concave, non-decreasing hull: from the cheapest point to the best one, each edge less
    steep than the one before. A point between two corners is reached by drawing one of the two
    models at random, without a look at the prompt.

    Parameters
    ----------
    cost, quality : array-like of shape (K,)
        Mean cost [USD] and mean quality of each model.

    Returns
    -------
    points : ndarray of shape (m, 2)
        Corners (cost, quality), dearer and better from one to the next; 1 <= m <= K.

    References
    ----------
    Hu et al. (2024), RouterBench: A Benchmark for Multi-LLM Routing System, section 3.

    Examples
    --------
    >>> hull([1, 2, 3, 4], [0.5, 0.55, 0.9, 0.8])
    array([[1. , 0.5],
           [3. , 0.9]])
    """
    points = _points(cost, quality)
    order = np.lexsort((-points[:, 1], points[:, 0]))
    corners: list[Array] = []
    for point in points[order]:
        if corners and point[1] <= corners[-1][1]:
            continue
        while len(corners) > 1 and _turn(corners[-2], corners[-1], point) >= 0:
            corners.pop()
        corners.append(point)
    return np.array(corners)


def _turn(a: Array, b: Array, c: Array) -> float:
    """Positive where the way a, b, c turns left: b lies below the line from a to c."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _points(cost: ArrayLike, quality: ArrayLike) -> Array:
    points = np.column_stack([np.atleast_1d(cost), np.atleast_1d(quality)]).astype(np.float64)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(f"expected at least one point of finite numbers, got {points.tolist()}")
    return points


def hull_value(points: ArrayLike, cost: ArrayLike) -> Array:
    """Return the quality that a hull reaches at a mean cost.

    Parameters
    ----------
    points : array-like of shape (m, 2)
        Of `hull`.
    cost : array-like
        Mean cost [USD].

    Returns
    -------
    quality : ndarray of the shape of `cost`
        NaN below the cheapest point, which nothing reaches; flat above the dearest.

    Examples
    --------
    >>> hull_value([[1, 0.5], [3, 0.9]], [0.5, 2, 10])
    array([nan, 0.7, 0.9])
    """
    corners = np.asarray(points, dtype=np.float64)
    at = np.asarray(cost, dtype=np.float64)
    return np.asarray(np.interp(at, corners[:, 0], corners[:, 1], left=np.nan), dtype=np.float64)


def aiq(
    cost: ArrayLike,
    quality: ArrayLike,
    *,
    c_max: float | None = None,
    reading: Literal["paper", "code"] = "paper",
) -> float:
    """Return a router's average improvement in quality: the mean height of its hull over cost.

    With NDCH the hull of the router's points, from their cheapest c_min::

        paper: 1 / (c_max - c_min) * integral of NDCH from c_min to c_max
        code:  1 / c_max           * integral of NDCH from c_min to c_max

    The authors' program divides by c_max and does not subtract c_min; so its number falls when the
    cheapest point gets dearer, and the two must not be compared with each other.

    Parameters
    ----------
    cost, quality : array-like of shape (m,)
        The router's mean cost [USD] and mean quality at each of its settings.
    c_max : float, optional
        The right end [USD], where routers are compared the largest cost of them all; by default
        that of these points. The hull goes on flat up to it.
    reading : {"paper", "code"}
        Which of the two.

    Raises
    ------
    ValueError
        `c_max` is below the cheapest point, or not positive where it is divided by.

    References
    ----------
    Hu et al. (2024), RouterBench, section 3; their ``evaluation/AIQ.py``.

    Examples
    --------
    >>> round(aiq([1, 3], [0.5, 0.9]), 3), round(aiq([1, 3], [0.5, 0.9], reading="code"), 3)
    (0.7, 0.467)
    """
    if reading not in ("paper", "code"):
        raise ValueError(f"reading: expected 'paper' or 'code', got {reading!r}")
    corners = hull(cost, quality)
    low = float(corners[0, 0])
    high = float(np.max(np.asarray(cost, dtype=np.float64))) if c_max is None else c_max
    if high < low:
        raise ValueError(f"c_max: expected at least the cheapest cost {low:g}, got {high:g}")
    if high == low and reading == "paper":
        return float(corners[0, 1])  # the limit of a mean over a vanishing range
    width = high - low if reading == "paper" else high
    if width <= 0:
        raise ValueError(f"c_max: expected a positive number, got {high:g}")
    inner = corners[(corners[:, 0] > low) & (corners[:, 0] < high), 0]
    at = np.array([low, *inner, high])
    return float(np.trapezoid(hull_value(corners, at), at) / width)


def cumulative_regret(reward: ArrayLike, reference: ArrayLike) -> Array:
    """Return how far the rewards are behind the reference's after each round: sums of the differences.

    Parameters
    ----------
    reward, reference : array-like of shape (n,)
        Of the same rounds in the same order.

    Returns
    -------
    regret : ndarray of shape (n,)
        Negative where the reference was beaten.

    Examples
    --------
    >>> cumulative_regret([0.5, 1.0, 0.0], [1.0, 0.5, 0.5])
    array([0.5, 0. , 0.5])
    """
    difference = np.asarray(reference, dtype=np.float64) - np.asarray(reward, dtype=np.float64)
    return np.asarray(np.cumsum(difference), dtype=np.float64)


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Return a mean over seeds and its 95 % interval: mean -+ t(0.975, n - 1) * std / sqrt(n).

    Student's t assumes seeds that are independent and near normal. One seed says nothing about the
    spread: the bounds are NaN then.

    Parameters
    ----------
    values : array-like of shape (n,)
        One per seed.

    Returns
    -------
    mean, low, high : float

    Examples
    --------
    >>> mean, low, high = mean_interval([0.0, 1.0])
    >>> mean, round(low, 3), round(high, 3)
    (0.5, -5.853, 6.853)
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(f"expected shape (n,) with n >= 1, got {sample.shape}")
    mean = float(sample.mean())
    if len(sample) == 1:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return mean, mean - half, mean + half


def paired_interval(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float]:
    """Return the mean of a - b and its 95 % interval, paired seed by seed as in `mean_interval`.

    Policies that walk the same order share most of its luck; the difference is known far better
    than either mean.

    Parameters
    ----------
    a, b : array-like of shape (n,)
        One per seed, the same seeds in the same order.

    Examples
    --------
    >>> paired_interval([0.5, 0.75], [0.25, 0.5])
    (0.25, 0.25, 0.25)
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape:
        raise ValueError(f"expected pairs, got shapes {left.shape} and {right.shape}")
    return mean_interval(left - right)
