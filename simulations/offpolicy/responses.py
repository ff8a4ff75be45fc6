"""Feedback that is missing: how likely it was to come, and what can be said where that cannot be known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bandit_router.values import Array
from simulations.estimators import Estimate, dr
from simulations.offpolicy.draws import Draws

ROWS = 50_000  # that the model is fitted to, at most
LEAST = 0.005  # probability of a response below which no row is weighed up further
_RIDGE = 1.0
_STEPS = 12


def response_probabilities(draws: Draws) -> Array:
    """Return how likely a reward was to be heard, of shape (n,), by prompt and model.

    Logistic regression on the features and on which model it was, with a ridge (Newton's steps). Ones where all
    was heard. It corrects for feedback that is missing because of the prompt or the model, and for no other:
    who speaks only when he is displeased is not corrected for (`bounds`).
    """
    heard = draws.heard
    if heard.all() or not heard.any():
        return np.ones(len(draws))
    some = np.arange(len(draws))[:: max(1, len(draws) // ROWS)]
    z, y = _design(draws, some), heard[some].astype(np.float64)
    beta = np.zeros(z.shape[1])
    for _ in range(_STEPS):
        e = expit(z @ beta)
        bend = (z * (e * (1 - e))[:, None]).T @ z + _RIDGE * np.eye(len(beta))
        step = np.linalg.solve(bend, z.T @ (y - e) - _RIDGE * beta)
        beta += step
        if np.abs(step).max() < 1e-8:
            break
    rows = np.arange(len(draws))
    blocks = [expit(_design(draws, rows[at : at + ROWS]) @ beta) for at in range(0, len(rows), ROWS)]
    return np.maximum(np.concatenate(blocks), LEAST)


def _design(draws: Draws, rows: NDArray[np.int64]) -> Array:
    models = np.eye(len(draws.models))[draws.chosen[rows]]
    return np.hstack([draws.x[rows], models])


def bounds(draws: Draws, target: Array, rows: NDArray[np.bool_]) -> tuple[Estimate, Estimate]:
    """Return the value (IPS) if every reward that the log cannot know were 0, and if every one were 1.

    Those are the missing ones, and those of models that the policy would draw and that had a probability of 0.
    Nothing is assumed about either: the truth lies between (but for chance, for which each has its interval).

    Parameters
    ----------
    draws : Draws
    target : ndarray of shape (n, K)
        Probabilities of the policy in question.
    rows : ndarray of bool, shape (n,)
        Which rows it can be judged on.

    References
    ----------
    .. [1] Manski, "Nonparametric bounds on treatment effects", American Economic Review 80 (1990).
    """
    never = np.einsum("nk,nk->n", target, draws.probabilities <= 0)
    own, cluster = draws.of_chosen(target), draws.cluster[rows] if draws.talks else None

    def filled(fill: float) -> Estimate:
        reward, nothing = np.where(draws.heard, draws.reward, fill), np.zeros(len(draws))
        columns = (own, draws.logged, reward, nothing, fill * never)
        return dr(*(column[rows] for column in columns), clusters=cluster)

    return filled(0.0), filled(1.0)
