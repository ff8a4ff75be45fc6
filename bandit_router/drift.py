"""Has a model changed? Its surprises say so, and since when; what is known of it then counts less.

A surprise is a reward less what was promised, in standard deviations of what could be expected; where nothing
changes, surprises have mean 0 and variance 1 whatever the prompt. A change shortens the memory of that model
only: contributions from before it are multiplied by a factor. From then on the model is unsettled: what was
learnt fades, until it has been tried often enough again, so that one that fell out of favour is tried again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bandit_router.values import Array, utc

THRESHOLD = 5.0  # standard errors; alarms are rare where nothing changes, and cost little
LEAST = 15  # surprises that make a change: fewer are luck, where rewards are mostly 1 and seldom 0
WINDOW = 400  # surprises that are kept
LIMIT = 3.0  # standard deviations that one surprise may count for
KEEP = 0.1  # of the evidence from before a change: a hint, no more
FADING = 100  # rounds in which the evidence of an unsettled model counts half
SETTLED = 200  # rewards after a change until a model is trusted again
LEARNT = 50  # rewards of a model that nobody knew: what was promised of them was a guess
FADINGS = 10  # times that an unsettled model fades: a thousandth is left, which outweighs nothing

Marks = tuple[tuple[float, float], ...]  # (at, factor) of one model's changes, the earliest first
Origin = Literal["host", "surprise", "unsettled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A model has changed: a fact of the log.

    Attributes
    ----------
    at : float
        What was learnt from decisions made before this moment [s since 1970] counts less.
    factor : float
        It is multiplied by this, in (0, 1].
    origin : {"host", "surprise", "unsettled"}
        Who says so: somebody, its surprises, or that it was not tried often enough since they did.
    why : str, optional
        In words.
    created : float
        When it was recorded [s since 1970].
    """

    model: str
    at: float
    factor: float
    origin: Origin = "host"
    why: str | None = None
    created: float = 0.0

    def to_json(self) -> dict[str, Any]:  # Any: of each field's own type
        """Return plain values, moments as RFC 3339 has them."""
        return {
            "at": utc(self.at).isoformat(),
            "factor": self.factor,
            "origin": self.origin,
            "why": self.why,
            "created": utc(self.created).isoformat(),
        }


def marks_of(drifts: Iterable[Drift]) -> dict[str, Marks]:
    """Return the moments and factors of each model's changes, the earliest first."""
    marks: dict[str, Marks] = {}
    for drift in sorted(drifts, key=lambda drift: drift.at):
        marks[drift.model] = (*marks.get(drift.model, ()), (drift.at, drift.factor))
    return marks


def share(marks: Marks, at: float) -> float:
    """Return what a contribution to a decision made at a moment [s] is multiplied by.

    Examples
    --------
    >>> marks = ((10.0, 0.5), (20.0, 0.1))
    >>> [share(marks, at) for at in (9.0, 10.0, 20.0)]
    [0.05, 0.1, 1.0]
    """
    return math.prod((factor for moment, factor in marks if moment > at), start=1.0)


def earlier(marks: Marks, moment: float) -> Marks:
    """Return the changes before a moment [s]."""
    return tuple(mark for mark in marks if mark[0] < moment)


def later(marks: Marks, moment: float) -> Marks:
    """Return the changes at a moment [s], or after it."""
    return tuple(mark for mark in marks if mark[0] >= moment)


def factor_of(marks: Marks) -> float:
    """Return what all of them make together."""
    return math.prod((factor for _, factor in marks), start=1.0)


class Surprises:
    """The latest surprises of one model, and whether their mean has moved.

    Of all stretches that end now the one whose sum is farthest from 0, in standard errors, is compared with
    a threshold: a cumulative sum test without a size of change to be set beforehand [1]_.

    Parameters
    ----------
    threshold : float
        [standard errors].
    least : int
        The shortest stretch.

    References
    ----------
    .. [1] Siegmund and Venkatraman, "Using the generalized likelihood ratio statistic for sequential
       detection of a change-point", Annals of Statistics 23 (1995).

    Examples
    --------
    >>> surprises = Surprises()
    >>> any(surprises.add(z) for z in [0.5, -0.5] * 100)
    False
    >>> [i for i in range(40) if surprises.add(-1.5)][:1]
    [12]
    """

    def __init__(self, *, threshold: float = THRESHOLD, least: int = LEAST) -> None:
        self.threshold, self.least = threshold, least
        self._values: Array = np.zeros(WINDOW)
        self._seen = 0
        self._errors = np.sqrt(np.arange(1.0, WINDOW + 1))

    def __repr__(self) -> str:
        return f"<Surprises seen={self._seen} threshold={self.threshold:g} least={self.least}>"

    def add(self, surprise: float) -> int:
        """Take one more, and return how many of the latest have come since a change; 0: no change.

        After a change all is forgotten, as it was of the model before.
        """
        self._values = np.roll(self._values, 1)
        self._values[0] = min(max(surprise, -LIMIT), LIMIT)
        self._seen += 1
        known = min(self._seen, WINDOW)
        if known < self.least:
            return 0
        far = np.abs(np.cumsum(self._values[:known])) / self._errors[:known]
        since = int(np.argmax(far[self.least - 1 :])) + self.least
        if far[since - 1] <= self.threshold:
            return 0
        self._values[:] = 0.0
        self._seen = 0
        return since


def changed_at(surprises: Sequence[float]) -> int | None:
    """Return where a change began: the place of the first surprise after it; None where there was none.

    Examples
    --------
    >>> changed_at([0.5, -0.5] * 50), changed_at([0.0] * 100 + [-1.3] * 20)
    (None, 100)
    """
    seen = Surprises()
    for place, one in enumerate(surprises):
        since = seen.add(one)
        if since:
            return place + 1 - since
    return None


def surprise(reward: float, mean: float, std: float, *, noise: float, weight: float = 1.0) -> float:
    """Return how far a reward is from what was promised, in standard deviations of what could be expected.

    Parameters
    ----------
    reward, mean, std : float
        What came, the promise and its standard deviation.
    noise : float
        Variance of a reward of weight 1.
    weight : float
        Of the reward.

    Examples
    --------
    >>> surprise(0.0, 0.5, 0.3, noise=0.16)
    -1.0
    """
    return (reward - mean) / math.sqrt(noise / weight + std * std)


def fading(rounds: float) -> float:
    """Return what the evidence of an unsettled model is multiplied by after some rounds."""
    return float(0.5 ** (rounds / FADING))
