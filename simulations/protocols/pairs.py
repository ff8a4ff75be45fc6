"""Between a weak and a strong model: what of their gap a router recovers, and at which share of strong calls.

A router of a pair is a score per prompt: the strong model is asked where the score reaches a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bandit_router.values import Array, check_unit

BINS = 10  # of equally many scores, as in the authors' program


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShareCurve:
    """What a router of a pair comes to at each threshold, from no strong call to all.

    Attributes
    ----------
    threshold : ndarray of shape (m,)
        Falling.
    share : ndarray of shape (m,)
        Part of the prompts whose score reaches the threshold; from 0 to 1.
    quality : ndarray of shape (m,)
        Mean quality; the weak model's at share 0, the strong one's at share 1.
    """

    threshold: Array
    share: Array
    quality: Array

    @property
    def recovered(self) -> Array:
        """The performance gap recovered at each threshold: `pgr` of the ends, of shape (m,)."""
        return pgr(self.quality, weak=float(self.quality[0]), strong=float(self.quality[-1]))


def pgr(quality: ArrayLike, *, weak: float, strong: float) -> Array:
    """Return the performance gap recovered: ``(quality - weak) / (strong - weak)``.

    Raises
    ------
    ValueError
        The strong model is not better than the weak one: there is no gap.

    References
    ----------
    Ong et al. (2024), RouteLLM: Learning to Route LLMs with Preference Data, section 2.

    Examples
    --------
    >>> pgr([0.5, 0.6, 0.9], weak=0.5, strong=0.9)
    array([0.  , 0.25, 1.  ])
    """
    if not strong > weak:
        raise ValueError(
            f"expected a strong model better than the weak one, got {strong:g} and {weak:g}"
        )
    return (np.asarray(quality, dtype=np.float64) - weak) / (strong - weak)


def share_curve(score: ArrayLike, weak: ArrayLike, strong: ArrayLike, *, bins: int = BINS) -> ShareCurve:
    """Return what thresholds at the quantiles of the scores come to.

    Scores that are equal are on one side of every threshold together; between the points the curve is
    a straight line, as when these prompts were drawn at random.

    Parameters
    ----------
    score : array-like of shape (n,)
        The higher, the more the prompt needs the strong model.
    weak, strong : array-like of shape (n,)
        The quality of both models' answers.
    bins : int
        Thresholds are the ``bins + 1`` quantiles at 0, 1 / bins, ... 1. At the last one no prompt is
        given to the strong model.

    Examples
    --------
    >>> curve = share_curve([0.1, 0.4, 0.2, 0.3], [1, 0, 1, 0], [1, 1, 1, 0], bins=2)
    >>> curve.share, curve.quality, curve.recovered
    (array([0. , 0.5, 1. ]), array([0.5 , 0.75, 0.75]), array([0., 1., 1.]))
    """
    scores, low, high = (
        _vector(name, v) for name, v in (("score", score), ("weak", weak), ("strong", strong))
    )
    if not len(scores) == len(low) == len(high):
        raise ValueError(f"expected as many of each, got {len(scores)}, {len(low)} and {len(high)}")
    thresholds = np.quantile(scores, np.linspace(1.0, 0.0, bins + 1))
    picked = scores >= thresholds[:, None]
    picked[0] = False
    quality = np.where(picked, high, low).mean(axis=1)
    return ShareCurve(threshold=thresholds, share=picked.mean(axis=1), quality=quality)


def apgr(curve: ShareCurve) -> float:
    """Return the average performance gap recovered: the integral of PGR over the share of strong calls.

    By the trapezoid rule over the curve's points. Drawing prompts at random gives 1/2; the ends alone,
    too.

    References
    ----------
    Ong et al. (2024), section 2, there with thresholds at ten shares; the authors' ``evals/evaluate.py``.

    Examples
    --------
    >>> apgr(share_curve([0.1, 0.4, 0.2, 0.3], [1, 0, 1, 0], [1, 1, 1, 0], bins=2))
    0.75
    """
    return float(np.trapezoid(curve.recovered, curve.share))


def cpt(curve: ShareCurve, x: float) -> float:
    """Return the call-performance threshold: the least share of strong calls that recovers `x` of the gap.

    On the straight lines between the curve's points. The authors' program interpolates the other way
    round, which takes the curve to be rising; where it rises both are the same.

    Parameters
    ----------
    curve : ShareCurve
    x : float
        In [0, 1]: 0.5 for CPT(50 %).

    Examples
    --------
    >>> cpt(share_curve([0.1, 0.4, 0.2, 0.3], [1, 0, 1, 0], [1, 1, 1, 0], bins=2), 0.5)
    0.25
    """
    check_unit("x", x)
    recovered, share = curve.recovered, curve.share
    at = int(np.argmax(recovered >= x))
    if at == 0:
        return float(share[0])
    part = (x - recovered[at - 1]) / (recovered[at] - recovered[at - 1])
    return float(share[at - 1] + part * (share[at] - share[at - 1]))


def threshold_for_share(score: ArrayLike, share: float) -> float:
    """Return the threshold that this share of the scores reaches: their quantile at ``1 - share``.

    References
    ----------
    Ong et al. (2024); the authors' ``calibrate_threshold.py``.

    Examples
    --------
    >>> round(threshold_for_share([0.0, 0.1, 0.2, 0.3, 0.4], 0.25), 6)
    0.3
    """
    return float(np.quantile(_vector("score", score), 1.0 - check_unit("share", share)))


def _vector(name: str, values: ArrayLike) -> Array:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise ValueError(f"{name}: expected finite numbers of shape (n,), got shape {vector.shape}")
    return vector
