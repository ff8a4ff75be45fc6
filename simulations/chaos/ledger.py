"""The ledger: what clients asked for, and what they were told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Choice:
    """A decision that was asked for under one key.

    Attributes
    ----------
    answers : list of mapping
        Every good answer that was heard: one, unless workers cut off from the log decided apart.
    """

    key: str
    user: str
    answers: list[Mapping[str, Any]] = field(default_factory=list)  # Any: JSON

    @property
    def acknowledged(self) -> bool:
        """Whether a client heard that it is durable."""
        return bool(self.answers)


@dataclass(slots=True, kw_only=True)
class Report:
    """An outcome that was reported.

    Attributes
    ----------
    sure : bool
        Its first attempt was answered, so that none can come in later.
    """

    decision_id: str
    body: Mapping[str, Any]  # Any: JSON
    acknowledged: bool
    sure: bool


@dataclass(slots=True, kw_only=True)
class Word:
    """A word of feedback.

    Attributes
    ----------
    key : str, optional
        Without one it is sent once only.
    at : float
        When it was said [s since 1970].
    id : str, optional
        Its own, where it was acknowledged.
    duplicate : bool
        It said nothing but what the word of that id had said.
    taken_back : bool or None
        Whether a retraction was acknowledged; None where one was sent and nobody knows.
    """

    decision_id: str
    name: str
    source: str
    value: Any  # Any: of the metric's own type
    key: str | None
    at: float
    id: str | None = None
    duplicate: bool = False
    taken_back: bool | None = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that was neither good nor a request to come back."""

    what: str
    status: int
    message: str
    expected: bool
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """A user that was to be erased.

    Attributes
    ----------
    sure : bool
        Nothing that was done in that user's name went unanswered, so that nothing of it can come in later.
    """

    user: str
    acknowledged: bool
    sure: bool


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What one client, or all of them, asked for and heard.

    Attributes
    ----------
    broken : list of str
        Promises that answers broke, such as another decision under a key that was acknowledged.
    models : dict of str to (bool or None)
        Which models are to be chosen from; None where nobody knows.
    requests : Counter
        Of (what, how it was answered).
    """

    choices: list[Choice] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    erasures: list[Erasure] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    models: dict[str, bool | None] = field(default_factory=dict)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Ledger) -> None:
        """Take over what another one says."""
        for mine, theirs in (
            (self.choices, other.choices),
            (self.reports, other.reports),
            (self.words, other.words),
            (self.refusals, other.refusals),
            (self.erasures, other.erasures),
            (self.broken, other.broken),
        ):
            mine += theirs  # type: ignore[operator]  # pairs of one kind
        self.models |= other.models
        self.requests += other.requests

    @property
    def erased_users(self) -> set[str]:
        """Users of whom nothing certain can be said any more."""
        return {erasure.user for erasure in self.erasures}

    def totals(self) -> dict[str, dict[str, int]]:
        """Return how many of each kind were acknowledged, and of how many nobody knows."""
        kinds: dict[str, list[bool]] = {
            "decisions": [choice.acknowledged for choice in self.choices],
            "outcomes": [report.acknowledged for report in self.reports],
            "words": [word.id is not None for word in self.words],
            "retractions": [
                word.taken_back is True for word in self.words if word.taken_back is not False
            ],
            "erasures": [erasure.acknowledged for erasure in self.erasures],
        }
        return {
            kind: {"acknowledged": sum(known), "unknown": len(known) - sum(known)}
            for kind, known in kinds.items()
        }


def merged(ledgers: Iterable[Ledger]) -> Ledger:
    """Return one ledger of all."""
    whole = Ledger()
    for ledger in ledgers:
        whole.add(ledger)
    return whole
