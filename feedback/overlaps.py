"""Overlaps: signals side by side, as arrays: what each said of the same answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from bandit_router.log.comparing import VOTE
from bandit_router.log.overlaps import Answer
from bandit_router.rewards import EVERYONE, Metric, Trust
from bandit_router.values import Array

MIN_OVERLAPS = 50  # decisions about which a signal and another one spoke, before anything is said
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
    weight : float
        What it counts for want of data: its metric's weight.
    trust : Trust
        As it is at present.
    people : bool
        Whether users say it of an answer by itself, so that it may be the reference.
    """

    name: str
    source: str
    weight: float = 1.0
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """The decisions that count: two signals or more spoke; the prompts' own part is taken out of the values."""

    signals: Sequence[Signal]
    raw: Array
    values: Array  # 0 where missing
    there: Array  # 1 or 0
    models: NDArray[np.int_]
    spoke: NDArray[np.int_]  # decisions that each signal spoke about, alone or not

    @classmethod
    def of(cls, overlaps: Overlaps) -> Sample:
        there = np.isfinite(overlaps.values)
        some = there.sum(axis=1) >= 2
        raw = overlaps.values[some]
        levels = None if overlaps.levels is None else overlaps.levels[some]
        _, codes = np.unique(np.asarray(overlaps.models, dtype=str), return_inverse=True)
        return cls(
            signals=overlaps.signals,
            raw=raw,
            values=np.nan_to_num(_levelled(raw, levels)),
            there=there[some].astype(np.float64),
            models=codes[some],
            spoke=there.sum(axis=0),
        )

    @property
    def counts(self) -> NDArray[np.int_]:
        """Decisions that each pair of signals spoke about, of shape (signals, signals)."""
        return (self.there.T @ self.there).astype(int)

    def overlaps(self, j: int) -> int:
        return int(self.there[:, j].sum())

    def spread(self, j: int) -> float:
        said = self.raw[:, j]
        return float(np.nanmax(said) - np.nanmin(said)) if self.overlaps(j) else 0.0

    def tells(self, j: int) -> bool:
        """Whether a signal and some other one overlap often enough."""
        return bool((np.delete(self.counts[j], j) >= MIN_OVERLAPS).any())

    def triangles(self, of: Sequence[int]) -> list[int]:
        """Those of some signals that can be told apart: three that overlap by pairs, and all who reach them."""
        near = self._near(of)
        cornered = np.diag(np.linalg.matrix_power(near, 3)) > 0
        return self.reached(of, [j for j, corner in zip(of, cornered, strict=True) if corner])

    def reached(self, of: Sequence[int], seeds: Sequence[int]) -> list[int]:
        """Those of some signals that overlap with the seeds, or with those that do, and so on."""
        near = self._near(of) + np.eye(len(of), dtype=int)
        found = np.isin(of, seeds)
        for _ in of:
            found = near @ found > 0
        return [j for j, there in zip(of, found, strict=True) if there]

    def _near(self, of: Sequence[int]) -> NDArray[np.int_]:
        near = (self.counts[np.ix_(of, of)] >= MIN_OVERLAPS).astype(int)
        np.fill_diagonal(near, 0)
        return near

    def reference(self) -> int | None:
        """The signal of users that overlaps most often, if that is often enough."""
        users = [
            j for j, s in enumerate(self.signals) if s.people and self.tells(j) and self.spread(j) > 0
        ]
        return max(users, key=self.overlaps, default=None)


def _levelled(values: Array, levels: Array | None) -> Array:
    """Take out of each signal what is linear in the levels of the prompts."""
    if levels is None:
        return values
    left = values.copy()
    for j in range(values.shape[1]):
        said = np.isfinite(values[:, j])
        x = levels[said] - levels[said].mean() if said.any() else levels[said]
        if (total := float(x @ x)) > 0:
            left[said, j] -= x * (float(x @ values[said, j]) / total)
    return left


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
    trust = metric.trusted(source)
    return Signal(name=name, source=source, weight=metric.weight, trust=trust, people=people)


def with_trust(
    metrics: Mapping[str, Metric], trusted: Iterable[tuple[Signal, Trust]]
) -> dict[str, Metric]:
    """Return metrics that trust some signals so far."""
    changed = dict(metrics)
    for signal, trust in trusted:
        metric = changed[signal.name]
        changed[signal.name] = replace(metric, trust={**metric.trust, signal.source: trust})
    return changed


def with_probe(metrics: Mapping[str, Metric], source: str, left: float) -> dict[str, Metric]:
    """Return metrics that take from a judge's weight what constant answers leave of it."""
    metric = metrics["judge"]
    trust = {**metric.trust, source: replace(metric.trusted(source), probed=left)}
    return {**metrics, "judge": replace(metric, trust=trust)}
