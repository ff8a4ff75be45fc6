"""Settings played live in a full-information table: logs made with them, and what they earn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_router.policies import draw, policy_from_spec
from bandit_router.values import Array
from simulations.offpolicy.draws import Draws
from simulations.replay import Bandit, Scene, play
from simulations.tuning.candidates import Candidate

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lived:
    """What settings earned on m rows of a table.

    Attributes
    ----------
    order : ndarray of int, shape (m,)
    reward, cost_usd : ndarray of shape (m,)
        Of the models chosen, in that order.
    """

    order: Rows
    reward: Array
    cost_usd: Array


def live(scene: Scene, candidate: Candidate, *, seed: int) -> Lived:
    """Let a candidate live through a scene, learning from what it chose.

    The scene's floor gives way to the candidate's; time does not pass on a table, so that a half-life says
    nothing.
    """
    bandit = Bandit(policy_from_spec(candidate.policy), scene)
    draws = np.random.default_rng(seed).random(len(scene.order))
    chosen = play(bandit, scene.order, draws, scene.table.quality)
    at = scene.order, chosen
    return Lived(order=scene.order, reward=scene.reward[at], cost_usd=scene.table.cost_usd[at])


def log_of(scene: Scene, candidate: Candidate, *, seed: int) -> Draws:
    """Return the log that a candidate would have written while it lived through a scene; a draw a second."""
    bandit = Bandit(policy_from_spec(candidate.policy), scene)
    rng, rows = np.random.default_rng(seed), scene.order
    p, mean, std = (np.empty((len(rows), len(scene.table.names))) for _ in range(3))
    chosen = np.empty(len(rows), dtype=np.int64)
    for t, row in enumerate(rows.tolist()):
        p[t] = bandit.choose(row)
        mean[t], std[t] = bandit.beliefs.predict(scene.features[row])
        chosen[t] = k = draw(p[t], rng.random())
        bandit.report(row, k)
        bandit.learn(row, k, float(scene.table.quality[row, k]))
    n = np.arange(len(rows))
    return Draws(
        models=tuple(scene.table.names),
        x=scene.features[rows],
        at=n.astype(np.float64),
        chosen=chosen,
        logged=p[n, chosen],
        probabilities=p,
        mean=mean,
        std=std,
        reward=scene.table.quality[rows, chosen],
        paid_usd=scene.table.cost_usd[rows, chosen],
        cluster=n,
        turns=len(rows),
        left_out={},
    )
