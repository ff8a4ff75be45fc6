"""What is asked of the router: one request, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandit_router.preference import Preference
from bandit_router.prompt import Prompt
from bandit_router.values import TAG_LIMIT, Array, check_amount, check_count, check_name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One request to be routed, checked.

    Attributes
    ----------
    prompt : Prompt
        What features see of it.
    said : object
        The text or messages as they came, for the log; None where only features came.
    features : ndarray, optional
        A ready vector instead of a text.
    models : frozenset of str, optional
        Only these may serve.
    preference : Preference, optional
        What a cost unit and a second are worth to this request, instead of the router's.
    max_cost_usd : float, optional
        A hard cap on the predicted cost [USD]; on the worst case where `max_tokens` is given.
    max_tokens : int, optional
        The longest answer.
    user, conversation, key : str, optional
        Whose it is, which conversation it belongs to, and its idempotency key.
    tags : mapping of str to str
        Kept in the log.
    """

    prompt: Prompt
    said: object = None
    features: Array | None = None
    models: frozenset[str] | None = None
    preference: Preference | None = None
    max_cost_usd: float | None = None
    max_tokens: int | None = None
    user: str | None = None
    conversation: str | None = None
    key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.models is not None and not self.models:
            raise ValueError("models: expected at least one name, got none")
        for name in ("user", "conversation", "key"):
            if getattr(self, name) is not None:
                check_name(name, getattr(self, name))
        if self.preference is not None and not isinstance(self.preference, Preference):
            raise TypeError(f"preference: expected a Preference, got {type(self.preference).__name__}")
        if self.max_cost_usd is not None:
            check_amount("max_cost_usd", self.max_cost_usd)
        if self.max_tokens is not None and check_count("max_tokens", self.max_tokens) < 1:
            raise ValueError("max_tokens: expected at least 1, got 0")
        if not isinstance(self.tags, Mapping) or len(self.tags) > TAG_LIMIT:
            raise TypeError(f"tags: expected an object of at most {TAG_LIMIT} texts")
        for tag, value in self.tags.items():
            check_name("tag", tag), check_name(f"tag {tag}", value)
