"""Draws as the log's reader would have told them."""

from __future__ import annotations

import numpy as np

from simulations.offpolicy.draws import Draws
from simulations.rounds import Rounds

_SAME = ("x", "at", "chosen", "mean", "std", "probabilities", "reward", "paid_usd", "cluster")


def rounds_of(draws: Draws, models: tuple[str, ...] = ()) -> Rounds:
    """Return rounds of which each was drawn for itself, with other names of the models if any are given."""
    n = len(draws)
    return Rounds(
        models=models or draws.models,
        probability=draws.logged,
        cost_usd=np.zeros(draws.probabilities.shape),
        weight=np.ones(n),
        reason=np.zeros(n, dtype=np.int8),
        moved=np.zeros(n, dtype=bool),
        head=np.arange(n),
        **{name: getattr(draws, name) for name in _SAME},
    )
