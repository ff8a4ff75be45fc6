"""A do-nothing service: FastAPI reads the bodies of decisions and feedback, and answers as much as we do.

``python floor.py PORT`` serves it with uvicorn, one worker.
"""

# No late annotations here: FastAPI must see the bodies.

import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=256)]


class DecisionBody(BaseModel):
    """As the service's."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    router: Name | None = None
    models: list[Name] | None = None
    max_cost_usd: Annotated[float, Field(ge=0)] | None = None
    preference: dict[str, float] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    user: Name | None = None
    conversation: Name | None = None
    tags: dict[Name, Name] | None = None


class CandidateAnswer(BaseModel):
    """As the service's."""

    model: str
    probability: float
    mean: float
    std: float
    cost_usd: float | None
    latency_s: float | None


class DecisionAnswer(BaseModel):
    """As the service's."""

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


class FeedbackBody(BaseModel):
    """As the service's."""

    model_config = ConfigDict(extra="forbid")

    decision_id: Name | None = None
    conversation: Name | None = None
    name: Name
    value: bool | float | str | None
    comment: str | None = None
    at: float | str | None = None
    source: Name | None = None
    key: Name | None = None


class FeedbackAnswer(BaseModel):
    """As the service's; it has no reward to tell."""

    id: str
    decision_id: str
    name: str
    value: bool | float | str | None
    duplicate: bool
    applied: bool
    reward: dict[str, float] | None = None


app = FastAPI()
ID = "0192d3a0-0000-7000-8000-000000000000"


@app.post("/v1/decisions")
async def decide(
    body: DecisionBody, idempotency_key: Annotated[str | None, Header()] = None
) -> DecisionAnswer:
    """Answer as long a body as a decision has."""
    shared = {"probability": 0.25, "mean": 0.5, "std": 0.1, "cost_usd": 0.001, "latency_s": 0.0}
    candidates = [CandidateAnswer(model=name, **shared) for name in ("a", "b", "c", "d")]
    return DecisionAnswer(
        id=ID,
        router="default",
        model="a",
        probability=0.25,
        reason="explore",
        policy="thompson",
        candidates=candidates,
        conversation=body.conversation,
        feedback_token="x" * 120,
        duplicate=False,
    )


@app.post("/v1/feedback")
async def hear(
    body: FeedbackBody, idempotency_key: Annotated[str | None, Header()] = None
) -> FeedbackAnswer:
    """Answer as long a body as a word of feedback has."""
    said = body.model_dump(include={"decision_id", "name", "value"})
    return FeedbackAnswer(id=ID, **said, duplicate=False, applied=True)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
