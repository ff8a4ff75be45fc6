"""What another policy would have earned: estimators of its value from a log, each a function of arrays.

Letters: ``w = pi / p`` is how much likelier the policy in question is to draw the model that was drawn, ``r``
its reward, ``q`` what a reward model foretells of it, and ``v = sum_k pi_k q_k`` what that foretells
of the policy.
docs/replay.md tells what each assumes and when it fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_router.values import Array
from simulations.offpolicy.intervals import Kind, bernstein, bootstrap, clustered, sequence

Clusters = NDArray[np.int64] | None


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


def replay(
    target: Array, logged: Array, reward: Array, *, seed: int = 0, clusters: Clusters = None
) -> Estimate:
    """Rejection: keep a row with probability ``w / max(w)`` and take the mean of what is kept.

    What is kept is a sample of the policy itself; with uniform logging and a policy that draws for certain
    these are the rows in which both agree [1]_. It wastes what it rejects. `effective` is the number kept.

    References
    ----------
    .. [1] Li et al., "Unbiased offline evaluation of contextual-bandit-based news article recommendation
       algorithms", WSDM 2011.
    """
    ratio = ratios(target, logged, reward)
    kept = np.random.default_rng(seed).random(len(ratio)) * ratio.max(initial=0.0) < ratio
    if kept.sum() < 2:
        raise ValueError(f"expected at least 2 rows that both policies draw, got {kept.sum()}")
    low, high = clustered(reward[kept], None if clusters is None else clusters[kept])
    value = float(reward[kept].mean())
    return Estimate(value=value, low=low, high=high, n=len(reward), effective=float(kept.sum()))


def ips(
    target: Array,
    logged: Array,
    reward: Array,
    *,
    interval: Kind = "student",
    most: float | None = None,
    clusters: Clusters = None,
) -> Estimate:
    """Inverse propensity scoring, ``mean(w r)``.

    Unbiased where every model that the policy may draw had a logged probability, and where rewards are not
    missing because of what they would have been.

    Parameters
    ----------
    target, logged : ndarray of shape (n,)
        Probability of the model drawn, under the policy in question and as logged.
    reward : ndarray of shape (n,)
        In [0, 1] for the intervals "bernstein" and "sequence".
    interval : {"student", "bernstein", "bootstrap", "sequence"}
        See `intervals`; "sequence" wants the rows in the order of time.
    most : float, optional
        For "bernstein": what no ratio exceeds, drawn or not; by default the largest that was drawn, which is
        too little for a guarantee.
    clusters : ndarray of int, shape (n,), optional
        Rows of one conversation share a number.

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
    ratio = ratios(target, logged, reward)
    terms = ratio * reward
    if interval == "sequence":
        low, high = sequence(ratio, reward)
        return _told(terms, ratio, (low, high))
    return _told(
        terms, ratio, _interval(terms, ratio.max() if most is None else most, interval, clusters)
    )


def clipped_ips(
    target: Array, logged: Array, reward: Array, *, clip: float = 10.0, clusters: Clusters = None
) -> Estimate:
    """``mean(min(w, clip) r)``: too low by what is cut off, and steadier; the larger `clip`, the nearer to IPS.

    References
    ----------
    .. [1] Ionides, "Truncated importance sampling", JCGS 17 (2008).
    """
    ratio = np.minimum(ratios(target, logged, reward), clip)
    return _told(ratio * reward, ratio, clustered(ratio * reward, clusters))


def snips(target: Array, logged: Array, reward: Array, *, clusters: Clusters = None) -> Estimate:
    """Self-normalised: ``sum(w r) / sum(w)``; biased by order 1/n, and stays within the rewards' range.

    The interval is that of the ratio's influence, ``value + w (r - value) / mean(w)``.

    References
    ----------
    .. [1] Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning", NIPS 2015.
    """
    ratio = ratios(target, logged, reward)
    if not ratio.any():
        raise ValueError("the policy draws none of the models that were drawn")
    value = float(ratio @ reward / ratio.sum())
    terms = value + ratio * (reward - value) / ratio.mean()
    return _told(terms, ratio, clustered(terms, clusters))


def direct(foretold: Array, *, clusters: Clusters = None) -> Estimate:
    """Direct method: ``mean(v)``. As wrong as the reward model is, and its interval does not know of that.

    Parameters
    ----------
    foretold : ndarray of shape (n,)
        ``v``, by a model that was not trained on the row.
    """
    return _told(foretold, np.ones(len(foretold)), clustered(foretold, clusters))


def dr(
    target: Array,
    logged: Array,
    reward: Array,
    q: Array,
    v: Array,
    *,
    interval: Kind = "student",
    most: float | None = None,
    clusters: Clusters = None,
) -> Estimate:
    """Doubly robust: ``mean(v + w (r - q))``: right if either the probabilities or the reward model are.

    Parameters
    ----------
    target, logged, reward : ndarray of shape (n,)
        As in `ips`.
    q, v : ndarray of shape (n,)
        What a model that was not trained on the row foretells of the model drawn, and of the policy; in [0, 1]
        for "bernstein" and "sequence", and by earlier rows only for "sequence".

    References
    ----------
    .. [1] Dudik, Langford and Li, "Doubly robust policy evaluation and learning", ICML 2011.
    """
    ratio = ratios(target, logged, reward)
    terms = v + ratio * (reward - q)
    if interval == "sequence":
        return _told(terms, ratio, _dr_sequence(ratio, terms, most))
    bound = 1.0 + 2.0 * (ratio.max() if most is None else most)  # terms lie in [-most, 1 + most]
    return _told(terms, ratio, _interval(terms, bound, interval, clusters))


def _dr_sequence(ratio: Array, terms: Array, most: float | None) -> tuple[float, float]:
    """Shift by `most` and scale: ``(terms + most) / (1 + 2 most)`` is in [0, 1], with a ratio of one."""
    bound = float(ratio.max() if most is None else most)
    low, high = sequence(np.ones(len(terms)), (terms + bound) / (1 + 2 * bound))
    return low * (1 + 2 * bound) - bound, high * (1 + 2 * bound) - bound


def sndr(
    target: Array, logged: Array, reward: Array, q: Array, v: Array, *, clusters: Clusters = None
) -> Estimate:
    """Self-normalised doubly robust: ``mean(v) + sum(w (r - q)) / sum(w)``.

    References
    ----------
    .. [1] Thomas and Brunskill, "Data-efficient off-policy policy evaluation", ICML 2016.
    """
    ratio = ratios(target, logged, reward)
    if not ratio.any():
        raise ValueError("the policy draws none of the models that were drawn")
    shift = ratio @ (reward - q) / ratio.sum()
    terms = v + shift + ratio * (reward - q - shift) / ratio.mean()
    return _told(terms, ratio, clustered(terms, clusters))


def switch_dr(
    target: Array,
    logged: Array,
    reward: Array,
    q: Array,
    v: Array,
    *,
    tau: float = 10.0,
    clusters: Clusters = None,
) -> Estimate:
    """``mean(v + w (r - q) [w <= tau])``: where a ratio is too large the reward model alone is believed.

    References
    ----------
    .. [1] Wang, Agarwal and Dudik, "Optimal and adaptive off-policy evaluation in contextual bandits",
       ICML 2017.
    """
    ratio = ratios(target, logged, reward)
    ratio = np.where(ratio <= tau, ratio, 0.0)
    terms = v + ratio * (reward - q)
    return _told(terms, ratio, clustered(terms, clusters))


def dros(
    target: Array,
    logged: Array,
    reward: Array,
    q: Array,
    v: Array,
    *,
    shrink: float = 100.0,
    clusters: Clusters = None,
) -> Estimate:
    """DR with optimistic shrinkage: ``w`` becomes ``lambda w / (w^2 + lambda)``; 0 is the direct method.

    References
    ----------
    .. [1] Su et al., "Doubly robust off-policy evaluation with shrinkage", ICML 2020.
    """
    ratio = ratios(target, logged, reward)
    # Where lambda and a ratio are both 0 nothing is left of it.
    ratio = np.divide(shrink * ratio, ratio**2 + shrink, out=np.zeros(len(ratio)), where=ratio > 0)
    terms = v + ratio * (reward - q)
    return _told(terms, ratio, clustered(terms, clusters))


def ratios(target: Array, logged: Array, reward: Array) -> Array:
    """Return ``w``, of shape (n,), of rows that can be weighed.

    Raises
    ------
    ValueError
        As `ips`.
    """
    if not target.shape == logged.shape == reward.shape or target.ndim != 1:
        raise ValueError(
            f"expected three of shape (n,), got {target.shape}, {logged.shape}, {reward.shape}"
        )
    if len(reward) < 2:
        raise ValueError(f"expected at least 2 rows, got {len(reward)}")
    if not ((logged > 0) & (logged <= 1)).all():
        raise ValueError("expected logged probabilities in (0, 1]")
    ratio: Array = target / logged
    return ratio


def effective_size(ratio: Array) -> float:
    """Return Kish's ``sum(w)^2 / sum(w^2)``: how many rows of the policy itself would tell as much."""
    squares = float((ratio**2).sum())
    return float(ratio.sum() ** 2 / squares) if squares > 0 else 0.0


def _interval(terms: Array, span: float, kind: Kind, clusters: Clusters) -> tuple[float, float]:
    if kind == "bernstein":
        return bernstein(terms, float(span))
    return bootstrap(terms, clusters) if kind == "bootstrap" else clustered(terms, clusters)


def _told(terms: Array, ratio: Array, ends: tuple[float, float]) -> Estimate:
    return Estimate(
        value=float(terms.mean()),
        low=ends[0],
        high=ends[1],
        n=len(terms),
        effective=effective_size(ratio),
    )
