"""The price of a dollar that keeps spending at the budget.

Dual ascent oscillates: it pays for a few dear calls with cheap ones. Instead the (tiny) linear programme
"most utility within the mean cost" is solved again over a window of recent predictions, and the two prices
beside the solution are mixed, so that the expected cost is the budget exactly.

References
----------
.. [1] Badanidiyuru, Kleinberg and Slivkins, "Bandits with knapsacks", FOCS 2013.
.. [2] Jasin and Kumar, "A re-solving heuristic with bounded revenue loss", Math. of OR 37 (2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit_router.values import Array

LEAST, MOST = 0.85, 1.5  # budgets that are aimed at to make good what was over- or underspent


@dataclass(frozen=True, slots=True, kw_only=True)
class DollarPrice:
    """Two prices of a dollar, and how often the lower one is charged.

    Attributes
    ----------
    low, high : float
        Utility per USD.
    share : float
        Probability of charging `low`.
    """

    low: float = 0.0
    high: float = 0.0
    share: float = 1.0

    @property
    def mean(self) -> float:
        """The price that is charged on average."""
        return self.share * self.low + (1.0 - self.share) * self.high


FREE = DollarPrice()


def dollar_price(utility: Array, cost_usd: Array, budget_usd: float) -> DollarPrice:
    """Return the price at which choosing the best of every row costs `budget_usd` on average.

    Parameters
    ----------
    utility, cost_usd : ndarray of shape (n, K)
        Predictions for recent requests; excluded models have a utility of -inf.
    budget_usd : float
        Mean cost per request to be kept [USD].

    Examples
    --------
    >>> price = dollar_price(np.array([[0.5, 0.9]]), np.array([[1.0, 3.0]]), 2.0)
    >>> round(price.low, 6), round(price.high, 6), price.share
    (0.2, 0.2, 0.5)
    """
    if _spent(utility, cost_usd, 0.0) <= budget_usd:
        return FREE
    high = _enough(utility, cost_usd, budget_usd)
    if _spent(utility, cost_usd, high) > budget_usd:  # even the cheapest costs more
        return DollarPrice(low=high, high=high)
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if _spent(utility, cost_usd, middle) > budget_usd:
            low = middle
        else:
            high = middle
    dear, cheap = _spent(utility, cost_usd, low), _spent(utility, cost_usd, high)
    return DollarPrice(low=low, high=high, share=(budget_usd - cheap) / (dear - cheap))


def _spent(utility: Array, cost_usd: Array, price: float) -> float:
    chosen = np.argmax(utility - price * cost_usd, axis=1)
    return float(np.take_along_axis(cost_usd, chosen[:, None], axis=1).mean())


def _enough(utility: Array, cost_usd: Array, budget_usd: float) -> float:
    price = 1.0 / max(budget_usd, 1e-12)
    for _ in range(60):
        if _spent(utility, cost_usd, price) <= budget_usd:
            break
        price *= 2.0
    return price


def allowance(budget_usd: float, spent_usd: float, requests: int, *, horizon: int) -> float:
    """Return the mean cost to aim at now, so that the long-run mean comes back to the budget.

    What was over- or underspent since the budget was set is made good over the next `horizon` requests;
    but what is much, over more of them: one bill of a hundred budgets must not starve all that follow.
    """
    owed = budget_usd * requests - spent_usd
    return float(np.clip(budget_usd + owed / horizon, LEAST * budget_usd, MOST * budget_usd))
