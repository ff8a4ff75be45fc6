"""Draws: what of a log says how another policy would fare, a conversation being one; the rest is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import ReplayError
from bandit_router.values import Array
from simulations.rounds import DRAWN, REASONS, Rounds, eligible_of

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
_STICKY = REASONS.index("sticky")
_ROWS = (  # what has an entry for each draw
    *("x", "at", "chosen", "logged", "probabilities", "mean", "std"),
    *("reward", "paid_usd", "cluster", "weight", "over_at"),
)
_SUM = 1e-5  # how far probabilities may be from summing to one: float32's, with room
LEFT = {  # in this order; a row counts under the first that fits
    "version": "features of another version",
    "moved": "another model served than the one drawn",
    "only": "only one model was eligible",
    "rule": "a rule decided",
    "fallback": "a fallback",
    "degraded": "decided without all that it should go by",
    "improbable": "no valid probabilities",
    "headless": "a later turn of a conversation whose draw is not here, or is left out",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """n draws over K models, in the order of time.

    A conversation that holds to its first draw is one draw, whose reward is the mean of those of its turns.

    Attributes
    ----------
    models : tuple of str
    x : ndarray of shape (n, dim)
    at : ndarray of shape (n,)
        [s since 1970]
    chosen : ndarray of int, shape (n,)
    logged : ndarray of shape (n,)
        Probability of the model drawn.
    probabilities, mean, std : ndarray of shape (n, K)
    reward, paid_usd : ndarray of shape (n,)
        NaN where nothing was heard.
    cluster : ndarray of int, shape (n,)
    turns : int
        Decisions behind these draws.
    left_out : dict of str to int
        Decisions that say nothing, by a sentence that says why.
    talks : bool
        Whether some rows share a conversation.
    weight : ndarray of shape (n,), optional
        How much its reward counts as evidence, the mean of its turns'; None is one for each.
    over_at : ndarray of shape (n,), optional
        When the last of its turns that were heard of was decided [s since 1970]; None is `at`.
    """

    models: tuple[str, ...]
    x: Array
    at: Array
    chosen: Ints
    logged: Array
    probabilities: Array
    mean: Array
    std: Array
    reward: Array
    paid_usd: Array
    cluster: Ints
    turns: int
    left_out: Mapping[str, int]
    talks: bool = False
    weight: Array | None = None
    over_at: Array | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def heard(self) -> Mask:
        """Where there is a reward, of shape (n,)."""
        heard: Mask = ~np.isnan(self.reward)
        return heard

    @property
    def eligible(self) -> Mask:
        """Which models were there to choose from, of shape (n, K); some with a probability of 0, perhaps."""
        return eligible_of(self.probabilities, self.mean)

    def some(self, rows: Mask) -> Draws:
        """Return the draws of some rows, of shape (n,), with nothing said of what was left out."""
        told = {name: getattr(self, name) for name in _ROWS}
        kept: dict[str, Any] = {name: v[rows] for name, v in told.items() if v is not None}
        return replace(self, turns=int(rows.sum()), left_out={}, **kept)

    def of_chosen(self, grid: Array) -> Array:
        """Return the entry of the model drawn in each row of an array of shape (n, K)."""
        entry: Array = grid[np.arange(len(grid)), self.chosen]
        return entry


def draws_of(rounds: Rounds) -> Draws:
    """Return the draws of a log, with all that is left out counted.

    Raises
    ------
    ReplayError
        Nothing is left: the message says why.
    """
    why = _why(rounds)
    heads = np.flatnonzero((rounds.reason < len(DRAWN)) & (why == ""))
    turns = np.flatnonzero(why == "")
    counts = {sentence: int((why == name).sum()) for name, sentence in LEFT.items()}
    counts[LEFT["version"]] = rounds.left_out
    left_out = {sentence: n for sentence, n in counts.items() if n}
    if not len(heads):
        told = "; ".join(f"{n} {sentence}" for sentence, n in left_out.items())
        raise ReplayError(f"no decision of that period was drawn with a known probability: {told}")
    everything = len(heads) == len(rounds)

    def take(values: NDArray[Any]) -> NDArray[Any]:  # Any: of each array's own type
        return values if everything else values[heads]

    return Draws(
        models=rounds.models,
        logged=take(rounds.probability),
        reward=_mean_of_turns(rounds.reward, rounds.head, turns)[heads],
        weight=_weight(rounds, turns, heads),
        over_at=_over_at(rounds, turns, heads),
        paid_usd=_mean_of_turns(rounds.paid_usd, rounds.head, turns)[heads],
        turns=len(turns),
        talks=len(np.unique(rounds.cluster[heads])) < len(heads),
        left_out=left_out,
        **{name: take(getattr(rounds, name)) for name in ("x", "at", "chosen", "cluster")},
        **{name: take(getattr(rounds, name)) for name in ("probabilities", "mean", "std")},
    )


def _why(rounds: Rounds) -> NDArray[np.str_]:
    """Why each row says nothing, of shape (n,); empty where it does."""
    why = np.full(len(rounds), "", dtype="U10")
    why[_improbable(rounds)] = "improbable"
    for name in ("only", "rule", "fallback", "degraded"):
        why[rounds.reason == REASONS.index(name)] = name
    why[rounds.moved] = "moved"
    turn = (rounds.reason == _STICKY) & ~rounds.moved
    drawn = (why == "") & (rounds.reason < len(DRAWN))
    why[turn] = np.where((rounds.head[turn] >= 0) & drawn[rounds.head[turn]], "", "headless")
    return why


def _improbable(rounds: Rounds) -> Mask:
    """Rows whose probabilities cannot be those of a draw."""
    rows = np.arange(len(rounds))
    p = rounds.probability
    sums = rounds.probabilities.sum(axis=1, dtype=np.float64)
    same = np.abs(rounds.probabilities[rows, rounds.chosen] - p) <= _SUM
    good = (p > 0) & (p <= 1) & (np.abs(sums - 1) <= _SUM) & same
    return np.asarray(~good)


def _mean_of_turns(values: Array, head: Ints, turns: Ints) -> Array:
    """Return the mean of what was heard of each draw, of shape (n,); NaN where nothing was."""
    heard = turns[~np.isnan(values[turns])]
    sums = np.bincount(head[heard], weights=values[heard], minlength=len(values))
    counts = np.bincount(head[heard], minlength=len(values))
    means: Array = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means


def _weight(rounds: Rounds, turns: Ints, heads: Ints) -> Array | None:
    """Return how much each draw's reward counts, of shape (m,); None where each counts in full."""
    heard = ~np.isnan(rounds.reward)
    if (rounds.weight[heard] == 1).all():
        return None
    return _mean_of_turns(np.where(heard, rounds.weight, np.nan), rounds.head, turns)[heads]


def _over_at(rounds: Rounds, turns: Ints, heads: Ints) -> Array | None:
    """Return when the last turn that was heard of was decided, of shape (m,); None without later turns."""
    if len(turns) == len(heads):
        return None
    last, heard = rounds.at.copy(), turns[~np.isnan(rounds.reward[turns])]
    np.maximum.at(last, rounds.head[heard], rounds.at[heard])
    return last[heads]
