"""What a change of settings would have done to reward and dollars, draw by draw, against what the log does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit_router.values import Array
from simulations.estimators import effective_size
from simulations.offpolicy.crossfit import cross_fitted
from simulations.offpolicy.draws import Draws, Mask
from simulations.offpolicy.intervals import ALPHA, clustered
from simulations.offpolicy.responses import response_probabilities
from simulations.offpolicy.verdicts import HELD


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A mean difference per decision, with an interval.

    Attributes
    ----------
    value, low, high : float
    effective : float
        How many decisions of the new settings would tell as much (Kish); none, where a part of what they
        draw had a probability of 0.
    """

    value: float
    low: float
    high: float
    effective: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """Some draws of a log, with what a reward model foretells of them.

    Attributes
    ----------
    draws : Draws
    foretold : ndarray of shape (n, K)
    responses : ndarray of shape (n,)
        How likely a reward was heard.
    usd : ndarray of shape (n, K)
        What a call to each model costs on average [USD].
    """

    draws: Draws
    foretold: Array
    responses: Array
    usd: Array

    @classmethod
    def of(cls, draws: Draws) -> Ground:
        """Foretell each draw by what the others teach (`cross_fitted`)."""
        return cls(
            draws=draws,
            foretold=cross_fitted(draws),
            responses=response_probabilities(draws),
            usd=_mean_usd(draws),
        )

    def reward(self, p: Array, *, alpha: float = ALPHA) -> Change:
        """Return the doubly robust difference in reward of probabilities p, of shape (n, K).

        ``(v_new - v_log) + (w - 1) (r - q)``, where ``w = p / logged``: what both policies share cancels.
        """
        d = self.draws
        residual = np.where(d.heard, np.nan_to_num(d.reward) - d.of_chosen(self.foretold), 0.0)
        return self._change(p, self.foretold, residual / self.responses, d.heard, alpha)

    def dollars(self, p: Array, *, alpha: float = ALPHA) -> Change | None:
        """Return the same of what a decision costs [USD]; None where no cost was ever told."""
        d = self.draws
        known = ~np.isnan(d.paid_usd)
        if not known.any():
            return None
        residual = np.where(known, np.nan_to_num(d.paid_usd) - d.of_chosen(self.usd), 0.0)
        return self._change(p, self.usd, residual / known.mean(), known, alpha)

    def _change(self, p: Array, foretold: Array, residual: Array, told: Mask, alpha: float) -> Change:
        d = self.draws
        w = d.of_chosen(p) / d.logged
        held = float((p * (d.probabilities > 0)).sum(axis=1).mean())
        terms = ((p - d.probabilities) * foretold).sum(axis=1) + (w - 1.0) * residual
        low, high = clustered(terms, d.cluster if d.talks else None, alpha=alpha)
        return Change(
            value=float(terms.mean()),
            low=low,
            high=high,
            effective=effective_size(w[told]) if held >= HELD else 0.0,
        )


def _mean_usd(draws: Draws) -> Array:
    """Each model's mean cost, of all models' where its own is unknown."""
    known = ~np.isnan(draws.paid_usd)
    k = len(draws.models)
    counts = np.bincount(draws.chosen[known], minlength=k)
    sums = np.bincount(draws.chosen[known], weights=draws.paid_usd[known], minlength=k)
    mean = float(draws.paid_usd[known].mean()) if known.any() else 0.0
    usd = np.where(counts > 0, sums / np.maximum(counts, 1), mean)
    return np.broadcast_to(usd, draws.probabilities.shape)
