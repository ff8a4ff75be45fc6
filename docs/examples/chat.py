"""A chat backend that learns which model to ask: choose, stream, report, and thumbs from the browser.

Run it with ``python docs/examples/chat.py`` and open http://127.0.0.1:8000. The models are mocks.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI
from fastapi.responses import FileResponse, StreamingResponse

from bandit_router import Decision, Model, Outcome, Router
from feedback.api import feedback_router, token_holder
from feedback.tokens import LIFETIME, Token

PAGE = Path(__file__).with_name("page.html")
MODELS = [
    Model("small", input_usd_per_mtok=0.15, output_usd_per_mtok=0.60),
    Model("large", input_usd_per_mtok=2.50, output_usd_per_mtok=10.0),
]
SAYINGS = {
    "small": "In short: {}? It depends.",
    "large": "You ask: {}? There is more than one way to look at it. Let us take it step by step.",
}
Messages = Annotated[list[dict[str, str]], Body(min_length=1)]


async def mock_model(model: str, messages: Messages) -> AsyncIterator[str]:
    """Stream an answer word by word, as a model's API does."""
    for word in SAYINGS[model].format(messages[-1]["content"].strip(" ?!.")).split():
        await asyncio.sleep(0.05)
        yield f"{word} "


def create_app(log: str = "sqlite:///example.db", *, secret: bytes | None = None) -> FastAPI:
    """Return the backend. Its workers share the log, and the secret that signs feedback tokens."""
    secret = secret or secrets.token_bytes(32)
    router = Router.open(log, models=MODELS)
    reports: set[asyncio.Task[object]] = set()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with router:
            yield
            await asyncio.gather(*reports)

    app = FastAPI(title="chat", lifespan=lifespan)
    # Thumbs come straight from the browser: its token allows it to rate this one answer, and no more.
    app.include_router(feedback_router(router, caller=token_holder(secret)))

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.post("/chat")
    async def chat(messages: Messages) -> StreamingResponse:
        user = "user:1"  # whoever is signed in
        decision = await router.achoose(messages, user=user)
        ends = int(time.time() + LIFETIME.total_seconds())
        headers = {
            "x-router-decision-id": decision.id,
            "x-router-model": decision.model,
            "x-feedback-token": Token(decision_id=decision.id, ends=ends, user=user).sign(secret),
        }
        return StreamingResponse(answer(decision, messages), headers=headers, media_type="text/plain")

    async def answer(decision: Decision, messages: Messages) -> AsyncIterator[str]:
        began, times, words, error = time.monotonic(), [], [], "cut short"
        try:
            async for word in mock_model(decision.model, messages):
                times.append(time.monotonic() - began)
                words.append(word)
                yield word
            error = ""
        finally:  # in a task of its own: when the reader leaves, whatever is awaited here is cancelled
            outcome = Outcome(
                output_tokens=len(words),  # as the model's API counts them
                latency_s=time.monotonic() - began,
                ttft_s=times[0] if times else None,
                error=error or None,
            )
            report = asyncio.create_task(router.areport(decision.id, outcome, answer="".join(words)))
            reports.add(report)
            report.add_done_callback(reports.discard)

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
