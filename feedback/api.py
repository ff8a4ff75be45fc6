"""``POST /v1/feedback`` and its kin: a router of FastAPI's that any app can mount.

In a product's own backend, over an embedded router::

    app.include_router(feedback_router(router), dependencies=[Depends(signed_in)])
"""

# No late annotations here: FastAPI must see dependencies that are arguments of the enclosing function.

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Header, Path, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from bandit_router.answers import (
    AnswerRoute,
    Problem,
    RefusedError,
    arguments,
    errors,
    problem_of,
)
from bandit_router.bodies import Body, Name, Text, either
from bandit_router.errors import BanditRouterError
from bandit_router.events import Feedback
from bandit_router.pseudonyms import Pseudonym
from bandit_router.rewards import COMMENT_LIMIT, Channel
from bandit_router.router import Router
from feedback.pace import Pace
from feedback.tokens import MAY_SAY, Token, TokenError, read_token

BATCH_LIMIT = 1_000  # items of one batch
BATCH_PATH = "/v1/feedback/batch"
TOGETHER = 100  # of them that are heard at a time
TOKEN_WORDS, TOKEN_PERIOD_S = 30, 60.0  # how much the holder of one token may say


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: what a key allows, or the holder of a feedback token.

    Parameters
    ----------
    scopes : frozenset of str
        ``route``, ``feedback``, ``admin`` (which may all), ``judge`` (which may grade).
    source : str, optional
        The one in whose name the caller speaks, and whose words the caller may retract; without it the
        body names whom it likes.
    token : Token, optional
        Its holder may do nothing but speak about one decision.
    key_id : str, optional
        The key through which the caller comes.
    influence : float, optional
        How much all words through that key count at a time [full observations]; None is any amount.
    """

    scopes: frozenset[str] = frozenset()
    source: str | None = None
    token: Token | None = None
    key_id: str | None = None
    influence: float | None = None

    def may(self, *scopes: str) -> bool:
        """Whether one of these scopes is the caller's."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    @property
    def channel(self) -> Channel | None:
        """What all who speak through the caller's key may count for together; None where that has no bound."""
        if self.key_id is None or self.influence is None:
            return None
        return Channel(name=self.key_id, influence=self.influence, vouches=self.may("route"))


class Finder(Protocol):
    """Where feedback finds the router that it is about."""

    async def of_decisions(self, decision_ids: Collection[str]) -> Mapping[str, Router]:
        """Return the router of each decision; also of those that nobody has."""
        ...

    async def of_conversation(self, conversation: str) -> Router:
        """Return the router that had the latest turn of a conversation."""
        ...

    async def of_feedback(self, feedback_id: str) -> Router:
        """Return the router that took a word in."""
        ...


class Only:
    """A `Finder` over one embedded router."""

    def __init__(self, router: Router) -> None:
        self.router = router

    async def of_decisions(self, decision_ids: Collection[str]) -> Mapping[str, Router]:
        """As `Finder`."""
        return dict.fromkeys(decision_ids, self.router)

    async def of_conversation(self, conversation: str) -> Router:
        """As `Finder`."""
        return self.router

    async def of_feedback(self, feedback_id: str) -> Router:
        """As `Finder`."""
        return self.router


class Limiter(Protocol):
    """Says who speaks too much."""

    async def refusals(
        self, speaker: Caller, sources: Sequence[str | None]
    ) -> Sequence[RefusedError | None]:
        """Count words of these sources, one after another; return for each why it is refused, or None."""
        ...


class TokenPace:
    """A `Limiter` of one process: the holder of a token may say so much in a minute, others without end."""

    def __init__(self) -> None:
        self._pace = Pace(TOKEN_WORDS, TOKEN_PERIOD_S)

    async def refusals(
        self, speaker: Caller, sources: Sequence[str | None]
    ) -> Sequence[RefusedError | None]:
        """As `Limiter`."""
        if speaker.token is None:
            return [None] * len(sources)
        return [self._refusal(speaker.token.decision_id) for _ in sources]

    def _refusal(self, holder: str) -> RefusedError | None:
        wait = self._pace.wait_s(holder)
        said = f"a feedback token may speak {TOKEN_WORDS} times in {TOKEN_PERIOD_S:g} s"
        return RefusedError("too_many_requests", said, retry_after_s=math.ceil(wait)) if wait else None


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("expected true, false, a number, a text or null")


def _moment(value: object) -> object:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise ValueError("expected a time as RFC 3339 has it, or seconds since 1970")


Value = Annotated[Any, BeforeValidator(_plain), WithJsonSchema({"anyOf": [
    {"type": "boolean"}, {"type": "number"}, {"type": "string", "maxLength": COMMENT_LIMIT},
    {"type": "null"},
]})]  # fmt: skip
Moment = Annotated[Any, BeforeValidator(_moment), WithJsonSchema({"anyOf": [
    {"type": "string", "format": "date-time"}, {"type": "number"},
]})]  # fmt: skip


class FeedbackBody(Body):
    """One word about a decision, or about the decision that a conversation holds to."""

    model_config = ConfigDict(json_schema_extra=either("decision_id", "conversation"))

    decision_id: Name | None = None
    conversation: Name | None = None
    name: Name = Field(description="thumb, rating, judge, comment, or a metric of the router's own")
    value: Value = Field(description="of the metric's own type; null revokes")
    comment: Annotated[Text, Field(max_length=COMMENT_LIMIT)] | None = None
    source: Name | None = Field(None, description="who says so; by default the decision's user")
    key: Name | None = Field(None, description="idempotency key, unique for the decision")
    at: Moment | None = Field(None, description="when it was said; by default now")


class BatchBody(Body):
    """Many words at once; each is answered on its own."""

    items: Annotated[
        list[Any],  # Any: each is read on its own, so that a malformed one fails alone
        Field(max_length=BATCH_LIMIT),
        WithJsonSchema(
            {
                "type": "array",
                "maxItems": BATCH_LIMIT,
                "items": {"$ref": "#/components/schemas/FeedbackBody"},
            }
        ),
    ]


class RewardAnswer(BaseModel):
    """What is known of the decision: a reward in [0, 1], and how much it counts."""

    value: float
    weight: float


class FeedbackAnswer(BaseModel):
    """One word as it was recorded."""

    id: str
    decision_id: str
    name: str
    value: bool | float | str | None
    duplicate: bool
    applied: bool
    reward: RewardAnswer | None


class ItemAnswer(FeedbackAnswer):
    """What became of one item of a batch."""

    status: int


class ItemError(BaseModel):
    """Why one item of a batch was refused."""

    status: int
    error: Problem


class BatchAnswer(BaseModel):
    """One result for each item, in their order."""

    results: list[ItemAnswer | ItemError]


class RetractAnswer(BaseModel):
    """A word that was taken back."""

    id: str
    retracted: bool


async def anybody() -> Caller:
    """Whoever the host lets through: may say all but what a judge says."""
    return Caller(scopes=frozenset({"feedback"}))


def token_holder(
    *secrets: bytes, clock: Callable[[], float] = time.time
) -> Callable[..., Awaitable[Caller]]:
    """Return a `caller` for `feedback_router`: whoever holds a token that one of these secrets signed.

    Parameters
    ----------
    *secrets : bytes
        Those of `Token.sign`; an old one stays until what it signed has ended.
    clock : callable
        Returns seconds since 1970.
    """
    bearer = HTTPBearer(auto_error=False, description="A feedback token (brt1....).")

    async def holder(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> Caller:
        text = "" if given is None else given.credentials
        try:
            return Caller(token=read_token(text, secrets, now=clock()))
        except TokenError as error:
            raise RefusedError("invalid_key", str(error)) from error

    return holder


def feedback_router(
    where: Router | Finder,
    *,
    caller: Callable[..., Caller | Awaitable[Caller]] = anybody,
    limiter: Limiter | None = None,
) -> APIRouter:
    """Return the routes through which feedback comes, to be mounted in any FastAPI app.

    Parameters
    ----------
    where : Router or Finder
        An embedded router, or where to find the router that a decision belongs to.
    caller : callable
        A dependency of FastAPI's that says who calls. By default whoever the host lets through, who may
        say anything but what a judge says: mount the routes behind the host's own sign-in.
    limiter : Limiter, optional
        Says who speaks too much; by default a `TokenPace`.

    Examples
    --------
    >>> from bandit_router import Model, Router
    >>> with Router.open("sqlite://", models=[Model("small")]) as router:
    ...     [route.path for route in feedback_router(router).routes]
    ['/v1/feedback', '/v1/feedback/batch', '/v1/feedback/{feedback_id}']
    """
    finder = Only(where) if isinstance(where, Router) else where
    counting = TokenPace() if limiter is None else limiter
    api = APIRouter(route_class=AnswerRoute, tags=["feedback"])
    who = Depends(caller)

    @api.post(
        "/v1/feedback",
        responses={
            202: {"model": FeedbackAnswer, "description": "Durable, and applied by itself later."},
            **errors(404, 409, 415, 422, 429),
        },
    )
    async def feedback(
        body: FeedbackBody,
        response: Response,
        speaker: Annotated[Caller, who],
        idempotency_key: Annotated[Name | None, Header()] = None,
    ) -> FeedbackAnswer:
        """Hear one word about an answer."""
        word = _Word.of(body, speaker, key=idempotency_key)
        check_all(await counting.refusals(speaker, [word.source]))
        (router,) = await _routers_of(finder, [word])
        heard = await word.say_to(router, speaker)
        response.status_code = status_of(heard)
        return answer_of(heard)

    @api.post(BATCH_PATH, responses=errors(415, 422))
    async def batch(body: BatchBody, speaker: Annotated[Caller, who]) -> BatchAnswer:
        """Hear many words; each is answered on its own, in order."""
        check_speaks(speaker)
        words = await _counted([_read_item(item, speaker) for item in body.items], speaker, counting)
        good = [word for word in words if isinstance(word, _Word)]
        routers = iter(await _routers_of(finder, good))
        said: list[ItemAnswer | ItemError] = []
        for start in range(
            0, len(good), TOGETHER
        ):  # each part has the time that a request has for the log
            # They start in their order, and the log writes in the order of asking.
            part = good[start : start + TOGETHER]
            said += await asyncio.gather(*(_say(word, next(routers), speaker) for word in part))
        heard = iter(said)
        return BatchAnswer(results=[next(heard) if isinstance(word, _Word) else word for word in words])

    @api.delete("/v1/feedback/{feedback_id}", responses=errors(404, 409, 422))
    async def retract(
        feedback_id: Annotated[Name, Path()], speaker: Annotated[Caller, who]
    ) -> RetractAnswer:
        """Take one word back: its evidence is subtracted."""
        check_speaks(speaker)
        check_all(await counting.refusals(speaker, [speaker.source]))
        router = await finder.of_feedback(feedback_id)
        word = await asyncio.to_thread(router.find_feedback, feedback_id)
        _check_may_retract(router, speaker, word)
        await asyncio.to_thread(router.retract, feedback_id, channel=speaker.channel)
        return RetractAnswer(id=feedback_id, retracted=True)

    return api


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What a caller may say, ready for the router."""

    body: FeedbackBody
    source: str | None
    key: str | None
    channel: Channel | None

    @classmethod
    def of(cls, body: FeedbackBody, speaker: Caller, *, key: str | None = None) -> "_Word":
        """Check what a caller wants to say."""
        if (body.decision_id is None) == (body.conversation is None):
            raise _wrong("decision_id", "expected either a decision_id or a conversation")
        key = one_key(body.key, key)
        source = _source(body, speaker)
        return cls(body=body, source=source, key=key, channel=speaker.channel)

    async def say_to(self, router: Router, speaker: Caller) -> Feedback:
        """Let the router hear it from a caller."""
        body = self.body
        with arguments(**{body.name: "value"}):
            return await router.afeedback(
                body.decision_id,
                body.name,
                body.value,
                conversation=body.conversation,
                source=self.source,
                key=self.key,
                comment=body.comment,
                at=body.at,
                channel=self.channel,
            )


def _source(body: FeedbackBody, speaker: Caller) -> str | None:
    """In whose name a caller speaks."""
    if speaker.token is None:
        check_speaks(speaker)
        if not speaker.may("judge" if body.name == "judge" else "feedback"):
            raise RefusedError("not_allowed", f"this key may not say {body.name!r}", param="name")
        return speaks_as(speaker, body.source)
    if body.decision_id != speaker.token.decision_id:
        raise RefusedError("not_allowed", "the token is about another decision", param="decision_id")
    if body.name not in MAY_SAY:
        said = f"a feedback token may say {', '.join(MAY_SAY)}"
        raise RefusedError("not_allowed", said, param="name")
    if body.source is not None:
        raise RefusedError("not_allowed", "the token says who speaks", param="source")
    return Pseudonym(speaker.token.source)  # we have signed it: it is what the user is kept as


def one_key(body: str | None, header: str | None) -> str | None:
    """Return the idempotency key, which may stand in the body, in the header, or in both.

    Raises
    ------
    RefusedError
        They differ.
    """
    if header is not None and body is not None and header != body:
        raise _wrong("key", "expected the same as in the header Idempotency-Key")
    return body or header


def speaks_as(speaker: Caller, named: str | None) -> str | None:
    """Return in whose name the holder of a key speaks, where the body names somebody.

    Raises
    ------
    RefusedError
        The key speaks for another.
    """
    if speaker.source is not None and named not in (None, speaker.source):
        raise RefusedError("not_allowed", "the caller is another", param="source")
    return speaker.source or named


def check_speaks(speaker: Caller) -> None:
    """Raise RefusedError for a key that may neither speak nor grade."""
    if speaker.token is None and not speaker.may("feedback", "judge"):
        raise RefusedError("not_allowed", "expected a key with scope feedback")


def check_all(refusals: Sequence[RefusedError | None]) -> None:
    """Raise the first refusal."""
    for refusal in refusals:
        if refusal is not None:
            raise refusal


def _check_may_retract(router: Router, speaker: Caller, word: Feedback) -> None:
    if speaker.token is not None:
        source = router.kept_as(Pseudonym(speaker.token.source))
        own = (word.decision_id, word.source) == (speaker.token.decision_id, source)
    else:
        own = speaker.may("judge" if word.name == "judge" else "feedback")
        own = own and (speaker.source is None or router.kept_as(speaker.source) == word.source)
    if not own:
        raise RefusedError("not_allowed", "this feedback is another's to retract")


async def _routers_of(finder: Finder, words: Sequence[_Word]) -> list[Router]:
    """The router of each word, asked for all at once."""
    about = [(word.body.decision_id, word.body.conversation) for word in words]
    by_id = await finder.of_decisions({decision for decision, _ in about if decision is not None})
    talks = {talk for _, talk in about if talk is not None}
    by_talk = {talk: await finder.of_conversation(talk) for talk in talks}
    return [by_id[d] if d is not None else by_talk[str(talk)] for d, talk in about]


def _read_item(item: object, speaker: Caller) -> _Word | ItemError:
    try:
        return _Word.of(FeedbackBody.model_validate(item), speaker)
    except (BanditRouterError, ValidationError) as error:
        return _item_error(error)


async def _counted(
    words: Sequence[_Word | ItemError], speaker: Caller, limiter: Limiter
) -> list[_Word | ItemError]:
    """The words that may be said now; those that are too many are refused alone."""
    sources = [word.source for word in words if isinstance(word, _Word)]
    refusals = iter(await limiter.refusals(speaker, sources))
    return [
        _item_error(refusal)
        if isinstance(word, _Word) and (refusal := next(refusals)) is not None
        else word
        for word in words
    ]


async def _say(word: _Word, router: Router, speaker: Caller) -> ItemAnswer | ItemError:
    try:
        heard = await word.say_to(router, speaker)
    except BanditRouterError as error:
        return _item_error(error)
    return ItemAnswer(status=status_of(heard), **answer_of(heard).model_dump())


def _item_error(error: Exception) -> ItemError:
    status, problem = problem_of(error)
    return ItemError(status=status, error=problem)


def status_of(heard: Feedback) -> int:
    """Return 200 for what is in the beliefs, and 202 for what will be."""
    return 200 if heard.applied else 202


def answer_of(heard: Feedback) -> FeedbackAnswer:
    """Return one word as it is answered."""
    reward = heard.reward
    return FeedbackAnswer(
        id=heard.id,
        decision_id=heard.decision_id,
        name=heard.name,
        value=heard.value,
        duplicate=heard.duplicate,
        applied=heard.applied,
        reward=None if reward is None else RewardAnswer(value=reward.value, weight=reward.weight),
    )


def _wrong(field: str, message: str) -> RefusedError:
    return RefusedError("invalid_value", f"{field}: {message}", param=field)
