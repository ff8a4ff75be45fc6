"""`create_app`: the service as an ASGI app."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandit_router import __version__
from bandit_router.answers import answer_to
from bandit_router.config import Config
from bandit_router.errors import BanditRouterError, ClosedError
from bandit_router.log.patience import within
from bandit_router.service.admin import admin_routes
from bandit_router.service.alarms import Watch
from bandit_router.service.auth import Guard, who
from bandit_router.service.desk import Desk
from bandit_router.service.health import Checkup, health_routes
from bandit_router.service.limits import Limiter
from bandit_router.service.logs import Logged
from bandit_router.service.metrics import Meter, Metered, Sampler, metrics_routes, shared_folder
from bandit_router.service.receiving import Whole
from bandit_router.service.routes import decision_routes
from bandit_router.service.tracing import Traced, start_tracing
from feedback.api import BATCH_LIMIT, BATCH_PATH, TOGETHER, feedback_router
from feedback.comparing import comparison_router
from feedback.thresholds import thresholds_from_json

logger = logging.getLogger(__name__)


def create_app(config: Config, *, loopback: bool = False) -> FastAPI:
    """Return the service; what it needs is opened when it starts, and drained when it ends.

    Parameters
    ----------
    config : Config
    loopback : bool
        The server listens on a loopback address only: then no key is needed while the log has none.

    Examples
    --------
    >>> app = create_app(Config(log="sqlite://"))
    >>> "/v1/decisions" in app.openapi()["paths"]
    True
    """
    meter = Meter()
    desk = Desk(config, loopback=loopback, open_router=meter.open_router)
    thresholds = thresholds_from_json(config.alarms)
    watch = Watch(desk, thresholds=thresholds, folder=shared_folder(), words=meter.words)
    checkup = Checkup(desk, alarms=watch.alarms)
    tracer = start_tracing(config.tracing)
    limiter = Limiter.of(config, counted=meter.refused)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await desk.open()
        sampling = asyncio.create_task(Sampler(desk, meter, checkup, watch).run())
        watch.start()
        try:
            async with _judging(desk, config):
                yield
        finally:
            sampling.cancel()
            await asyncio.to_thread(watch.stop)
            await limiter.aclose()
            await desk.aclose()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    app = FastAPI(title="bandit-router", version=__version__, lifespan=lifespan)
    app.state.desk, app.state.watch = desk, watch
    for routes in _routes_of(desk, limiter):
        app.include_router(routes)
    for routes in (health_routes(desk, checkup), metrics_routes(meter)):
        app.include_router(routes)
    for kind in (HTTPException, RequestValidationError, BanditRouterError, Exception):
        app.add_exception_handler(kind, _answer)
    service = config.service
    app.add_middleware(_InTime, within_s=config.log_timeout_s - desk.sight_s)
    app.add_middleware(Whole, limit=service.body_bytes, within_s=service.receive_s)
    app.add_middleware(Guard, desk=desk, limiter=limiter)
    if service.cors:
        app.add_middleware(_FeedbackPages, origins=service.cors)
    app.add_middleware(Ended)
    app.add_middleware(Metered, meter=meter)
    if tracer is not None:
        app.add_middleware(Traced, tracer=tracer)
    app.add_middleware(Logged, lines=service.access_log)
    return app


def _routes_of(desk: Desk, limiter: Limiter) -> tuple[APIRouter, ...]:
    doors = (feedback_router, comparison_router)
    spoken = (door(desk, caller=who, limiter=limiter) for door in doors)
    return decision_routes(desk, limiter), *spoken, admin_routes(desk)


@asynccontextmanager
async def _judging(desk: Desk, config: Config) -> AsyncIterator[None]:
    """Let the judge that is configured grade beside the requests, in a thread of its own."""
    if not config.judge:
        yield
        return
    from feedback.judge import Judge, judge_settings_from_json

    judge = Judge(await desk.router(), judge_settings_from_json(config.judge))
    judge.start()
    try:
        yield
    finally:
        await asyncio.to_thread(judge.stop)


async def _answer(_: Request, error: Exception) -> Response:
    return answer_to(error)


class _InTime:
    """Lets a request, once it is there whole, wait for the log only so long, all in all.

    A batch has as long for each of its parts.
    """

    def __init__(self, app: ASGIApp, *, within_s: float) -> None:
        self._app, self._within_s = app, within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":  # a life lasts longer, and what is begun in it
            await self._app(scope, receive, send)
            return
        parts = BATCH_LIMIT // TOGETHER if scope["path"] == BATCH_PATH else 1  # each has its own time
        with within(parts * self._within_s):
            await self._app(scope, receive, send)


class Ended:
    """Answers 503 to requests that a server which ends no longer waits for, lest they hear of an error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, told)
        except asyncio.CancelledError:
            if begun or scope["type"] != "http":
                raise
            closing = ClosedError("the service is closing: try again, with the same key")
            await answer_to(closing)(scope, receive, send)


class _FeedbackPages:
    """Lets pages of other origins post feedback, and nothing else."""

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...]) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        feedback = scope["type"] == "http" and scope["path"].startswith("/v1/feedback")
        await (self._open if feedback else self._app)(scope, receive, send)
