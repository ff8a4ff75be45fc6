"""Drift: has a mean moved, and since when?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from bandit_router.values import Array

LEAST = 100  # values on each side of a change
SIGNIFICANCE = 1e-6  # how likely an alarm may be where nothing has moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Where a mean has moved.

    Attributes
    ----------
    column : int
        Which of the means.
    place : float
        The first place after the move.
    effect : float
        How far [standard deviations].
    """

    column: int
    place: float
    effect: float


def find_change(
    places: Array, values: Array, *, least: int = LEAST, significance: float = SIGNIFICANCE
) -> Change | None:
    """Return the largest move of a column's mean that chance does not explain, or None.

    Between any two places the means before and after are compared (Welch's statistic, as normal), with
    Bonferroni's correction for all places and columns, as ADWIN's cuts are [1]_. What counts as large is up to
    the reader: with many values a tiny move is no chance either.

    Parameters
    ----------
    places : ndarray of shape (n,)
        Where each row stands, ascending.
    values : ndarray of shape (n, k)

    References
    ----------
    .. [1] Bifet and Gavalda, "Learning from time-changing data with adaptive windowing", SDM 2007.

    Examples
    --------
    >>> places = np.repeat([0.0, 1.0, 2.0, 3.0], 100)
    >>> values = np.random.default_rng(0).normal(size=(400, 2)) + (places >= 2)[:, None] * [0, 1]
    >>> change = find_change(places, values)
    >>> change.column, change.place, round(change.effect, 1)
    (1, 2.0, 1.0)
    """
    cuts = [
        int(cut) for cut in np.flatnonzero(np.diff(places)) + 1 if least <= cut <= len(places) - least
    ]
    if not cuts or not values.shape[1]:
        return None
    tests = len(cuts) * values.shape[1]
    z, effects = _moves(values, np.array(cuts))
    certain = np.log(2) + log_ndtr(-z) < np.log(significance / tests)
    columns = np.arange(values.shape[1])
    likeliest = z.argmax(axis=0)  # the cut that says most
    found = np.where(certain, effects, 0.0)[likeliest, columns]
    column = int(found.argmax())
    if found[column] == 0:
        return None
    place = float(places[cuts[likeliest[column]]])
    return Change(column=column, place=place, effect=float(found[column]))


def _moves(values: Array, cuts: NDArray[np.intp]) -> tuple[Array, Array]:
    """How far each mean moves at each cut, of shape (cuts, k), in standard errors and standard deviations."""
    centred, n = values - values.mean(axis=0), len(values)
    sums, squares = np.cumsum(centred, axis=0), np.cumsum(centred**2, axis=0)
    before, after = cuts[:, None], n - cuts[:, None]
    first, second = sums[cuts - 1] / before, (sums[-1] - sums[cuts - 1]) / after
    first_var = np.maximum(squares[cuts - 1] / before - first**2, 0.0)
    second_var = np.maximum((squares[-1] - squares[cuts - 1]) / after - second**2, 0.0)
    moved, error = np.abs(second - first), np.sqrt(first_var / before + second_var / after)
    z: Array = np.divide(moved, error, out=np.where(moved > 1e-9, np.inf, 0.0), where=error > 1e-9)
    # A mean that moves between two constants has no width; by all values together it has.
    width = np.sqrt((first_var + second_var) / 2)
    effects: Array = moved / np.where(width > 1e-6, width, np.maximum(values.std(axis=0), 1e-9))
    return z, effects
