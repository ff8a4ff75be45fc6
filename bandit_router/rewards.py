"""All that is known about one decision, made into one reward: a value and how much it counts.

Missing stays missing: without an active value there is no reward, and nothing is learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from bandit_router.errors import SettingsError
from bandit_router.events import FeedbackValue, Reward
from bandit_router.values import check_amount, check_name, check_number, check_unit, clean_text

COMMENT_LIMIT = 20_000  # characters
RATER_LIMIT = 500.0  # observations that one rater may count for at a time
RECOVERY_S = 30 * 86_400.0  # the half-life of what is used of that


EVERYONE = "*"  # all sources that have no trust of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far the words of one source under one name are believed.

    Parameters
    ----------
    weight : float
        How much one value counts, in full observations.
    slope, offset : float
        What a score means on the scale of what users say: ``offset + slope * score``.
    probed : float
        What constant answers have left of the weight, from 1 to 0; of a judge.

    Examples
    --------
    >>> Trust(weight=0.5, slope=2.0, offset=-1.0).reward(0.75)
    0.5
    """

    weight: float = 1.0
    slope: float = 1.0
    offset: float = 0.0
    probed: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight", "probed"):
            object.__setattr__(self, name, check_unit(f"trust {name}", getattr(self, name)))
        for name in ("slope", "offset"):
            object.__setattr__(self, name, check_number(f"trust {name}", getattr(self, name)))

    @property
    def counts(self) -> float:
        """What one value counts in the end, in full observations."""
        return self.weight * self.probed

    def with_weight(self, weight: float) -> Trust:
        """Return the same with another weight."""
        return replace(self, weight=weight)

    def reward(self, score: float) -> float:
        """Return what a score means; it may lie outside of [0, 1]."""
        return self.offset + self.slope * score


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A kind of feedback.

    Parameters
    ----------
    kind : {"bool", "number", "text"}
        What its values are. A text carries no reward.
    weight : float
        How much one value counts, in full observations.
    low, high : float
        The numbers that mean a reward of 0 and of 1; `low` may be the larger one.
    limited : bool
        Whether one rater counts for so much only (`Settings.rater_limit`). A judge of one's own may say more.
    trust : mapping of str to Trust
        By source, or under ``*`` for all that are not named: what was learnt of them. It counts instead of
        `weight`.
    """

    kind: Literal["bool", "number", "text"] = "number"
    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0
    limited: bool = True
    trust: Mapping[str, Trust] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("bool", "number", "text"):
            raise SettingsError(f"metric kind: expected bool, number or text, got {self.kind!r}")
        object.__setattr__(self, "weight", check_unit("metric weight", self.weight))
        if not isinstance(self.limited, bool):
            raise SettingsError(f"metric limited: expected true or false, got {self.limited!r}")
        low, high = check_number("metric low", self.low), check_number("metric high", self.high)
        check_number("metric high - low", high - low)
        if low == high:
            raise SettingsError(f"metric: low and high are both {low:g}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        for source, trust in self.trust.items():
            check_name("metric trust", source)
            if not isinstance(trust, Trust):
                raise SettingsError(f"metric trust {source}: expected a Trust, got {trust!r}")

    def trusted(self, source: str) -> Trust:
        """Return how far a source is believed."""
        own = self.trust.get(source) or self.trust.get(EVERYONE)
        return Trust(weight=self.weight) if own is None else own

    def check(self, name: str, value: object) -> FeedbackValue:
        """Return `value` if it is one of this metric's (or None, which revokes).

        Raises
        ------
        TypeError, ValueError
            Of another type, not finite, or out of range.
        """
        if value is None:
            return None
        if self.kind == "text":
            return clean_text(name, value, COMMENT_LIMIT)
        if self.kind == "bool":
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{name}: expected true, false or null, got {type(value).__name__}")
            return bool(value)
        number = check_number(name, value)
        least, most = sorted((self.low, self.high))
        if not least <= number <= most:
            raise ValueError(f"{name}: expected a number from {least:g} to {most:g}, got {number:g}")
        return number

    def score(self, value: FeedbackValue) -> float:
        """Return the reward in [0, 1] that a value means."""
        if isinstance(value, bool):
            return float(value)
        assert isinstance(value, float | int)
        return (value - self.low) / (self.high - self.low)


METRICS: Mapping[str, Metric] = {
    "thumb": Metric(kind="bool"),
    "rating": Metric(),
    # Three judges on the same answers agree only so far (correlation .7).
    "judge": Metric(weight=0.5, limited=False),
    "vote": Metric(weight=0.5),  # one side of a comparison: see `verdict`
    "comment": Metric(kind="text", weight=0.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The active value of one rater under one name, and how much of a full one it counts (0 to 1)."""

    name: str
    source: str
    value: FeedbackValue
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A credential through which many raters may speak.

    Parameters
    ----------
    name : str
    influence : float, optional
        What all words through it count for at a time [observations]; None is any amount.
    vouches : bool
        Whoever holds it also says for whom decisions are made, and so answers for their users' names: a
        user's word about the user's own decision is not counted against it.
    """

    name: str
    influence: float | None = None
    vouches: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a rater has used of the observations it may count for; that comes back with a half-life of 30 days.

    So one rater never counts for more than the limit at a time, and for at most ln 2 = 0.69 times the limit in
    each further 30 days; where others' evidence of a model amounts to n observations, its mean moves by at
    most limit / (n + limit).

    Parameters
    ----------
    used : float
        As of `at` [observations].
    at : float
        [s since 1970]

    Examples
    --------
    >>> allowance = Allowance().charged(3.0, now=0.0)
    >>> allowance.share(2.0, limit=4.0, now=0.0), allowance.share(1.0, limit=None, now=0.0)
    (0.5, 1.0)
    >>> allowance.used_at(RECOVERY_S)
    1.5
    """

    used: float = 0.0
    at: float = 0.0

    def used_at(self, now: float) -> float:
        """Return what is still used at a moment [observations]."""
        return self.used * float(2.0 ** -(max(0.0, now - self.at) / RECOVERY_S))

    def share(self, weight: float, *, limit: float | None, now: float) -> float:
        """Return how much of a word of some weight still counts: from 1, all of it, to 0."""
        if limit is None or weight <= 0:
            return 1.0
        return min(1.0, max(0.0, limit - self.used_at(now)) / weight)

    def charged(self, weight: float, *, now: float) -> Allowance:
        """Return what is used after a word of some weight."""
        return Allowance(used=self.used_at(now) + weight, at=max(self.at, now))


def verdict(mean: float, *, tie: bool = False) -> tuple[float, float]:
    """Return the rewards that the winner and the loser of a comparison get.

    If each answer is good or bad by itself, and the good one wins, a win is a difference of one in quality, and
    a tie is none. It says nothing about how good both are; so the two rewards lie around what both were
    expected to be, as far apart as the interval from 0 to 1 allows: comparisons move models against each
    other, and never all of them up or down.

    Parameters
    ----------
    mean : float
        What the two answers were expected to be worth, on average.

    References
    ----------
    .. [1] Bradley and Terry, "Rank analysis of incomplete block designs", Biometrika 39 (1952).

    Examples
    --------
    >>> verdict(0.75)
    (1.0, 0.5)
    >>> verdict(0.75, tie=True)
    (0.75, 0.75)
    """
    level = min(max(mean, 0.0), 1.0)
    apart = 0.0 if tie else min(level, 1.0 - level)
    return level + apart, level - apart


def find_metric(metrics: Mapping[str, Metric], name: object) -> Metric:
    """Return the metric of that name.

    Raises
    ------
    TypeError, ValueError
        No such metric; the message names those there are.
    """
    known = check_name("name", name)
    if known not in metrics:
        raise ValueError(f"name: expected one of {', '.join(sorted(metrics))}, got {known!r}")
    return metrics[known]


def reward(votes: Iterable[Vote], metrics: Mapping[str, Metric] = METRICS) -> Reward | None:
    """Make one reward of all active values: their weighted mean, worth at most one full observation.

    Each counts as its source is trusted, times its share.

    Examples
    --------
    >>> reward([Vote(name="thumb", source="user:1", value=True), Vote(name="judge", source="j", value=0.25)])
    Reward(value=0.75, weight=1.0)
    >>> reward([]) is None
    True
    """
    scored = [
        (trust.counts * vote.share, trust.reward(metrics[vote.name].score(vote.value)))
        for vote in votes
        # A text counts nothing, even where its metric was of another kind when it was said.
        if vote.name in metrics
        and metrics[vote.name].kind != "text"
        and isinstance(vote.value, float | int)
        and (trust := metrics[vote.name].trusted(vote.source))
    ]
    total = check_amount("weight", sum(weight for weight, _ in scored))
    if total == 0:
        return None
    value = sum(weight * score for weight, score in scored) / total
    return Reward(value=min(max(value, 0.0), 1.0), weight=min(total, 1.0))
