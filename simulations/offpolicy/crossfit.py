"""Reward models for estimators: the router's own posterior, never asked about a row that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_router.evidence import Evidence
from bandit_router.posterior import Beliefs
from bandit_router.values import Array
from simulations.offpolicy.draws import Draws

Sums = dict[str, Evidence]  # by model
FOLDS = 5
FIRST = 64  # rows that are foretold by nothing that was heard
_BLOCK = 65_536  # rows that are put into the sums at once


def cross_fitted(draws: Draws, *, folds: int = FOLDS, seed: int = 0) -> Array:
    """Return what every model's reward would have been, of shape (n, K), in [0, 1].

    Conversations are dealt to folds; what is foretold of one fold was learnt from the others, where rewards
    were heard. A ridge per model, with the prior that the router would choose (`Beliefs`).
    """
    fold = _folds(draws.cluster, folds, seed)
    foretold = np.empty((len(draws), len(draws.models)), dtype=draws.x.dtype)
    parts = [_evidence(draws, np.flatnonzero(draws.heard & (fold == k))) for k in range(folds)]
    for k in range(folds):
        weights = _weights(draws, [part for j, part in enumerate(parts) if j != k])
        for start in range(0, len(draws), _BLOCK):
            rows = start + np.flatnonzero(fold[start : start + _BLOCK] == k)
            foretold[rows] = draws.x[rows] @ weights.T
    return np.clip(foretold, 0.0, 1.0, out=foretold)


def foretold_before(draws: Draws, *, first: int = FIRST) -> Array:
    """Return the same from earlier rows only, of shape (n, K): what anytime-valid intervals need.

    Rows come in blocks, each as long as all before it; a block is foretold by what the rows before it teach,
    the first by the prior.
    """
    n = len(draws)
    foretold = np.empty((n, len(draws.models)), dtype=draws.x.dtype)
    heard, parts = draws.heard, list[Sums]()
    starts = [0, *(first * 2**i for i in range(max(n // first, 1).bit_length()))]
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        weights = _weights(draws, parts)
        for at in range(start, end, _BLOCK):
            rows = slice(at, min(at + _BLOCK, end))
            foretold[rows] = draws.x[rows] @ weights.T
        parts.append(_evidence(draws, start + np.flatnonzero(heard[start:end])))
    return np.clip(foretold, 0.0, 1.0, out=foretold)


def _folds(cluster: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    _, at = np.unique(cluster, return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(at.max() + 1) % folds
    return np.asarray(dealt[at], dtype=np.int64)


def _evidence(draws: Draws, rows: NDArray[np.intp]) -> Sums:
    """What the rewards of some rows add to the sums of each model."""
    sums = {model: Evidence(draws.x.shape[1]) for model in draws.models}
    chosen = draws.chosen[rows]
    for k, model in enumerate(draws.models):
        own = rows[chosen == k]
        for start in range(0, len(own), _BLOCK):
            some = own[start : start + _BLOCK]
            x = draws.x[some].astype(np.float64)
            sums[model].add_many(x, np.ones(len(x)), draws.reward[some], np.zeros(len(x)))
    return sums


def _weights(draws: Draws, parts: Sequence[Sums]) -> Array:
    """Posterior means, of shape (K, dim), by what some parts of the rows add up to."""
    beliefs = Beliefs(draws.models, draws.x.shape[1])
    for part in parts:
        for model, sums in part.items():
            beliefs.evidence[model].merge(sums)
    return beliefs.fit().weights
