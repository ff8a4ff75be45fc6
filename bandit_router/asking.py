"""The doors of `choose` and `feedback`: what a caller says becomes one checked value."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from bandit_router.events import FeedbackValue
from bandit_router.log.comparing import VOTE, Comparison
from bandit_router.log.hearing import Word
from bandit_router.log.rows import digest
from bandit_router.preference import Preference
from bandit_router.prompt import Prompt
from bandit_router.pseudonyms import Pseudonyms
from bandit_router.request import Request
from bandit_router.rewards import COMMENT_LIMIT, Channel, Metric, find_metric
from bandit_router.values import check_name, check_time, check_vector, clean_text, utc

JUDGE = "judge"  # the metric of whoever grades
AHEAD_S = 86_400.0  # how far in the future a moment may lie, for clocks differ

Messages = str | Sequence[Mapping[str, Any]]  # Any: JSON of OpenAI messages


class ChooseArguments(TypedDict, total=False):
    """What a request may say beside its prompt; `Request` says what each is."""

    models: Collection[str] | None
    preference: Preference | None
    max_cost_usd: float | None
    max_tokens: int | None
    user: str | None
    conversation: str | None
    tags: Mapping[str, str] | None
    key: str | None
    features: object


class FeedbackArguments(TypedDict, total=False):
    """What a word of feedback may say beside its value; `Router.feedback` says what each is."""

    source: str | None
    key: str | None
    comment: str | None
    at: datetime | float | str | None
    conversation: str | None
    channel: Channel | None


def read_request(
    prompt: Messages | None,
    options: Mapping[str, Any],  # Any: of each option's own type
    *,
    pseudonyms: Pseudonyms | None = None,
) -> Request:
    """Return the request that the arguments of a choice make; `Router.choose` says what is raised."""
    _refuse_unknown("choose", options, ChooseArguments.__annotations__)
    if prompt is None and options.get("features") is None:
        raise TypeError("choose: expected a prompt, or features=")
    given = {name: value for name, value in options.items() if value is not None}
    if "models" in given:
        given["models"] = _names(given["models"])
    if "features" in given:
        given["features"] = check_vector("features", given["features"])
    if "user" in given:
        given["user"] = _known_as("user", given["user"], pseudonyms)
    seen = Prompt(text="") if prompt is None else Prompt.of(prompt)
    return Request(prompt=seen, said=_plain(prompt), **given)


def _plain(prompt: Messages | None) -> object:
    """The prompt as the log can keep it: what JSON has no word for becomes a text."""
    if prompt is None or isinstance(prompt, str):
        return prompt
    try:
        return json.loads(json.dumps(list(prompt), default=_as_json))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"messages: they cannot be written as JSON: {error}") from error


def _as_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _names(models: object) -> frozenset[str]:
    if isinstance(models, str) or not isinstance(models, Collection):
        raise TypeError(f"models: expected a list of names, got {type(models).__name__}")
    return frozenset(check_name("models", name) for name in models)


def hash_of(request: Request) -> str:
    """What a repeated idempotency key must repeat too."""
    preference = request.preference
    weights = None if preference is None else [preference.price_weight, preference.latency_weight]
    if preference is not None and preference.max_quality_drop is not None:
        weights = [*(weights or ()), preference.max_quality_drop]
    limits = [sorted(request.models or ()), request.max_cost_usd, request.max_tokens]
    features = None if request.features is None else request.features.tolist()
    who = [request.user, request.conversation, dict(request.tags)]
    return digest([request.said, weights, limits, features, who])


def read_word(
    decision_id: str | None,
    name: str,
    value: FeedbackValue,
    options: Mapping[str, Any],  # Any: of each option's own type
    *,
    metrics: Mapping[str, Metric],
    now: float,
    pseudonyms: Pseudonyms | None = None,
) -> Word:
    """Return the word that a feedback's arguments make; `Router.feedback` says what is raised."""
    _refuse_unknown("feedback", options, FeedbackArguments.__annotations__)
    source, key, comment, at = (options.get(option) for option in ("source", "key", "comment", "at"))
    people = None if name == JUDGE else pseudonyms  # who grades is a model, not a user
    conversation = options.get("conversation")
    if (decision_id is None) == (conversation is None):
        raise TypeError("feedback: expected either a decision_id or a conversation")
    said = None if at is None else check_time("at", at, now)
    if said is not None and said > now + AHEAD_S:
        raise ValueError(f"at: expected no time more than a day ahead, got {utc(said).isoformat()}")
    return Word(
        decision_id=None if decision_id is None else check_name("decision_id", decision_id),
        conversation=None if conversation is None else check_name("conversation", conversation),
        name=name,
        value=find_metric(metrics, name).check(name, value),
        source=None if source is None else _known_as("source", source, people),
        key=None if key is None else check_name("key", key),
        comment=None if comment is None else clean_text("comment", comment, COMMENT_LIMIT),
        at=said,
        received=now,
        channel=_channel(options.get("channel")),
    )


def read_comparison(
    winner: str,
    loser: str,
    tie: bool,
    options: Mapping[str, Any],  # Any: of each option's own type
    *,
    metrics: Mapping[str, Metric],
    now: float,
    pseudonyms: Pseudonyms | None = None,
) -> Comparison:
    """Return the two words that a comparison's arguments make; `Router.compare` says what is raised."""
    if not isinstance(tie, bool):
        raise TypeError(f"tie: expected true or false, got {type(tie).__name__}")
    if options.get("conversation") is not None:
        raise TypeError("compare: expected two decisions, got a conversation")
    first, second = (
        read_word(
            check_name(side, of), VOTE, 0.5, options, metrics=metrics, now=now, pseudonyms=pseudonyms
        )
        for side, of in (("winner", winner), ("loser", loser))
    )
    if first.decision_id == second.decision_id:
        raise ValueError("loser: expected another decision than the winner's")
    return Comparison(winner=first, loser=second, tie=tie)


def _known_as(what: str, name: object, pseudonyms: Pseudonyms | None) -> str:
    """What a user or a source is kept as: from here on nobody knows their name."""
    checked = check_name(what, name)
    return str(checked if pseudonyms is None else pseudonyms.of(checked))


def _channel(value: object) -> Channel | None:
    if value is not None and not isinstance(value, Channel):
        raise TypeError(f"channel: expected a Channel, got {type(value).__name__}")
    return value


def _refuse_unknown(
    where: str, options: Mapping[str, Any], known: Mapping[str, Any]
) -> None:  # Any: any
    for option in options:
        if option not in known:
            raise TypeError(f"{where}: no option {option!r}; there are {', '.join(known)}")
