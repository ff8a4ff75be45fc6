"""What another policy would have earned: estimators of its value from a log, each a function of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from bandit_router.values import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The value of a policy, with a 95 % interval.

    Attributes
    ----------
    value, low, high : float
        Mean reward per decision.
    n : int
        Decisions that it was estimated from.
    effective : float
        How many decisions of the policy itself would tell as much (Kish).
    """

    value: float
    low: float
    high: float
    n: int
    effective: float


def ips(target: Array, logged: Array, reward: Array) -> Estimate:
    """Inverse propensity scoring, ``mean(pi / p * r)``, with a Student interval.

    Unbiased where every model that the policy may draw had a logged probability, and where rewards are not
    missing because of what they would have been.

    Parameters
    ----------
    target, logged : ndarray of shape (n,)
        Probability of the model drawn, under the policy in question and as logged.
    reward : ndarray of shape (n,)

    Raises
    ------
    ValueError
        Fewer than two rows, shapes that differ, or a logged probability outside (0, 1].

    References
    ----------
    .. [1] Horvitz and Thompson, "A generalization of sampling without replacement from a finite universe",
       JASA 47 (1952).

    Examples
    --------
    >>> ips(np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([1.0, 1.0])).value
    1.0
    """
    if not target.shape == logged.shape == reward.shape or target.ndim != 1:
        raise ValueError(
            f"expected three of shape (n,), got {target.shape}, {logged.shape}, {reward.shape}"
        )
    if len(reward) < 2:
        raise ValueError(f"expected at least 2 rows, got {len(reward)}")
    if not ((logged > 0) & (logged <= 1)).all():
        raise ValueError("expected logged probabilities in (0, 1]")
    ratio = target / logged
    terms = ratio * reward
    value = float(terms.mean())
    half = float(stats.t.ppf(0.975, len(terms) - 1) * terms.std(ddof=1) / np.sqrt(len(terms)))
    squares = float((ratio**2).sum())
    effective = float(ratio.sum() ** 2 / squares) if squares > 0 else 0.0
    return Estimate(value=value, low=value - half, high=value + half, n=len(terms), effective=effective)
