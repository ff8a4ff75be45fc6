"""A product's own backend: an embedded router, with the doors of feedback mounted beside its own routes.

Run it with ``uvicorn --factory host:create_host``, then ask and rate::

    curl -H 'x-user: ann' -H 'content-type: application/json' localhost:8000/chat -d '{"text": "Hello"}'
    curl -H 'x-user: ann' -H 'content-type: application/json' localhost:8000/v1/feedback \
         -d '{"decision_id": "...", "name": "thumb", "value": true}'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel

from bandit_router import Model, Outcome, Router
from feedback.api import Caller, feedback_router

MODELS = [Model("small", output_usd_per_mtok=0.60), Model("large", output_usd_per_mtok=10.0)]


class Question(BaseModel):
    """What a user asks."""

    text: str


async def signed_in(x_user: Annotated[str, Header()]) -> Caller:
    """Say who calls. A product looks at its own session here; a user speaks in no other's name."""
    return Caller(scopes=frozenset({"feedback"}), source=x_user)


def create_host(log: str = "sqlite:///host.db") -> FastAPI:
    """Return the backend."""
    router = Router.open(log, models=MODELS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with router:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(feedback_router(router, caller=signed_in))

    @app.post("/chat")
    async def chat(question: Question, user: Annotated[Caller, Depends(signed_in)]) -> dict[str, str]:
        decision = await router.achoose(question.text, user=user.source)
        answer = f"{decision.model} says: {question.text}!"  # here the model would be called
        await router.areport(decision.id, Outcome(output_tokens=len(answer) // 4), answer=answer)
        return {"answer": answer, "decision_id": decision.id}

    return app
