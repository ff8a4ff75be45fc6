"""Overlaps: signals side by side, as arrays: what each said of the same answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from bandit_router.log.comparing import VOTE
from bandit_router.log.overlaps import Answer
from bandit_router.rewards import EVERYONE, Metric, Trust
from bandit_router.values import Array

SIGNALS = 12  # at most: those that speak most often


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Who speaks under which name.

    Parameters
    ----------
    name : str
        Of the metric.
    source : str
        ``*``: all who have no trust of their own, such as users.
    trust : Trust
        As it is at present.
    people : bool
        Whether users say it of an answer by itself, so that it may be the reference.
    """

    name: str
    source: str
    trust: Trust = field(default_factory=Trust)
    people: bool = False

    def __str__(self) -> str:
        return self.name if self.source == "*" else f"{self.name} {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlaps:
    """What signals said about the same decisions.

    Parameters
    ----------
    signals : sequence of Signal
    values : Array
        Of shape (n, signals), in [0, 1] before any calibration; NaN where a signal said nothing.
    models : sequence of str
        Which one answered, of length n.
    levels : Array, optional
        How good answers to the prompt were expected to be, whichever model answers; of shape (n,).
    """

    signals: Sequence[Signal]
    values: Array
    models: Sequence[str]
    levels: Array | None = None

    def __post_init__(self) -> None:
        n = len(self.models)
        if self.values.shape != (n, len(self.signals)):
            raise ValueError(
                f"values: expected shape ({n}, {len(self.signals)}), got {self.values.shape}"
            )
        if self.levels is not None and self.levels.shape != (n,):
            raise ValueError(f"levels: expected shape ({n},), got {self.levels.shape}")


def overlaps_of(answers: Sequence[Answer], metrics: Mapping[str, Metric]) -> Overlaps:
    """Return what signals said about some answers.

    All users under one name are one signal, and so are comparisons, which are never the reference: a vote
    says only which answer is better. Each judge is a signal of its own.
    """
    said = [list(_said(answer, metrics)) for answer in answers]
    often = Counter(key for words in said for key in {key for key, _ in words})
    keys = sorted(key for key, _ in often.most_common(SIGNALS))
    values = np.full((len(answers), len(keys)), np.nan)
    for i, words in enumerate(said):
        for j, key in enumerate(keys):
            if own := [score for other, score in words if other == key]:
                values[i, j] = fmean(own)
    return Overlaps(
        signals=[_signal(name, source, metrics[name]) for name, source in keys],
        values=values,
        models=[answer.model for answer in answers],
        levels=np.array([answer.level for answer in answers]),
    )


def _said(answer: Answer, metrics: Mapping[str, Metric]) -> Iterator[tuple[tuple[str, str], float]]:
    for vote in answer.votes:
        metric = metrics.get(vote.name)
        if metric is not None and metric.kind != "text" and isinstance(vote.value, float | int):
            own = not metric.limited or vote.source in metric.trust
            yield (vote.name, vote.source if own else EVERYONE), metric.score(vote.value)


def _signal(name: str, source: str, metric: Metric) -> Signal:
    people = metric.limited and source == EVERYONE and name != VOTE
    return Signal(name=name, source=source, trust=metric.trusted(source), people=people)


def with_trust(
    metrics: Mapping[str, Metric], trusted: Iterable[tuple[Signal, Trust]]
) -> dict[str, Metric]:
    """Return metrics that trust some signals so far."""
    changed = dict(metrics)
    for signal, trust in trusted:
        metric = changed[signal.name]
        changed[signal.name] = replace(metric, trust={**metric.trust, signal.source: trust})
    return changed
