"""Rows of the table of speed: ours, what it is held against, and whether the bar is met."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bandit_router.values import check_count

Round = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    rounds : int
        Of each contestant, one after the other in turn; their median counts.
    calls : int
        In one round.
    log_rows : int
        Decisions of the log over which a router is opened.
    environments : Path
        Where peers are installed, each for itself.
    peers : bool
        Whether peers are asked at all.
    """

    rounds: int = 7
    calls: int = 300
    log_rows: int = 5_000
    environments: Path = Path("~/.cache/bandit-router/peers")
    peers: bool = True

    def __post_init__(self) -> None:
        for name in ("rounds", "calls", "log_rows"):
            if not check_count(name, getattr(self, name)):
                raise ValueError(f"{name}: expected at least 1, got 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What is to be reached.

    Attributes
    ----------
    limit : float
    at_least : bool
        Else at most.
    ratio : bool
        Whether it bounds ours divided by the other, or ours itself.
    """

    limit: float
    at_least: bool = False
    ratio: bool = True

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:,.4g}" + ("x" if self.ratio else "")

    def met(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    bench : str
        That measured it.
    what, unit : str
    ours : float
    against : str
        The floor or peer; empty where the bar bounds ours itself.
    theirs : float, optional
        None where it is absent; then `note` says why.
    bar : Bar, optional
        None where nothing was promised.
    """

    bench: str
    what: str
    unit: str
    ours: float
    against: str = ""
    theirs: float | None = None
    bar: Bar | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by theirs; None where there is nothing to divide by."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none, or nothing to compare with."""
        value = self.ratio if self.bar is not None and self.bar.ratio else self.ours
        return None if self.bar is None or value is None else self.bar.met(value)

    def plain(self) -> dict[str, Any]:  # Any: JSON
        """Return the row as JSON has it."""
        names = ("bench", "what", "unit", "ours", "against", "theirs", "ratio", "met", "note")
        bar = None if self.bar is None else str(self.bar)
        return {name: getattr(self, name) for name in names} | {"bar": bar}


def interleaved(contestants: Mapping[str, Round], rounds: int) -> dict[str, float]:
    """Let each have its rounds in turn, so that a noisy neighbour meets all; return the medians."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, one in contestants.items():
            found[name].append(one())
    return {name: median(values) for name, values in found.items()}


def median_us(call: Callable[[], object], calls: int) -> float:
    """Return the median time of one of several calls [us]."""
    took = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - began)
    return median(took) / 1000
