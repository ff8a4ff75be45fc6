"""RouterArena's score: one number of accuracy and cost."""

from __future__ import annotations

import numpy as np

from bandit_router.values import check_amount, check_unit

CHEAP, DEAR = 0.0044, 200.0  # USD per 1,000 queries: the platform's ends of the scale
BETA = 0.1


def arena_score(accuracy: float, usd_per_1000: float, *, beta: float = BETA) -> float:
    """Return RouterArena's score of a router: a weighted harmonic mean of accuracy and thrift.

    With the accuracy A, the cost c of 1,000 queries [USD] and the platform's ends of the scale::

        C = (log2(200) - log2(c)) / (log2(200) - log2(0.0044))
        S = (1 + beta) * A * C / (beta * A + C)

    A cost beyond the ends counts as the end: the formula would leave [0, 1]. The prices at the ends
    belong to the platform's models, so that scores on other tables compare with each other only.

    Parameters
    ----------
    accuracy : float
        Mean quality, in [0, 1].
    usd_per_1000 : float
        Mean cost of 1,000 queries [USD].
    beta : float
        The smaller, the less the cost counts.

    References
    ----------
    Lu et al. (2025), RouterArena: An Open Platform for Comprehensive Comparison of LLM Routers,
    arXiv 2510.00202; their ``llm_evaluation/run.py``, which does not clip.

    Examples
    --------
    The first two of the platform's leaderboard of November 2025, there 66.89 and 66.66:

    >>> round(100 * arena_score(0.6688, 0.15), 1), round(100 * arena_score(0.6809, 0.54), 1)
    (66.9, 66.7)
    """
    check_unit("accuracy", accuracy)
    cost = np.clip(check_amount("usd_per_1000", usd_per_1000), CHEAP, DEAR)
    thrift = float(np.log2(DEAR / cost) / np.log2(DEAR / CHEAP))
    if accuracy == 0.0 or thrift == 0.0:
        return 0.0
    return (1.0 + beta) * accuracy * thrift / (beta * accuracy + thrift)
