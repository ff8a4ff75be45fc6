"""What travels between the rooms: frozen values, checked once at the door."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Reason = Literal["rule", "only", "sticky", "fallback", "degraded", "exploit", "explore"]
FeedbackValue = bool | float | str | None

NAME_LIMIT = 255  # characters of a name, id, key or source
TEXT_LIMIT = 4_000_000  # characters of a prompt or an answer
TAG_LIMIT = 64
COUNT_LIMIT = 10**12  # tokens of one call
AMOUNT_LIMIT = 1e12  # dollars or seconds of one call


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
    return str(uuid.UUID(int=value))


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
class Prompt:
    """What features see of a request: the last user turn, and counts of the rest.

    Attributes
    ----------
    text : str
        The last user turn; lone surrogates are replaced by U+FFFD.
    turns : int
        Messages in all.
    other_chars : int
        Characters of all messages but the last user turn.
    system_chars : int
        Those of them that system or developer messages hold.
    images, tools : int
        Image parts, and tool calls and results, anywhere.
    """

    text: str
    turns: int = 1
    other_chars: int = 0
    system_chars: int = 0
    images: int = 0
    tools: int = 0

    @classmethod
    def of(cls, prompt: str | Sequence[Mapping[str, Any]]) -> Prompt:  # Any: JSON of OpenAI messages
        """Read a text, or OpenAI messages (``{"role", "content"}``).

        Raises
        ------
        TypeError, ValueError
            Not a text or a non-empty list of messages, or too long; the message says where.

        Examples
        --------
        >>> Prompt.of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
        Prompt(text='Hi', turns=2, other_chars=9, system_chars=9, images=0, tools=0)
        """
        if isinstance(prompt, str):
            return cls(text=clean_text("prompt", prompt))
        if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
            kind = type(prompt).__name__
            raise TypeError(f"prompt: expected a text or a list of messages, got {kind}")
        if not prompt:
            raise ValueError("messages: expected at least one message, got none")
        turns = [_Turn.of(message, f"messages[{i}]") for i, message in enumerate(prompt)]
        return cls._from_turns(turns)

    @classmethod
    def _from_turns(cls, turns: list[_Turn]) -> Prompt:
        users = [i for i, turn in enumerate(turns) if turn.role == "user"]
        last = users[-1] if users else len(turns) - 1
        rest = turns[:last] + turns[last + 1 :]
        return cls(
            text=clean_text("messages", turns[last].text),
            turns=len(turns),
            other_chars=sum(len(turn.text) for turn in rest),
            system_chars=sum(len(t.text) for t in rest if t.role in ("system", "developer")),
            images=sum(turn.images for turn in turns),
            tools=sum(turn.tools for turn in turns),
        )

    @property
    def input_tokens(self) -> float:
        """A rough count of the tokens of the whole prompt: four characters each, 800 an image."""
        return (len(self.text) + self.other_chars) / 4 + 4 * self.turns + 800 * self.images


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    text: str
    images: int
    tools: int

    @classmethod
    def of(cls, message: Any, where: str) -> _Turn:  # Any: it is what this checks
        if not isinstance(message, Mapping):
            raise TypeError(f"{where}: expected an object, got {type(message).__name__}")
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise ValueError(f"{where}.role: expected a text, got {role!r:.40}")
        parts = _parts(message.get("content"), f"{where}.content")
        kinds = [str(part.get("type")) for part in parts]
        calls = message.get("tool_calls") or ()
        return cls(
            role=role,
            text="\n".join(text for part in parts if isinstance(text := part.get("text"), str)),
            images=sum("image" in kind for kind in kinds),
            tools=sum("tool" in kind for kind in kinds)
            + (len(calls) if isinstance(calls, Sequence) else 0)
            + (role in ("tool", "function")),
        )


def _parts(content: Any, where: str) -> list[Mapping[str, Any]]:  # Any: it is what this checks
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise TypeError(f"{where}: expected a text or a list of parts, got {type(content).__name__}")
    for i, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise TypeError(f"{where}[{i}]: expected an object, got {type(part).__name__}")
    return list(content)


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
    at : float
        When it was said [s since 1970]; the latest wins.
    duplicate : bool
        It had been said before, so that nothing changed.
    applied : bool
        The beliefs of this worker contain it.
    reward : Reward, optional
        What is now known of the decision; None when nothing is.
    """

    id: str
    decision_id: str
    name: str
    value: FeedbackValue
    source: str
    at: float
    key: str | None = None
    comment: str | None = None
    duplicate: bool = False
    applied: bool = False
    reward: Reward | None = None


def check_name(what: str, value: object) -> str:
    """Return `value` if it is a usable name, else raise TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected a text, got {type(value).__name__}")
    if not value or len(value) > NAME_LIMIT:
        raise ValueError(f"{what}: expected 1 to {NAME_LIMIT} characters, got {len(value)}")
    if not value.isprintable():
        raise ValueError(f"{what}: expected printable characters, got {value!r:.60}")
    return value


def check_number(what: str, value: object) -> float:
    """Return `value` as a float if it is a finite number, else raise TypeError or ValueError."""
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{what}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"{what}: expected a finite number, got one too large") from error
    if not math.isfinite(number):
        raise ValueError(f"{what}: expected a finite number, got {number}")
    return number


def check_unit(what: str, value: object) -> float:
    """Return `value` as a float if it lies in [0, 1], else raise TypeError or ValueError."""
    number = check_number(what, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{what}: expected a number from 0 to 1, got {number:g}")
    return number


def check_amount(what: str, value: object) -> float:
    """Return `value` as a float if it is finite and not negative, else raise TypeError or ValueError."""
    number = check_number(what, value)
    if not 0.0 <= number <= AMOUNT_LIMIT:
        raise ValueError(f"{what}: expected a number from 0 to {AMOUNT_LIMIT:g}, got {number:g}")
    return number


def check_count(what: str, value: object) -> int:
    """Return `value` as an int if it counts something, else raise TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what}: expected a whole number, got {type(value).__name__}")
    if not 0 <= value <= COUNT_LIMIT:
        raise ValueError(f"{what}: expected a whole number from 0 to {COUNT_LIMIT}, got {value}")
    return int(value)


def check_vector(what: str, value: object, dim: int | None = None) -> Array:
    """Return `value` as a float64 vector that cannot be written to and holds only finite numbers.

    Raises
    ------
    ValueError
        Wrong shape, or a NaN or an infinity in it.
    """
    try:
        raw = np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: expected a vector of numbers, got {type(value).__name__}") from error
    if raw.dtype.kind not in "iuf":
        raise ValueError(
            f"{what}: expected a vector of numbers, got {raw.dtype} in {type(value).__name__}"
        )
    vector = np.array(raw, dtype=np.float64)
    wanted = f"({dim},)" if dim is not None else "(dim,)"
    if vector.ndim != 1 or (dim is not None and vector.shape != (dim,)):
        raise ValueError(f"{what}: expected shape {wanted}, got {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{what}: expected finite numbers, got {vector[~np.isfinite(vector)][0]}")
    vector.flags.writeable = False
    return vector


def check_time(what: str, value: datetime | float | str | None, now: float) -> float:
    """Return a moment as seconds since 1970 to the microsecond; None is `now`, a text is RFC 3339.

    Raises
    ------
    TypeError, ValueError
        Not a moment, a time without a zone, or outside the years 1970 to 9999.
    """
    if value is None:
        return now
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{what}: expected a time as RFC 3339 has it, got {value!r:.40}") from error
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{what}: expected a time with a zone, got {value.isoformat()}")
        value = value.timestamp()
    moment = check_number(what, value)
    if not 0 <= moment < 253402300800:
        raise ValueError(f"{what}: expected a time from 1970 to 9999, got {moment:g}")
    return round(moment, 6)


def utc(moment: float) -> datetime:
    """Return seconds since 1970 as a UTC datetime."""
    return datetime.fromtimestamp(moment, UTC)


def clean_text(what: str, value: object, limit: int = TEXT_LIMIT) -> str:
    """Return a text that can be encoded: lone surrogates become U+FFFD, NUL too (PostgreSQL has none).

    Raises
    ------
    TypeError, ValueError
        Not a text, or longer than `limit` characters.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected a text, got {type(value).__name__}")
    if len(value) > limit:
        raise ValueError(f"{what}: expected at most {limit} characters, got {len(value)}")
    text = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
