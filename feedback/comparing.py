"""``POST /v1/comparisons``: of two answers to one question somebody prefers one."""

# No late annotations here: FastAPI must see dependencies that are arguments of the enclosing function.

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel, Field

from bandit_router.answers import AnswerRoute, RefusedError, arguments, errors
from bandit_router.bodies import Body, Name, Text
from bandit_router.rewards import COMMENT_LIMIT
from bandit_router.router import Router
from feedback.api import (
    Caller,
    FeedbackAnswer,
    Finder,
    Limiter,
    Moment,
    Only,
    TokenPace,
    answer_of,
    anybody,
    check_all,
    check_speaks,
    one_key,
    speaks_as,
    status_of,
)


class ComparisonBody(Body):
    """Which of two answers is the better one."""

    winner: Name = Field(description="a decision's id")
    loser: Name = Field(description="another's, made by the same router")
    tie: bool = Field(False, description="neither is better")
    comment: Annotated[Text, Field(max_length=COMMENT_LIMIT)] | None = None
    source: Name | None = Field(None, description="who says so; by default the decisions' users")
    key: Name | None = Field(None, description="idempotency key, unique for each of the decisions")
    at: Moment | None = Field(None, description="when it was said; by default now")


class ComparisonAnswer(BaseModel):
    """One word about each side, as both were recorded."""

    winner: FeedbackAnswer
    loser: FeedbackAnswer


def comparison_router(
    where: Router | Finder,
    *,
    caller: Callable[..., Caller | Awaitable[Caller]] = anybody,
    limiter: Limiter | None = None,
) -> APIRouter:
    """Return the route through which comparisons come; the arguments are those of `feedback_router`.

    The holder of a feedback token may not compare: a token is about one decision.

    Examples
    --------
    >>> from bandit_router import Model, Router
    >>> with Router.open("sqlite://", models=[Model("small")]) as router:
    ...     [route.path for route in comparison_router(router).routes]
    ['/v1/comparisons']
    """
    finder = Only(where) if isinstance(where, Router) else where
    counting = TokenPace() if limiter is None else limiter
    api = APIRouter(route_class=AnswerRoute, tags=["feedback"])

    @api.post(
        "/v1/comparisons",
        responses={
            202: {"model": ComparisonAnswer, "description": "Durable, and applied by itself later."},
            **errors(404, 409, 415, 422, 429),
        },
    )
    async def compare(
        body: ComparisonBody,
        response: Response,
        speaker: Annotated[Caller, Depends(caller)],
        idempotency_key: Annotated[Name | None, Header()] = None,
    ) -> ComparisonAnswer:
        """Hear which of two answers is the better one: a word about each, both or neither."""
        source = _source(body, speaker)
        key = one_key(body.key, idempotency_key)
        check_all(await counting.refusals(speaker, [source, source]))
        router = (await finder.of_decisions({body.winner, body.loser}))[body.winner]
        with arguments():
            both = await router.acompare(
                body.winner,
                body.loser,
                tie=body.tie,
                source=source,
                key=key,
                comment=body.comment,
                at=body.at,
                channel=speaker.channel,
            )
        response.status_code = max(map(status_of, both))
        winner, loser = map(answer_of, both)
        return ComparisonAnswer(winner=winner, loser=loser)

    return api


def _source(body: ComparisonBody, speaker: Caller) -> str | None:
    """In whose name a caller compares."""
    if speaker.token is not None:
        raise RefusedError("not_allowed", "a feedback token is about one decision")
    check_speaks(speaker)
    if not speaker.may("feedback"):
        raise RefusedError("not_allowed", "this key may grade, and not compare")
    return speaks_as(speaker, body.source)
