"""Has a model changed? Its surprises say so, and since when.

A surprise is a reward less what was promised, in standard deviations of what could be expected; where nothing
changes, surprises have mean 0 and variance 1 whatever the prompt. A change shortens the memory of that model
only: contributions from before it are multiplied by a factor. From then on the model is unsettled: what was
learnt fades, until it has been tried often enough again, so that one that fell out of favour is tried again.
"""

from __future__ import annotations

import math

import numpy as np

from bandit_router.values import Array

THRESHOLD = 5.0  # standard errors; alarms are rare where nothing changes, and cost little
LEAST = 15  # surprises that make a change: fewer are luck, where rewards are mostly 1 and seldom 0
WINDOW = 400  # surprises that are kept
LIMIT = 3.0  # standard deviations that one surprise may count for
KEEP = 0.1  # of the evidence from before a change: a hint, no more
FADING = 100  # rounds in which the evidence of an unsettled model counts half
SETTLED = 200  # rewards after a change until a model is trusted again


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
