"""Living through the draws of a log with beliefs of one's own, made of earlier rows only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush

import numpy as np

from bandit_router.posterior import Beliefs
from bandit_router.values import Array
from simulations.offpolicy.draws import Draws
from simulations.replay import Mind, observation

Visit = Callable[[int, Array, Array], bool]


def walk(draws: Draws, visit: Visit, *, half_life_s: float | None = None) -> None:
    """Go through the draws: first say what is believed, then learn.

    The reward of a conversation is learnt when its last turn is over, not at its first.

    Parameters
    ----------
    draws : Draws
        In the order of time.
    visit : callable
        Called with each row's place, and mean and standard deviation of each model, of shape (K,); returns
        whether its reward, if one was heard, is to be learnt from.
    half_life_s : float, optional
        Of the evidence [s].
    """
    x = draws.x.astype(np.float64)
    mind = Mind(Beliefs(draws.models, x.shape[1], half_life=half_life_s))
    over_at = draws.at if draws.over_at is None else draws.over_at
    heard, waiting = draws.heard, list[tuple[float, int]]()
    for i in range(len(x)):
        while waiting and waiting[0][0] <= draws.at[i]:
            _learn(mind, draws, x, heappop(waiting)[1])
        if visit(i, *mind.beliefs.predict(x[i])) and heard[i]:
            heappush(waiting, (float(over_at[i]), i))


def _learn(mind: Mind, draws: Draws, x: Array, i: int) -> None:
    weight = 1.0 if draws.weight is None else float(draws.weight[i])
    seen = observation(x[i], float(draws.reward[i]), weight)
    mind.learn(draws.models[int(draws.chosen[i])], replace(seen, at=float(draws.at[i])))
