"""From promises to the probabilities that are drawn from and logged: pure arithmetic, in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bandit_router.errors import NoEligibleModelError
from bandit_router.events import Candidate, Model, Reason
from bandit_router.newcomers import Newcomers
from bandit_router.pacing import Mask, Pacer
from bandit_router.policies import Policy, with_floor, with_shares
from bandit_router.preference import Preference, within_cap, within_drop
from bandit_router.request import Request
from bandit_router.values import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """What K models offer for one request.

    Attributes
    ----------
    models : tuple of Model
    mean, std : ndarray of shape (K,)
        The promised reward and its width.
    cost_usd, worst_usd, latency_s : ndarray of shape (K,)
        Predicted [USD], [s].
    utility : ndarray of shape (K,)
        The promise less what cost and latency are worth.
    """

    models: tuple[Model, ...]
    mean: Array
    std: Array
    cost_usd: Array
    worst_usd: Array
    latency_s: Array
    utility: Array

    def only(self, mask: Mask) -> Offer:
        """Return the offers of some models."""
        if mask.all():
            return self
        return Offer(
            models=tuple(model for model, kept in zip(self.models, mask, strict=True) if kept),
            mean=self.mean[mask],
            std=self.std[mask],
            cost_usd=self.cost_usd[mask],
            worst_usd=self.worst_usd[mask],
            latency_s=self.latency_s[mask],
            utility=self.utility[mask],
        )

    def worth(self, left: Mask) -> Array:
        """Return the utility of the models that are left, and -inf of others, of shape (K,)."""
        return np.where(left, self.utility, -np.inf)

    def candidates(self, p: Array) -> tuple[Candidate, ...]:
        """Return what is logged of each model."""
        columns = (p, self.mean, self.std, self.cost_usd, self.latency_s)
        return tuple(
            Candidate(
                model=model.name, probability=q, mean=mean, std=std, cost_usd=cost, latency_s=latency
            )
            for model, q, mean, std, cost, latency in zip(
                self.models, *(column.tolist() for column in columns), strict=True
            )
        )


def eligible(offer: Offer, request: Request) -> Mask:
    """Return which models may serve a request, of shape (K,).

    A model whose context is too short is left out where another's is long enough. Where none is, by the
    rough count of tokens that there is, the provider has the last word on those with the longest.

    Raises
    ------
    NoEligibleModelError
        None may; the message says what excluded them.
    """
    needed = request.prompt.input_tokens + (request.max_tokens or 0)
    if request.models is None and request.max_cost_usd is None and _all_have_room(offer.models, needed):
        return np.ones(len(offer.models), dtype=bool)
    listed = np.array(
        [request.models is None or m.name in request.models for m in offer.models], dtype=bool
    )
    room = np.array([np.inf if m.context_tokens is None else m.context_tokens for m in offer.models])
    roomy = room >= min(needed, room[listed].max(initial=0.0))
    left: Mask = listed & roomy & within_cap(offer.worst_usd, request.max_cost_usd)
    if not left.any():
        raise NoEligibleModelError(
            f"no model is left: {len(listed)} active, {listed.sum()} of them asked for, "
            f"{(listed & roomy).sum()} with room for the prompt, {left.sum()} within the cap on cost"
        )
    return left


def _all_have_room(models: tuple[Model, ...], needed: float) -> bool:
    return all(m.context_tokens is None or m.context_tokens >= needed for m in models)


def within_trials(
    offer: Offer, left: Mask, newcomers: Newcomers, rewards: Callable[[str], float], *, budget_usd: float
) -> Mask:
    """Return which of the eligible models are known, or may be tried under the budget, of shape (K,).

    Where all that are left are newcomers that may not, they serve all the same.

    Parameters
    ----------
    offer : Offer
    left : ndarray of bool of shape (K,)
        The eligible models.
    newcomers : Newcomers
    rewards : callable
        Returns how many rewards of a model are known.
    budget_usd : float
        Mean cost per request to be kept [USD].
    """
    names = [model.name for model in offer.models]
    newcomers.meet([name for name, there in zip(names, left, strict=True) if there], rewards)
    payable: Mask = left & newcomers.payable(names, offer.cost_usd, rewards, budget_usd=budget_usd)
    return payable if payable.any() else left


def good_enough(offer: Offer, left: Mask, preference: Preference, pacer: Pacer | None) -> Mask:
    """Return which of the eligible models a quality floor leaves, of shape (K,).

    It wins over a budget as long as the purse can pay any that it leaves; if it can pay none, the budget
    wins: all eligible models are left.

    Parameters
    ----------
    offer : Offer
    left : ndarray of bool of shape (K,)
        The eligible models; the best of them is what others are measured by.
    preference : Preference
    pacer : Pacer, optional
        Keeps the budget, where there is one.
    """
    if preference.max_quality_drop is None:
        return left
    good = left.copy()
    good[left] = within_drop(offer.mean[left], offer.std[left], preference.max_quality_drop)
    if pacer is not None and not (good & pacer.can_pay(offer.cost_usd)).any():
        return left
    return good


def weigh(policy: Policy, offer: Offer, *, floor: float, pacer: Pacer | None) -> Array:
    """Return the probability of each model, floor and budget included, of shape (K,).

    Parameters
    ----------
    policy : Policy
    offer : Offer
        Of the eligible models.
    floor : float
        Total share that is spread evenly.
    pacer : Pacer, optional
        Keeps the budget, where there is one.
    """
    models = len(offer.models)
    if models == 1:
        return np.ones(1)
    if pacer is None:
        return with_floor(policy.probabilities(offer.utility, offer.std), floor)
    p = pacer.mixed(policy, offer.utility, offer.std, offer.cost_usd)
    return with_shares(p, pacer.affordable(np.full(models, floor / models), offer.cost_usd))


def reason_for(offer: Offer, drawn: int, pacer: Pacer | None) -> Reason:
    """Return why the drawn model serves: "exploit" if none promises more, at the price of a dollar."""
    if len(offer.models) == 1:
        return "only"
    worth = offer.utility
    if pacer is not None:
        worth = worth - pacer.price.mean * offer.cost_usd
    return "exploit" if worth[drawn] == worth.max() else "explore"
