"""What travels between the rooms: frozen values, checked once at the door."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bandit_router.values import Array, check_amount, check_count, check_name, clean_text

Reason = Literal["rule", "only", "sticky", "fallback", "degraded", "exploit", "explore"]
FeedbackValue = bool | float | str | None


def new_id(at: float | None = None) -> str:
    """Return a UUIDv7 (RFC 9562): ids made later sort later.

    Parameters
    ----------
    at : float, optional
        The time it carries [s since 1970], to the millisecond; default now.
    """
    milliseconds = int((time.time() if at is None else at) * 1000)
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version 7
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant of RFC 9562
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_floor(at: float) -> str:
    """Return a text that no UUIDv7 of that time or later sorts before, and every earlier one does.

    Examples
    --------
    >>> id_floor(1_000.0) <= new_id(1_000.0) < id_floor(1_000.001)
    True
    """
    milliseconds = min(max(int(at * 1000), 0), (1 << 48) - 1)
    return str(uuid.UUID(int=milliseconds << 80))


def id_time(identifier: str) -> float | None:
    """Return the time that a UUIDv7 carries [s since 1970], or None if it is not one."""
    try:
        value = uuid.UUID(identifier)
    except ValueError:
        return None
    return (value.int >> 80) / 1000 if value.version == 7 else None


@dataclass(frozen=True, slots=True)
class Model:
    """One language model to choose from: an arm of the bandit.

    Parameters
    ----------
    name : str
        Unique within a router.
    input_usd_per_mtok, output_usd_per_mtok : float
        Prices [USD per million tokens].
    context_tokens : int, optional
        The longest prompt and answer together [tokens]; None is unlimited.

    Examples
    --------
    >>> Model("small", input_usd_per_mtok=0.15, output_usd_per_mtok=0.60).cost_usd(1000, 500)
    0.00045
    """

    name: str
    input_usd_per_mtok: float = field(default=0.0, kw_only=True)
    output_usd_per_mtok: float = field(default=0.0, kw_only=True)
    context_tokens: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_name("model name", self.name)
        for price in ("input_usd_per_mtok", "output_usd_per_mtok"):
            object.__setattr__(self, price, check_amount(price, getattr(self, price)))
        if self.context_tokens is not None:
            object.__setattr__(
                self, "context_tokens", check_count("context_tokens", self.context_tokens)
            )
            if self.context_tokens < 1:
                raise ValueError(f"context_tokens: expected at least 1, got {self.context_tokens}")

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return what a call of that many tokens costs [USD]."""
        dear = input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok
        return dear / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the router thought of one eligible model when it decided.

    Attributes
    ----------
    probability : float
        Of being drawn, exactly.
    mean, std : float
        The promised reward and its width, before costs.
    cost_usd, latency_s : float, optional
        Predicted for this request; None while nothing is known.
    """

    model: str
    probability: float
    mean: float
    std: float
    cost_usd: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """Which model serves a request, and exactly how likely that was.

    Attributes
    ----------
    id : str
        UUIDv7; the join key of outcomes and feedback.
    model : str
        The model drawn.
    probability : float
        Of the model drawn, after every filter.
    reason : str
        "rule", "only", "sticky", "fallback", "degraded", "exploit" (the argmax) or "explore".
    candidates : tuple of Candidate
        The eligible models.
    at : float
        When it was made [s since 1970, to the microsecond].
    features : ndarray of shape (dim,)
        What the beliefs saw; not writeable.
    conversation_head : str, optional
        The first decision of a conversation: the one whose draw the later turns repeat.
    duplicate : bool
        True when the same idempotency key had been answered before.
    """

    id: str
    router: str
    model: str
    probability: float
    reason: Reason
    policy: str
    candidates: tuple[Candidate, ...]
    at: float
    features: Array
    features_version: str
    user: str | None = None
    conversation: str | None = None
    conversation_head: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    cost_unit_usd: float | None = None
    duplicate: bool = False

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each eligible model."""
        return {candidate.model: candidate.probability for candidate in self.candidates}

    @property
    def predicted_usd(self) -> float | None:
        """What the model drawn was expected to cost [USD]."""
        return next((c.cost_usd for c in self.candidates if c.model == self.model), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the call went.

    Parameters
    ----------
    model : str, optional
        The model that actually served, where it is not the one drawn.
    input_tokens, output_tokens : int, optional
        As the provider counted them.
    cost_usd : float, optional
        What was paid [USD]; without it, tokens times prices.
    latency_s, ttft_s : float, optional
        Until the answer was whole, and until its first token [s].
    error : str, optional
        Why there was no answer.
    """

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    ttft_s: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.model is not None:
            check_name("model", self.model)
        for name in ("input_tokens", "output_tokens"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_count(name, getattr(self, name)))
        for name in ("cost_usd", "latency_s", "ttft_s"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_amount(name, getattr(self, name)))
        if self.error is not None:
            object.__setattr__(self, "error", clean_text("error", self.error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What all that is known of one decision amounts to.

    Attributes
    ----------
    value : float
        In [0, 1].
    weight : float
        The power of its likelihood: 1 counts as one full observation.
    """

    value: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One word about one decision, as it was recorded.

    Attributes
    ----------
    value : bool, float, str or None
        As given; None revokes.
    source : str, optional
        Who said so; None while that is the user of a decision which is not visible yet.
    at : float
        When it was said [s since 1970]; the latest wins.
    duplicate : bool
        It had been said before, so that nothing changed.
    applied : bool
        The beliefs of this worker contain it.
    pending : bool
        Its decision is not visible yet; it is applied when that is.
    reward : Reward, optional
        What is now known of the decision; None when nothing is.
    """

    id: str
    decision_id: str
    name: str
    value: FeedbackValue
    source: str | None
    at: float
    key: str | None = None
    comment: str | None = None
    duplicate: bool = False
    applied: bool = False
    pending: bool = False
    reward: Reward | None = None
