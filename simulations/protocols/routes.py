"""Cost-quality curves: a willingness to pay that is swept, and a cascade with a judge that errs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_router.values import Array, check_unit

Choices = NDArray[np.intp]

STEPS = 40
DECADES = (-4.0, 3.0)  # of the willingness to pay, in cost units


def willingness_grid(cost_unit_usd: float, steps: int = STEPS) -> Array:
    """Return what a unit of quality may cost [USD], of shape (steps + 2,): 0, a geometric grid, infinity.

    Parameters
    ----------
    cost_unit_usd : float
        A typical dear call; the grid goes from 1e-4 to 1e3 of it.

    Examples
    --------
    >>> willingness_grid(0.01, 2)
    array([0.e+00, 1.e-06, 1.e+01,    inf])
    """
    grid = cost_unit_usd * np.logspace(*DECADES, steps)
    return np.array([0.0, *grid, np.inf])


def willing_choices(quality: ArrayLike, cost_usd: ArrayLike, willingness: ArrayLike) -> Choices:
    """Return which model is chosen for each prompt at each willingness to pay: argmax lambda * q - c.

    Ties go to the cheaper model, then to the better one. At infinity quality alone decides.

    Parameters
    ----------
    quality, cost_usd : array-like of shape (n, K)
        As they are foretold; the cost in [USD].
    willingness : array-like of shape (L,)
        lambda: what a unit of quality may cost [USD].

    Returns
    -------
    choices : ndarray of int of shape (L, n)

    References
    ----------
    Hu et al. (2024), RouterBench, predictive routers: ``lambda * P_ij - cost_j``.

    Examples
    --------
    >>> willing_choices([[0.5, 0.9]], [[1.0, 3.0]], [0.0, 4.0, 6.0, np.inf])
    array([[0],
           [0],
           [1],
           [1]])
    """
    q, c = np.asarray(quality, dtype=np.float64), np.asarray(cost_usd, dtype=np.float64)
    return np.array([_chosen(q, c, value) for value in np.asarray(willingness, dtype=np.float64)])


def _chosen(q: Array, c: Array, value: float) -> Choices:
    utility = q if np.isinf(value) else value * q - c
    tied = utility == utility.max(axis=1, keepdims=True)
    cheap = np.where(tied, c, np.inf)
    tied &= cheap == cheap.min(axis=1, keepdims=True)
    chosen: Choices = np.where(tied, q, -np.inf).argmax(axis=1)
    return chosen


def mean_points(choices: Choices, quality: Array, cost_usd: Array) -> Array:
    """Return the (mean cost, mean quality) that choices really come to, of shape (L, 2).

    Parameters
    ----------
    choices : ndarray of int of shape (L, n)
        Of `willing_choices`.
    quality, cost_usd : ndarray of shape (n, K)
        As they were.

    Examples
    --------
    >>> choices = np.array([[0, 0], [0, 1]])
    >>> mean_points(choices, np.array([[0.5, 1.0], [0.0, 1.0]]), np.array([[1.0, 3.0], [1.0, 3.0]]))
    array([[1.  , 0.25],
           [2.  , 0.75]])
    """
    rows = np.arange(len(quality))
    return np.array([(cost_usd[rows, k].mean(), quality[rows, k].mean()) for k in choices])


def cascade(
    quality: ArrayLike,
    cost_usd: ArrayLike,
    *,
    threshold: float,
    error: float = 0.0,
    cap_usd: float = np.inf,
) -> tuple[float, float]:
    """Return the mean cost [USD] and mean quality of a cascade: ask, judge, and go on to the dearer model.

    The models are asked from the left to the right. A judge says whether an answer's quality reaches
    the threshold, and is wrong with probability `error`; the first answer that is accepted is kept,
    else the last one. All answers asked for are paid. A prompt's cascade ends where the next answer
    would cost as much as is left of `cap_usd`; the first answer is always asked for. Per prompt, with
    a_j = 1 - error where q_j reaches the threshold and error elsewhere, a_J = 1 of the last model J::

        reach_j = prod_(i < j) (1 - a_i)
        quality = sum_j reach_j * a_j * q_j        cost = sum_j reach_j * c_j

    These are expectations over the judge's errors; nothing is drawn. The judge knows the truth but for
    its errors, and costs nothing: a bound for cascades, not one that could be bought.

    Parameters
    ----------
    quality, cost_usd : array-like of shape (n, K)
        Columns from the cheapest model to the dearest.
    threshold : float
        The quality that is enough.
    error : float
        In [0, 1].
    cap_usd : float
        The most that one prompt may cost [USD].

    References
    ----------
    Hu et al. (2024), RouterBench, cascading routers; their ``run_cascading_router.py``.

    Examples
    --------
    >>> cascade([[0.0, 1.0], [1.0, 1.0]], [[1.0, 4.0], [1.0, 4.0]], threshold=1.0)
    (3.0, 1.0)
    """
    q, c = np.asarray(quality, dtype=np.float64), np.asarray(cost_usd, dtype=np.float64)
    check_unit("error", error)
    asked = np.cumsum(c, axis=1) < cap_usd
    asked[:, 0] = True
    asked = np.logical_and.accumulate(asked, axis=1)
    last = asked & ~np.column_stack([asked[:, 1:], np.zeros(len(asked), dtype=np.bool_)])
    accepted = np.where(last, 1.0, np.where(q >= threshold, 1.0 - error, error))
    reach = np.cumprod(np.column_stack([np.ones(len(q)), 1.0 - accepted[:, :-1]]), axis=1)
    return float((reach * c).sum(axis=1).mean()), float((reach * accepted * q).sum(axis=1).mean())
