"""What the router would have believed at every draw of a log, from all earlier rows.

Beliefs that learn from every earlier row depend on the half-life and on nothing else that is searched, so
each is walked once, and all candidates are then scored in a few products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit_router.policies import policy_from_spec
from bandit_router.values import Array
from simulations.offpolicy.batches import choose_many
from simulations.offpolicy.draws import Draws
from simulations.offpolicy.walks import walk
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


def track_of(draws: Draws, half_life_s: float | None) -> Track:
    """Return what is believed at each draw by who learns from every earlier one."""
    mean, std = np.empty(draws.probabilities.shape), np.empty(draws.probabilities.shape)

    def visit(i: int, believed: Array, sure: Array) -> bool:
        mean[i], std[i] = believed, sure
        return True

    walk(draws, visit, half_life_s=half_life_s)
    return Track(mean=mean, std=std)


def probabilities(candidate: Candidate, draws: Draws, track: Track) -> Array:
    """Return how likely a candidate draws each model at each draw, of shape (n, K)."""
    policy = policy_from_spec(candidate.policy)
    return choose_many(policy, track.mean, track.std, draws.eligible, floor=candidate.floor)
