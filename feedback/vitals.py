"""Vitals: what a sample of the log says about one router's loop, in numbers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from bandit_router.log.recent import Recent, Seen, Word, stacked
from bandit_router.log.registration import Registration
from feedback.drift import Change, find_change

T = TypeVar("T")
MATURE_S = 900.0  # decisions younger than that may still wait for their outcome and feedback
CHANGED_S = 60.0  # how long a change of settings may take to reach every worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many of how many.

    Examples
    --------
    >>> Count(of=200, there=3).share, str(Count(of=200, there=3))
    (0.015, '3 of 200 (1.5 %)')
    """

    of: int = 0
    there: int = 0

    @property
    def share(self) -> float:
        """NaN of none."""
        return self.there / self.of if self.of else math.nan

    def __str__(self) -> str:
        return f"{self.there:,} of {self.of:,} ({100 * self.share:.3g} %)" if self.of else "none of none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a sample of the log says about one router's loop.

    Attributes
    ----------
    window_s : float
        The time that it spans [s].
    sampled : int
        Decisions that were looked at.
    joined, outcomes, unknown_costs, degraded, capped : Count
        Decisions with feedback, and with an outcome; outcomes without a cost; decisions of reason
        "degraded"; words that count less than half.
    lost : Count
        Words that wait in vain, of all: estimated from the sample.
    same : mapping of str to (Count, str)
        Of each kind of word, how many say the most common value, and which that is.
    reward_mean, reward_variance : float
        NaN without rewards.
    top : (str, Count), optional
        The model that served most where several could.
    floor : float, optional
        The lowest probability of an eligible model since settings were last changed, as a share of what the
        floor promises; None where there is none or a budget may lower it.
    explored : (int, float, float)
        How often another than the likeliest model was drawn, how often that was to be expected, and its
        standard error.
    features : Change, optional
        The largest move of a feature's mean.
    rewards : (str, Change), optional
        The largest move of a model's mean reward.
    judged : mapping of str to Count
        Of each judge, how many judgements ended without a grade.
    priced : bool
        Whether decisions depend on costs.
    moments : tuple of float
        When each slice begins [s since 1970].
    """

    router: str
    window_s: float
    sampled: int
    joined: Count
    outcomes: Count
    unknown_costs: Count
    degraded: Count
    capped: Count
    lost: Count
    same: Mapping[str, tuple[Count, str]] = field(default_factory=dict)
    reward_mean: float = math.nan
    reward_variance: float = math.nan
    top: tuple[str, Count] | None = None
    floor: float | None = None
    explored: tuple[int, float, float] = (0, 0.0, 0.0)
    features: Change | None = None
    rewards: tuple[str, Change] | None = None
    judged: Mapping[str, Count] = field(default_factory=dict)
    priced: bool = False
    moments: tuple[float, ...] = ()

    def figures(self) -> dict[str, float]:
        """Return plain numbers by name; NaN where nothing is known."""
        top = math.nan if self.top is None else self.top[1].share
        return {
            "decisions": self.sampled,
            "join_rate": self.joined.share,
            "outcome_rate": self.outcomes.share,
            "unknown_cost_share": self.unknown_costs.share,
            "degraded_share": self.degraded.share,
            "capped_word_share": self.capped.share,
            "lost_word_share": self.lost.share,
            "reward_mean": self.reward_mean,
            "reward_variance": self.reward_variance,
            "top_model_share": top,
            "feature_drift": 0.0 if self.features is None else self.features.effect,
            "reward_drift": 0.0 if self.rewards is None else self.rewards[1].effect,
            "judge_failure_share": max(
                (count.share for count in self.judged.values() if count.of), default=math.nan
            ),
        }


def vitals_of(recent: Recent, registration: Registration) -> Vitals:
    """Return what a sample says."""
    seen, settings = recent.seen, registration.settings
    mature = [s for s in seen if s.at < recent.until - MATURE_S]
    said = [word for s in seen for word in s.words]
    per_decision = len(said) / len(seen) if seen else 0.0
    heard = round(per_decision * recent.decisions)
    values = np.array([s.reward for s in seen if s.reward is not None])
    choosable = [s for s in seen if len(s.probabilities) > 1 and s.reason != "sticky"]
    return Vitals(
        router=registration.name,
        window_s=recent.until - recent.since,
        sampled=len(seen),
        joined=_count(mature, lambda s: bool(s.words)),
        outcomes=_count(mature, lambda s: s.outcome),
        unknown_costs=_count([s for s in mature if s.outcome], lambda s: not s.cost_known),
        degraded=_count(seen, lambda s: s.reason == "degraded"),
        capped=_count(said, lambda word: word[2] < 0.5),
        lost=Count(of=heard + recent.waiting, there=recent.waiting),
        same=_same(said, {name for name, metric in settings.metrics.items() if metric.kind != "text"}),
        reward_mean=float(values.mean()) if len(values) else math.nan,
        reward_variance=float(values.var()) if len(values) else math.nan,
        top=_top(choosable),
        floor=_floor(choosable, registration, recent.configured + CHANGED_S),
        explored=_explored(choosable),
        features=find_change(*stacked(seen)),
        rewards=_moved(seen),
        judged={judge: _failed(states) for judge, states in recent.judged.items()},
        priced=settings.preference.price_weight > 0 or settings.budget_usd_per_request is not None,
        moments=recent.moments,
    )


def _count(items: Sequence[T], true: Callable[[T], bool]) -> Count:
    return Count(of=len(items), there=sum(map(true, items)))


def _same(said: Sequence[Word], names: Collection[str]) -> dict[str, tuple[Count, str]]:
    """Of each kind of word, the most common value."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for name, value, _ in said:
        if name in names and value != "null":
            values[name][value] += 1
    common = {name: counts.most_common(1)[0] for name, counts in values.items()}
    return {
        name: (Count(of=values[name].total(), there=n), value) for name, (value, n) in common.items()
    }


def _top(choosable: Sequence[Seen]) -> tuple[str, Count] | None:
    if not choosable:
        return None
    (model, n), *_ = Counter(s.model for s in choosable).most_common(1)
    return model, Count(of=len(choosable), there=n)


def _floor(choosable: Sequence[Seen], registration: Registration, since: float) -> float | None:
    """The lowest probability, as a share of the floor's; a budget may lower it, so that it says nothing."""
    settings = registration.settings
    lows = [min(s.probabilities.values()) * len(s.probabilities) for s in choosable if s.at > since]
    if not lows or not settings.floor or settings.budget_usd_per_request is not None:
        return None
    return min(lows) / settings.floor


def _explored(choosable: Sequence[Seen]) -> tuple[int, float, float]:
    likeliest = [max(s.probabilities.items(), key=lambda item: item[1]) for s in choosable]
    other = sum(s.model != model for s, (model, _) in zip(choosable, likeliest, strict=True))
    p = np.array([p for _, p in likeliest])
    return other, float((1 - p).sum()), float(np.sqrt((p * (1 - p)).sum()))


def _moved(seen: Sequence[Seen]) -> tuple[str, Change] | None:
    """The model whose mean reward has moved most."""
    rewards: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for s in seen:
        if s.reward is not None:
            rewards[s.model].append((s.place, s.reward))
    found = []
    for model, pairs in rewards.items():
        places, values = np.array(pairs, dtype=np.float64).T
        change = find_change(places, values[:, None])
        if change is not None:
            found.append((model, change))
    return max(found, key=lambda pair: pair[1].effect, default=None)


def _failed(states: Mapping[str, int]) -> Count:
    failed = states.get("failed", 0) + states.get("malformed", 0)
    return Count(of=failed + states.get("graded", 0), there=failed)
