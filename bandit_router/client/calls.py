"""What can be asked of a router behind HTTP: each method says one call, and how its answer is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, NotRequired, Required, TypedDict, Unpack
from urllib.parse import quote

from bandit_router.client.answers import (
    Belief,
    Chosen,
    Heard,
    Json,
    Told,
    picked,
    read_beliefs,
    read_chosen,
    read_heard,
    read_told,
)
from bandit_router.client.trying import Call, problem_error
from bandit_router.events import FeedbackValue, Model, Outcome, new_id
from bandit_router.log.erasure import Forgotten
from bandit_router.log.hearing import Reported
from bandit_router.preference import Preference
from bandit_router.settings import Settings, model_to_json
from bandit_router.values import check_name

if TYPE_CHECKING:
    from bandit_router.asking import Messages
    from bandit_router.opening import SettingsArguments

_IN_SECONDS = {"half_life": "half_life_s", "text_retention": "text_retention_s"}


class Word(TypedDict, total=False):
    """One word of a batch; `Client.feedback` says what each entry is."""

    decision_id: str | None
    conversation: str | None
    name: Required[str]
    value: Required[FeedbackValue]
    source: NotRequired[str | None]
    key: NotRequired[str | None]
    comment: NotRequired[str | None]
    at: NotRequired[datetime | float | str | None]


class Calls:
    """The calls of one named router.

    Parameters
    ----------
    router : str
    """

    def __init__(self, router: str) -> None:
        self._router = check_name("router", router)
        self._path = f"/v1/routers/{_step('router', router)}"

    def choose(
        self,
        prompt: Messages,
        *,
        models: Collection[str] | None = None,
        preference: Preference | None = None,
        max_cost_usd: float | None = None,
        max_tokens: int | None = None,
        user: str | None = None,
        conversation: str | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Call[Chosen]:
        """Pick a model for a request.

        Parameters
        ----------
        prompt : str or list of messages
        models : collection of str, optional
            Only these may serve.
        preference : Preference, optional
            What a cost unit and a second are worth to this request, instead of the router's.
        max_cost_usd : float, optional
            A hard cap on the predicted cost [USD]; on the worst case where `max_tokens` is given.
        max_tokens : int, optional
            The longest answer.
        user, conversation : str, optional
            Whose it is, and which conversation it belongs to.
        tags : mapping of str to str, optional
            Kept in the log.
        key : str, optional
            Idempotency key, in ASCII; by default one of this call's own.

        Raises
        ------
        NoEligibleModelError
            Caps and subsets leave no model.
        ConflictError
            The same `key` came with another body.
        LogUnavailableError
            The decision could not be made durable.
        TypeError, ValueError
            A malformed argument.
        """
        said = {
            "prompt" if isinstance(prompt, str) else "messages": prompt,
            "router": self._router,
            "models": None if models is None else _names(models),
            "preference": None if preference is None else _given(asdict(preference)),
            "max_cost_usd": max_cost_usd,
            "max_tokens": max_tokens,
            "user": user,
            "conversation": conversation,
            "tags": None if tags is None else dict(tags),
        }
        own = new_id() if key is None else _header("key", key)
        return Call(method="POST", path="/v1/decisions", read=read_chosen, body=_given(said), key=own)

    def report(
        self,
        decision_id: str,
        outcome: Outcome | Mapping[str, Any],
        *,
        answer: str | None = None,
    ) -> Call[Reported]:
        """Tell how the call went; a second, different outcome replaces the first.

        Parameters
        ----------
        decision_id : str
        outcome : Outcome or mapping
            The fields of an `Outcome`.
        answer : str, optional
            What the model said, for the judge.

        Raises
        ------
        UnknownDecisionError
            No such decision.
        LogUnavailableError
            It could not be made durable.
        """
        went = outcome if isinstance(outcome, Outcome) else Outcome(**outcome)
        said = {"decision_id": check_name("decision_id", decision_id), "answer": answer, **asdict(went)}
        return Call(method="POST", path="/v1/outcomes", read=_read_reported, body=_given(said))

    def feedback(
        self,
        decision_id: str | None,
        name: str,
        value: FeedbackValue,
        *,
        source: str | None = None,
        key: str | None = None,
        comment: str | None = None,
        at: datetime | float | str | None = None,
        conversation: str | None = None,
    ) -> Call[Heard]:
        """Say one word about a decision.

        Parameters
        ----------
        decision_id : str or None
            None: the word is about a conversation.
        name : str
            "thumb" (a bool), "rating" and "judge" (0 to 1), "comment" (a text), or a metric of the
            router's settings.
        value : bool, float, str or None
            None revokes what the same source said under the same name.
        source : str, optional
            Who says so; by default the decision's user.
        key : str, optional
            Idempotency key, unique per decision; by default one of this call's own. Give one where the
            same word may be said in two calls.
        comment : str, optional
        at : datetime, float or str, optional
            When it was said (with a zone, in seconds since 1970, or as RFC 3339 has it); the latest word
            of a source wins.
        conversation : str, optional
            Instead of `decision_id`: the conversation whose draw this is about.

        Raises
        ------
        UnknownDecisionError
            No such decision or conversation.
        ConflictError
            The same key came with another body.
        AccessError
            The key may not say this.
        LogUnavailableError
            It could not be made durable; nothing was counted.
        TypeError, ValueError
            A malformed argument.
        """
        said = _word({
            "decision_id": decision_id, "name": name, "value": value, "source": source, "key": key,
            "comment": comment, "at": at, "conversation": conversation,
        })  # fmt: skip
        return Call(method="POST", path="/v1/feedback", read=read_heard, body=said)

    def feedback_batch(self, words: Sequence[Word]) -> Call[list[Heard | Exception]]:
        """Say many words at once, up to 1,000.

        Returns
        -------
        list of Heard or Exception
            One for each word, in their order: what `feedback` would return or raise.
        """
        items = [_word({**word}) for word in words]
        return Call(method="POST", path="/v1/feedback/batch", read=_read_batch, body={"items": items})

    def retract(self, feedback_id: str) -> Call[None]:
        """Take one word back: its evidence is subtracted, and nothing said before it returns.

        Raises
        ------
        UnknownFeedbackError
            No such feedback.
        """
        path = f"/v1/feedback/{_step('feedback_id', feedback_id)}"
        return Call(method="DELETE", path=path, read=_read_nothing)

    def decision(self, decision_id: str) -> Call[Told]:
        """Ask for the whole story of a decision: candidates, prompt, outcome, feedback, reward.

        Raises
        ------
        UnknownDecisionError
            No such decision.
        """
        path = f"/v1/decisions/{_step('decision_id', decision_id)}"
        return Call(method="GET", path=path, read=read_told)

    def forget_user(self, user: str) -> Call[Forgotten]:
        """Erase a user from all routers, and what was learnt from them.

        Returns
        -------
        Forgotten
            How many rows of each kind were erased; none the second time, also where only the first
            answer was lost on the way.
        """
        path = f"/v1/users/{_step('user', user)}"
        return Call(method="DELETE", path=path, read=_read_forgotten)

    def beliefs(self) -> Call[dict[str, Belief]]:
        """Ask what is believed of each model."""
        return Call(method="GET", path=f"{self._path}/beliefs", read=read_beliefs)

    def put_model(self, model: Model, *, reset: bool = False) -> Call[None]:
        """Add a model, change it, or resume a retired one; with `reset` it starts without its evidence."""
        said = {**model_to_json(model), "reset": reset}
        name = said.pop("name")
        path = f"{self._path}/models/{_step('model', name)}"
        return Call(method="PUT", path=path, read=_read_nothing, body=said)

    def retire_model(self, name: str) -> Call[None]:
        """Take a model out of the choice; it keeps its evidence.

        Raises
        ------
        UnknownModelError
            No such active model.
        """
        path = f"{self._path}/models/{_step('model', name)}"
        return Call(method="DELETE", path=path, read=_read_nothing)

    def configure(self, **settings: Unpack[SettingsArguments]) -> Call[Settings]:
        """Change settings, live on every worker; what is not named stays.

        Parameters
        ----------
        **settings
            As `Settings`.

        Raises
        ------
        SettingsError, ValueError
            No such setting, or a bad value.
        """
        given: dict[str, Any] = {**settings}  # Any: of each setting's own type
        said = Settings().with_changes(given, now=0.0).to_json()
        body = {name: said[name] for name in (_IN_SECONDS.get(name, name) for name in given)}
        return Call(method="PUT", path=self._path, read=_read_settings, body=body)


def _given(said: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    return {name: value for name, value in said.items() if value is not None}


def _names(models: Collection[str]) -> list[str]:
    if isinstance(models, str):
        raise TypeError("models: expected a list of names, got str")
    return sorted(models)


def _step(what: str, name: str) -> str:
    """One step of a path; also a name like "..", which would else be a step back."""
    return quote(check_name(what, name).encode(errors="replace"), safe="").replace(".", "%2E")


def _header(what: str, value: str) -> str:
    if not check_name(what, value).isascii() or value != value.strip():
        raise ValueError(f"{what}: expected ASCII without spaces around it, got {value!r:.60}")
    return value


def _word(said: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    """The body of one word: with a key of its own, so that it counts once however often it is sent."""
    if isinstance(at := said.get("at"), datetime):
        said["at"] = at.isoformat()
    if said.get("key") is None:
        said["key"] = new_id()
    return _given(said) | {"value": said["value"]}  # null says something


def _read_reported(body: Json) -> Reported:
    return picked(Reported, body)


def _read_batch(body: Json) -> list[Heard | Exception]:
    return [problem_error(item) if "error" in item else read_heard(item) for item in body["results"]]


def _read_forgotten(body: Json) -> Forgotten:
    return picked(Forgotten, body)


def _read_settings(body: Json) -> Settings:
    known = {field.name for field in fields(Settings)} | {*_IN_SECONDS.values()}
    return Settings.from_json({name: value for name, value in body["settings"].items() if name in known})


def _read_nothing(_: object) -> None:
    return None
