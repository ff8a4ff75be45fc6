"""Keeping the mean cost at a budget, request by request: a window of recent predictions and a purse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_router.budget import FREE, DollarPrice, allowance, dollar_price
from bandit_router.policies import Policy, score
from bandit_router.values import Array

WINDOW = 256  # recent requests over which the price of a dollar is solved
EVERY = 16  # requests after which it is solved again
HORIZON = 100  # requests over which what was over- or underspent is made good
ADVANCE = 10  # budgets that may be spent ahead
COVERED = 2  # budgets that one request may cost, whatever was spent before
MEMORY = 400  # bills by which it is judged how far predictions are off
TRUST = 50  # budgets' worth of bills that were as predicted, before the first
EXPLORING = 0.01  # of the budget: the most that floors may be expected to cost

Mask = NDArray[np.bool_]


class Pacer:
    """The price of a dollar, kept up to date.

    Parameters
    ----------
    budget_usd : float
        Mean cost per request to be kept [USD].
    models : int
        K, how many there are to choose from.

    Examples
    --------
    >>> from bandit_router.policies import Greedy
    >>> pacer, cost = Pacer(2.0, 2), np.array([1.0, 3.0])
    >>> pacer.probabilities(Greedy(), np.array([0.5, 0.8]), np.zeros(2), cost).round(6)
    array([0.5, 0.5])
    """

    def __init__(self, budget_usd: float, models: int) -> None:
        self.budget_usd = budget_usd
        self.spent_usd = 0.0
        self.paid = 0
        self.price: DollarPrice = FREE
        self._billed = np.zeros(2)  # actual and predicted, of late
        self._score = np.empty((WINDOW, models))
        self._cost_usd = np.empty((WINDOW, models))
        self._seen = 0
        self._rng = np.random.default_rng(models)  # of the window alone; it draws no model

    def __repr__(self) -> str:
        return f"<Pacer budget_usd={self.budget_usd:g} spent_usd={self.spent_usd:g} paid={self.paid}>"

    def probabilities(self, policy: Policy, utility: Array, std: Array, cost_usd: Array) -> Array:
        """Return the policy's probabilities at the present price of a dollar, of shape (K,).

        Parameters
        ----------
        policy : Policy
        utility, std, cost_usd : ndarray of shape (K,)
            What each model is worth for this request, its standard deviation, its predicted cost [USD].
        """
        self.record(policy, utility, std, cost_usd)
        return self.mixed(policy, utility, std, cost_usd)

    def mixed(self, policy: Policy, utility: Array, std: Array, cost_usd: Array) -> Array:
        """As `probabilities`, for those models that are eligible, without recording the request."""
        p = np.zeros(len(cost_usd))
        payable = self._payable(cost_usd)
        p[payable] = self._priced(policy, utility[payable], std[payable], cost_usd[payable])
        return p

    def _priced(self, policy: Policy, utility: Array, std: Array, cost_usd: Array) -> Array:
        """Mix the policy at the two prices."""
        # A hair off the two prices, as requests are exactly tied there.
        low, high = self.price.low * (1 - 1e-9), self.price.high * (1 + 1e-9)
        share = self.price.share
        p = policy.probabilities(utility - high * cost_usd, std)
        if share > 0.0 and high > 0.0:
            p = share * policy.probabilities(utility - low * cost_usd, std) + (1 - share) * p
        return p

    def _payable(self, cost_usd: Array) -> Mask:
        """Return which models the purse can pay; the cheapest is always paid, and what costs about the budget.

        Prices only say what is worth its cost on average: an optimist who does not know a model yet
        could spend a month's budget on it. But one dear call must not starve the hundred after it.
        """
        return np.asarray(cost_usd <= max(self.purse_usd, COVERED * self.budget_usd, cost_usd.min()))

    def can_pay(self, cost_usd: Array) -> Mask:
        """Return which models can be paid without end: out of the purse, or for a budget each."""
        return np.asarray(cost_usd <= max(self.purse_usd, self.budget_usd))

    def record(self, policy: Policy, utility: Array, std: Array, cost_usd: Array) -> None:
        """Take a request into the window; the utility of a model that is not eligible is -inf.

        What the policy would go by is kept, width included: an optimist or a sampler spends otherwise than
        the mean would.
        """
        at = self._seen % WINDOW
        z = self._rng.standard_normal(len(utility))
        self._score[at], self._cost_usd[at] = score(policy, utility, std, z), cost_usd
        self._seen += 1
        if self._seen % EVERY == 1 or self._seen <= EVERY:
            self._solve()

    def _solve(self) -> None:
        known = slice(0, min(self._seen, WINDOW))
        self.price = dollar_price(self._score[known], self._cost_usd[known], self.aim / self.overrun)

    def reprice(self, was_usd: Array, now_usd: Array) -> None:
        """Take all that is in the window to cost what it would at the prices of now.

        What a price weight made of the old prices stays in it until it has moved on.

        Parameters
        ----------
        was_usd, now_usd : ndarray of shape (K,)
            What one request costs on each model, at the prices before and after [USD].
        """
        known = self._cost_usd[: min(self._seen, WINDOW)]
        paid = was_usd > 0
        known[:, paid] *= now_usd[paid] / was_usd[paid]
        known[:, ~paid] = now_usd[~paid]  # what was free says nothing of how requests differ
        if len(known):
            self._solve()

    @property
    def aim(self) -> float:
        """The mean cost to aim at now [USD]."""
        return allowance(self.budget_usd, self.spent_usd, self.paid, horizon=HORIZON)

    @property
    def purse_usd(self) -> float:
        """What was saved, and an advance [USD]."""
        return self.budget_usd * (self.paid + ADVANCE) - self.spent_usd

    def spend(self, cost_usd: float) -> None:
        """Note what a request cost [USD]."""
        self.spent_usd += cost_usd
        self.paid += 1

    def settle(self, predicted_usd: float, cost_usd: float) -> None:
        """Charge what a request did cost instead of what was predicted [USD]."""
        self.spent_usd += cost_usd - predicted_usd
        self._billed *= 1.0 - 1.0 / MEMORY
        self._billed += (cost_usd, predicted_usd)

    @property
    def overrun(self) -> float:
        """How much more calls cost of late than was predicted, as a ratio.

        Models are chosen where they are thought to be cheap; so they are dearer than thought on average.
        """
        actual, predicted = self._billed + TRUST * self.budget_usd
        return float(np.clip(actual / predicted, 0.5, 2.0))

    def affordable(self, floor: Array, cost_usd: Array) -> Array:
        """Return the part of each model's floor, of shape (K,), that the budget can pay.

        All floors together cost at most 1 % of the budget, and none more than the purse holds.
        """
        most = EXPLORING * self.budget_usd / len(floor)
        paid = np.minimum(floor, most / np.maximum(cost_usd, most))
        return np.where(self._payable(cost_usd), paid, 0.0)
