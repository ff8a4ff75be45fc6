"""What a service answers, as frozen values; fields that a newer service adds are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from bandit_router.drift import Drift
from bandit_router.events import Candidate, Feedback, FeedbackValue, Outcome, Reason, Reward
from bandit_router.log.deciding import Said

T = TypeVar("T")
Json = Mapping[str, Any]  # Any: what JSON can say


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Which model was drawn for a request, and exactly how likely that was.

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
    policy : str
        Its SPEC.
    candidates : tuple of Candidate
        The eligible models.
    """

    id: str
    router: str
    model: str
    probability: float
    reason: Reason
    policy: str
    candidates: tuple[Candidate, ...]
    conversation: str | None

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each eligible model."""
        return {candidate.model: candidate.probability for candidate in self.candidates}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen(Drawn):
    """What `choose` answers.

    Attributes
    ----------
    feedback_token : str
        For the browser of whoever reads the answer: it may give this decision thumbs for a limited time.
    duplicate : bool
        The decision had been made before; also where only its answer was lost on the way.
    """

    feedback_token: str
    duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What `feedback` answers.

    Attributes
    ----------
    duplicate : bool
        It had been said before; also where only the answer was lost on the way.
    applied : bool
        The beliefs contain it; else it is durable, and applied by itself later.
    reward : Reward, optional
        What is now known of the decision; None when nothing is.
    """

    id: str
    decision_id: str
    name: str
    value: FeedbackValue
    duplicate: bool
    applied: bool
    reward: Reward | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(Drawn):
    """What `decision` answers: the whole story.

    Attributes
    ----------
    at : float
        When it was made [s since 1970].
    prompt : object
        The text, or the messages; None where no text is kept.
    feedback : tuple of Said
        Every word, in the order of arrival, and whether it was taken back.
    revisions : tuple of (Reward or None)
        What was made of it, revision by revision; the last one counts.
    """

    features_version: str
    at: float
    user: str | None
    tags: Mapping[str, str]
    prompt: object
    answer: str | None
    outcome: Outcome | None
    feedback: tuple[Said, ...]
    reward: Reward | None
    revisions: tuple[Reward | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What is believed of one model.

    Attributes
    ----------
    n : float
        Observations, faded by the half-life.
    mean_reward : float, optional
        Of them; None without any.
    prior : mapping of str to float
        What was believed before.
    last_change : float, optional
        When its evidence last changed [s since 1970].
    drifts : tuple of Drift
        Changes of the model that were recorded, the earliest first.
    """

    n: float
    mean_reward: float | None
    prior: Mapping[str, float]
    last_change: float | None
    retired: bool
    drifts: tuple[Drift, ...] = ()


def picked(kind: type[T], body: Json, **read: object) -> T:
    """Return a dataclass from the entries of a body that it has; those in `read` were read already."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: value for name, value in body.items() if name in names} | read)


def read_chosen(body: Json) -> Chosen:
    return picked(Chosen, body, candidates=_candidates(body))


def read_heard(body: Json) -> Heard:
    return picked(Heard, body, reward=_reward(body["reward"]))


def read_told(body: Json) -> Told:
    outcome = body["outcome"]
    return picked(
        Told,
        body,
        candidates=_candidates(body),
        at=_moment(body["at"]),
        outcome=None if outcome is None else picked(Outcome, outcome),
        feedback=tuple(_said(word, body["id"]) for word in body["feedback"]),
        reward=_reward(body["reward"]),
        revisions=tuple(map(_reward, body["revisions"])),
    )


def read_beliefs(body: Json) -> dict[str, Belief]:
    return {name: _belief(name, belief) for name, belief in body["beliefs"].items()}


def _candidates(body: Json) -> tuple[Candidate, ...]:
    return tuple(picked(Candidate, candidate) for candidate in body["candidates"])


def _said(word: Json, decision_id: str) -> Said:
    said = picked(Feedback, word, decision_id=decision_id, at=_moment(word["at"]))
    return Said(feedback=said, retracted=word["retracted"])


def _reward(body: Json | None) -> Reward | None:
    return None if body is None else picked(Reward, body)


def _belief(model: str, body: Json) -> Belief:
    changed = body["last_change"]
    drifts = tuple(_drift(model, drift) for drift in body.get("drifts", ()))
    moment = None if changed is None else _moment(changed)
    return picked(Belief, body, last_change=moment, drifts=drifts)


def _drift(model: str, body: Json) -> Drift:
    at, created = _moment(body["at"]), _moment(body["created"])
    return picked(Drift, body, model=model, at=at, created=created)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
