"""What a dollar and a second are worth: quality, cost and latency become one utility at decision time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit_router.values import Array, check_amount, check_unit

OPTIMISM = 1.0  # standard deviations by which a model may be better than it promises


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """How quality is traded for cost and latency.

    Parameters
    ----------
    price_weight : float
        Reward that one cost unit (`cost_unit_usd`) is worth.
    latency_weight : float
        Reward that one second is worth [1/s].
    max_quality_drop : float, optional
        The quality that may be given up for this prompt, in [0, 1]: a model that is worse than the best by
        more does not serve, however cheap or fast it is (`within_drop`). None gives up any.

    Examples
    --------
    >>> mean, cost, latency = np.array([0.7, 0.9]), np.array([0.001, 0.010]), np.array([1.0, 3.0])
    >>> Preference(price_weight=0.3).utility(mean, cost, latency, cost_unit_usd=0.01)
    array([0.67, 0.6 ])
    """

    price_weight: float = 0.0
    latency_weight: float = 0.0
    max_quality_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("price_weight", "latency_weight"):
            object.__setattr__(self, name, check_amount(name, getattr(self, name)))
        if self.max_quality_drop is not None:
            drop = check_unit("max_quality_drop", self.max_quality_drop)
            object.__setattr__(self, "max_quality_drop", drop)

    def utility(
        self, mean: Array, cost_usd: Array, latency_s: Array, *, cost_unit_usd: float | None
    ) -> Array:
        """Return what each model is worth for this request, of shape (K,).

        Parameters
        ----------
        mean, cost_usd, latency_s : ndarray of shape (K,)
            Promised reward, predicted cost [USD] and latency [s].
        cost_unit_usd : float or None
            The dollars that `price_weight` is per; None or zero counts no cost.
        """
        utility = mean
        if self.price_weight and cost_unit_usd:
            utility = utility - self.price_weight / cost_unit_usd * cost_usd
        if self.latency_weight:
            utility = utility - self.latency_weight * latency_s
        return utility


def within_cap(cost_usd: Array, max_cost_usd: float | None) -> Array:
    """Return which models a hard cap leaves, a bool array of shape (K,)."""
    if max_cost_usd is None:
        return np.ones(len(cost_usd), dtype=bool)
    return np.asarray(cost_usd <= max_cost_usd)


def within_drop(mean: Array, std: Array, max_quality_drop: float | None) -> Array:
    """Return which models a quality floor leaves, a bool array of shape (K,).

    Those that may be nearly as good as the best may be, ``mean_k + OPTIMISM std_k >= max_j (mean_j + OPTIMISM
    std_j) - max_quality_drop``. So a model that nobody knows is not left out; it may leave others out, but
    then it serves until it is known. As widths shrink, means decide. By means alone, the best model would
    not be found if it is dear, and nothing would be measured by it.

    Parameters
    ----------
    mean, std : ndarray of shape (K,)
        Promised reward and its width.
    max_quality_drop : float or None
        None leaves all.

    Examples
    --------
    >>> mean = np.array([0.70, 0.79, 0.80])
    >>> within_drop(mean, np.full(3, 0.01), 0.02)
    array([False,  True,  True])
    >>> within_drop(mean, np.array([0.1, 0.01, 0.01]), 0.02)
    array([ True,  True,  True])
    """
    if max_quality_drop is None:
        return np.ones(len(mean), dtype=bool)
    hoped = mean + OPTIMISM * std
    return np.asarray(hoped >= hoped.max() - max_quality_drop)
