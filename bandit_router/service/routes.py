"""Decisions and outcomes: ``/v1/decisions``, ``/v1/outcomes``."""

# No late annotations here: FastAPI must see dependencies that are arguments of the enclosing function.

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bandit_router.answers import AnswerRoute, RefusedError, arguments, errors
from bandit_router.bodies import Amount, Body, Count, Name, Text, either
from bandit_router.events import Candidate, Decision, Outcome, Reward
from bandit_router.log.deciding import Said, Story
from bandit_router.preference import Preference
from bandit_router.router import Router
from bandit_router.service.auth import needs, who
from bandit_router.service.desk import Desk
from bandit_router.service.limits import Limiter
from bandit_router.values import TAG_LIMIT, utc
from feedback.api import Caller
from feedback.tokens import LIFETIME, Token

_AS_GIVEN = ("models", "max_cost_usd", "max_tokens", "user", "conversation", "tags")
LONG = 50_000  # bytes of a body whose features take too long for the event loop


class PreferenceBody(Body):
    """What a cost unit and a second are worth, and how much quality may be given up for them."""

    price_weight: Amount = 0.0
    latency_weight: Amount = 0.0
    max_quality_drop: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="below the best model's predicted quality for this prompt; null gives up any"
    )


class DecisionBody(Body):
    """A request to be routed: a prompt, or the messages of a conversation."""

    model_config = ConfigDict(json_schema_extra=either("prompt", "messages"))

    prompt: Text | None = None
    messages: list[dict[str, Any]] | None = Field(None, min_length=1)  # Any: OpenAI's messages
    router: Name | None = None
    models: list[Name] | None = Field(None, min_length=1)
    preference: PreferenceBody | None = None
    max_cost_usd: Amount | None = None
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    user: Name | None = None
    conversation: Name | None = None
    tags: dict[Name, Name] | None = Field(None, max_length=TAG_LIMIT)


class OutcomeBody(Body):
    """How the call went."""

    decision_id: Name
    model: Name | None = Field(None, description="that served, where it is not the one drawn")
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Amount | None = None
    latency_s: Amount | None = None
    ttft_s: Amount | None = None
    error: Text | None = None
    answer: Text | None = None


class CandidateAnswer(BaseModel):
    """What the router thought of one eligible model."""

    model: str
    probability: float
    mean: float
    std: float
    cost_usd: float | None
    latency_s: float | None


class DecisionAnswer(BaseModel):
    """Which model serves, and exactly how likely that was."""

    id: str
    router: str
    model: str
    probability: float
    reason: str
    policy: str
    candidates: list[CandidateAnswer]
    conversation: str | None
    feedback_token: str
    duplicate: bool


class OutcomeAnswer(BaseModel):
    """What the call cost [USD], where that is known."""

    decision_id: str
    cost_usd: float | None
    duplicate: bool


class OutcomeStory(BaseModel):
    """The outcome that counts."""

    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    latency_s: float | None
    ttft_s: float | None
    error: str | None


class FeedbackStory(BaseModel):
    """One word, and whether it was taken back."""

    id: str
    name: str
    value: bool | float | str | None
    source: str | None
    at: str
    key: str | None
    comment: str | None
    applied: bool
    retracted: bool


class RewardStory(BaseModel):
    """What was made of all that is known."""

    value: float
    weight: float


class StoryAnswer(BaseModel):
    """All that is known of one decision."""

    id: str
    router: str
    model: str
    probability: float
    reason: str
    policy: str
    features_version: str
    at: str
    candidates: list[CandidateAnswer]
    user: str | None
    conversation: str | None
    tags: dict[str, str]
    prompt: Any  # a text, messages, or null where none is kept
    answer: str | None
    outcome: OutcomeStory | None
    feedback: list[FeedbackStory]
    reward: RewardStory | None
    revisions: list[RewardStory | None]


_HEADERS = {
    "x-router-decision-id": "the decision's id",
    "x-router-model": "the model drawn, percent-encoded where it is not ASCII",
    "x-router-probability": "of that model",
    "x-router-reason": "why it was drawn",
    "x-router-overhead-ms": "what routing took [ms]",
}


def decision_routes(desk: Desk, limiter: Limiter) -> APIRouter:
    """Return the routes by which models are chosen and outcomes reported."""
    api = APIRouter(route_class=AnswerRoute, tags=["decisions"], dependencies=[needs("route")])
    headers = {
        name: {"description": said, "schema": {"type": "string"}} for name, said in _HEADERS.items()
    }

    @api.post(
        "/v1/decisions",
        responses={
            200: {"headers": headers},
            **errors(404, 409, 415, 422, 429),
        },
    )
    async def choose(
        body: DecisionBody,
        request: Request,
        response: Response,
        caller: Annotated[Caller, Depends(who)],
        idempotency_key: Annotated[Name | None, Header()] = None,
    ) -> DecisionAnswer:
        """Pick a model for a request."""
        began = time.perf_counter()
        await limiter.check(caller, "decisions", user=body.user)
        router, long = await desk.router(body.router), len(await request.body()) > LONG
        decision = await _choose(router, body, key=idempotency_key, long=long)
        desk.remember(decision.id, decision.router)
        token = await _token(desk, decision)
        response.headers.update(_headers(decision, time.perf_counter() - began))
        return _decision_answer(decision, token)

    @api.post("/v1/outcomes", responses=errors(404, 415, 422))
    async def report(body: OutcomeBody) -> OutcomeAnswer:
        """Tell how the call went; a second, different outcome replaces the first."""
        router = (await desk.of_decisions([body.decision_id]))[body.decision_id]
        given = body.model_dump(exclude={"decision_id", "answer"})
        with arguments():
            reported = await router.areport(body.decision_id, Outcome(**given), answer=body.answer)
        return OutcomeAnswer(**asdict(reported))

    @api.get("/v1/decisions/{decision_id}", responses=errors(404, 422))
    async def decision(decision_id: Annotated[Name, Path()]) -> StoryAnswer:
        """Tell the whole story of a decision."""
        router = (await desk.of_decisions([decision_id]))[decision_id]
        return _story_answer(await asyncio.to_thread(router.decision, decision_id))

    return api


async def _choose(router: Router, body: DecisionBody, *, key: str | None, long: bool) -> Decision:
    if (body.prompt is None) == (body.messages is None):
        raise RefusedError(
            "invalid_value", "prompt: expected either a prompt or messages", param="prompt"
        )
    asked = body.prompt if body.messages is None else body.messages
    given = body.preference
    options = body.model_dump(include={*_AS_GIVEN})
    options |= {"key": key, "preference": None if given is None else Preference(**given.model_dump())}
    with arguments(model="models"):
        if long:
            return await asyncio.to_thread(router.choose, asked, **options)
        return await router.achoose(asked, **options)


async def _token(desk: Desk, decision: Decision) -> str:
    """A token by which the decision's user may say how the answer was."""
    sight = await desk.sight()
    ends = int(desk.clock() + LIFETIME.total_seconds())
    return Token(decision_id=decision.id, ends=ends, user=decision.user).sign(sight.secrets[0])


def _headers(decision: Decision, took_s: float) -> dict[str, str]:
    values = (
        decision.id,
        decision.model if decision.model.isascii() else quote(decision.model, safe="/:"),
        f"{decision.probability:.6g}",
        decision.reason,
        f"{took_s * 1000:.3f}",
    )
    return dict(zip(_HEADERS, values, strict=True))


def _decision_answer(decision: Decision, token: str) -> DecisionAnswer:
    return DecisionAnswer(**_shared(decision), feedback_token=token, duplicate=decision.duplicate)


def _shared(decision: Decision) -> dict[str, Any]:  # Any: a value of each field's own type
    names = ("id", "router", "model", "probability", "reason", "policy", "conversation")
    candidates = [_candidate_answer(candidate) for candidate in decision.candidates]
    return {name: getattr(decision, name) for name in names} | {"candidates": candidates}


def _candidate_answer(candidate: Candidate) -> CandidateAnswer:
    return CandidateAnswer(
        model=candidate.model,
        probability=candidate.probability,
        mean=candidate.mean,
        std=candidate.std,
        cost_usd=candidate.cost_usd,
        latency_s=candidate.latency_s,
    )


def _story_answer(story: Story) -> StoryAnswer:
    decision = story.decision
    return StoryAnswer(
        **_shared(decision),
        features_version=decision.features_version,
        at=utc(decision.at).isoformat(),
        user=decision.user,
        tags=dict(decision.tags),
        prompt=story.prompt,
        answer=story.answer,
        outcome=None if story.outcome is None else OutcomeStory(**asdict(story.outcome)),
        feedback=[_feedback_story(said) for said in story.feedback],
        reward=_reward_story(story.reward),
        revisions=[_reward_story(revision) for revision in story.revisions],
    )


def _feedback_story(said: Said) -> FeedbackStory:
    word = said.feedback
    return FeedbackStory(
        id=word.id,
        name=word.name,
        value=word.value,
        source=word.source,
        at=utc(word.at).isoformat(),
        key=word.key,
        comment=word.comment,
        applied=word.applied,
        retracted=said.retracted,
    )


def _reward_story(reward: Reward | None) -> RewardStory | None:
    return None if reward is None else RewardStory(value=reward.value, weight=reward.weight)
