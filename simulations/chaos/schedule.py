"""What is to go wrong, and when: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

ROUND_S = 45.0  # about how long clients play before everything is healed and proved
CALM = 0.15  # of a round, at its end: nothing new goes wrong
CALM_S = 5.0  # but no longer than this
FRESH = (
    0.6  # of a round: what folds beliefs anew hides what was wrong with them, so it comes before this
)
PAUSES_S = (0.6, 2.2)  # between two faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault.

    Attributes
    ----------
    name : str
    part : str
        What it befalls: ``worker``, ``redis``, ``postgres``, ``redis link``, ``postgres link`` or ``router``.
    low_s, high_s : float
        How long it lasts [s].
    folds_anew : bool
        Whether the beliefs are folded again from the log because of it.
    """

    name: str
    part: str
    low_s: float = 0.0
    high_s: float = 0.0
    folds_anew: bool = False

    def __str__(self) -> str:
        return f"{self.part}: {self.name}"


KINDS = (
    Kind(name="kill", part="worker"),  # the process that serves: its supervisor starts another
    Kind(name="kill all", part="worker", low_s=0.2, high_s=2.0),
    Kind(name="end", part="worker", low_s=0.2, high_s=1.0),
    Kind(name="pause", part="worker", low_s=1.0, high_s=6.0),
    Kind(name="kill", part="redis", low_s=0.2, high_s=3.0),
    Kind(name="older dump", part="redis", low_s=1.0, high_s=4.0),
    Kind(name="flush", part="redis", folds_anew=True),
    Kind(name="pause", part="redis", low_s=0.5, high_s=4.0),
    Kind(name="memory full", part="redis", low_s=1.0, high_s=3.0),
    Kind(name="kill", part="postgres", low_s=0.2, high_s=3.0),
    Kind(name="restart", part="postgres"),
    Kind(name="pause", part="postgres", low_s=0.5, high_s=4.0),
    Kind(name="read-only", part="postgres", low_s=1.0, high_s=3.0),
    Kind(name="terminate backends", part="postgres", low_s=0.5, high_s=1.5),
    *(
        Kind(name=name, part=f"{server} link", low_s=low_s, high_s=4.0)
        for server in ("redis", "postgres")
        for name, low_s in (
            ("delay", 1.0),
            ("slow", 1.0),
            ("cut", 0.2),
            ("half-open", 1.0),
            ("deaf", 0.5),
            ("delay, then cut", 1.0),
        )
    ),
    Kind(name="rebuild", part="router", folds_anew=True),
    Kind(name="erase a user", part="router", folds_anew=True),
    Kind(name="add a model", part="router"),
    Kind(name="retire a model", part="router"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes
    ----------
    at_s, seconds : float
        When it begins, after its round has begun, and how long it lasts [s].
    kind : Kind
    target : str
        Which part: ``worker 1``, ``redis``, ``worker 2 - postgres``.
    """

    at_s: float
    kind: Kind
    target: str
    seconds: float

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.target}: {self.kind.name}{lasting}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A time of play, and what goes wrong in it."""

    seconds: float
    faults: tuple[Fault, ...]


def schedule(
    seed: int, minutes: float, *, workers: int = 2, only: Collection[str] = ()
) -> tuple[Round, ...]:
    """Return the rounds of a run.

    Each kind of fault comes once before any comes again; one part suffers one fault at a time.

    Parameters
    ----------
    only : collection of str
        Parts of the names of the kinds that come, such as ``redis: kill`` or ``postgres link``; by default all.

    Raises
    ------
    ValueError
        No kind has such a name.

    Examples
    --------
    >>> rounds = schedule(1, 3.0)
    >>> len(rounds), rounds[0].seconds, rounds == schedule(1, 3.0), rounds == schedule(2, 3.0)
    (4, 45.0, True, False)
    >>> {str(fault.kind) for fault in schedule(1, 3.0, only=["redis: fl"])[0].faults}
    {'redis: flush'}
    """
    rng = random.Random(f"chaos {seed}")
    kinds = tuple(kind for kind in KINDS if not only or any(text in str(kind) for text in only))
    if not kinds:
        raise ValueError(f"only: expected parts of {', '.join(map(str, KINDS))}, got {', '.join(only)}")
    number = max(1, round(60 * minutes / ROUND_S))
    deck: list[Kind] = []
    return tuple(_round(rng, kinds, deck, 60 * minutes / number, workers) for _ in range(number))


def _round(
    rng: random.Random, kinds: Sequence[Kind], deck: list[Kind], seconds: float, workers: int
) -> Round:
    busy: dict[str, float] = {}
    faults: list[Fault] = []
    at_s, end_s = 1.0, seconds - min(CALM * seconds, CALM_S)
    while at_s < end_s:
        if len(deck) <= len(kinds) // 4:
            deck += rng.sample(kinds, len(kinds))
        fault = _deal(rng, deck, at_s, seconds, busy, workers)
        if fault is not None:
            faults.append(fault)
            busy[fault.target] = at_s + fault.seconds + 0.5
        at_s = round(at_s + rng.uniform(*PAUSES_S), 2)
    return Round(seconds=seconds, faults=tuple(faults))


def _deal(
    rng: random.Random,
    deck: list[Kind],
    at_s: float,
    seconds: float,
    busy: dict[str, float],
    workers: int,
) -> Fault | None:
    """Take the first card of the deck that fits the moment."""
    for place, kind in enumerate(deck):
        target = rng.choice(_targets(kind, workers))
        lasts = round(rng.uniform(kind.low_s, kind.high_s), 2)
        fits = not kind.folds_anew or at_s < FRESH * seconds
        if fits and busy.get(target, 0.0) <= at_s:
            del deck[place]
            return Fault(at_s=at_s, kind=kind, target=target, seconds=lasts)
    return None


def _targets(kind: Kind, workers: int) -> Sequence[str]:
    names = [f"worker {number}" for number in range(1, workers + 1)]
    if kind.part == "worker":
        return names
    if kind.part.endswith(" link"):
        return [f"{name} - {kind.part.removesuffix(' link')}" for name in names]
    return [kind.part]
