"""What the router would have believed at every draw of a log, from all earlier rows.

Beliefs that learn from every earlier row depend on the half-life and on nothing else that is searched, so
each is walked once, and all candidates are then scored in a few products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bandit_router.policies import policy_from_spec
from bandit_router.posterior import Beliefs
from bandit_router.values import Array
from simulations.offpolicy.batches import choose_many
from simulations.offpolicy.draws import Draws
from simulations.replay import Mind, observation
from simulations.tuning.candidates import Candidate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """Means and widths of n draws over K models.

    Attributes
    ----------
    mean, std : ndarray of shape (n, K)
    """

    mean: Array
    std: Array


def walk(draws: Draws, half_life_s: float | None) -> Track:
    """Live through the draws: believe first, learn afterwards."""
    x = draws.x.astype(np.float64)
    mind = Mind(Beliefs(draws.models, x.shape[1], half_life=half_life_s))
    mean, std = np.empty(draws.probabilities.shape), np.empty(draws.probabilities.shape)
    heard = draws.heard
    for i, k in enumerate(draws.chosen.tolist()):
        mean[i], std[i] = mind.beliefs.predict(x[i])
        if heard[i]:
            seen = observation(x[i], float(draws.reward[i]))
            mind.learn(draws.models[k], replace(seen, at=float(draws.at[i])))
    return Track(mean=mean, std=std)


def probabilities(candidate: Candidate, draws: Draws, track: Track) -> Array:
    """Return how likely a candidate draws each model at each draw, of shape (n, K)."""
    policy = policy_from_spec(candidate.policy)
    return choose_many(policy, track.mean, track.std, draws.eligible, floor=candidate.floor)
