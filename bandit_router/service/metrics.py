"""``/metrics``: what this service does, counted over all workers, as Prometheus reads it."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Unpack

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandit_router import __version__
from bandit_router.answers import errors
from bandit_router.asking import ChooseArguments, FeedbackArguments, Messages
from bandit_router.errors import LogUnavailableError
from bandit_router.events import Decision, Feedback, FeedbackValue, Outcome
from bandit_router.log.hearing import Reported
from bandit_router.log.joining import join_counts
from bandit_router.router import Router
from bandit_router.service.auth import needs
from bandit_router.service.desk import Desk
from bandit_router.service.health import Checkup, ReadyAnswer

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where workers keep their counts, so that each can tell them all
PREFIX = "bandit_router"
OTHER = "other"  # stands for names that are not ours to bound
SAMPLE_S = 1.0  # how often what is not counted is measured
JOIN_S = 60.0  # how often the log is asked how many decisions have feedback
JOIN_AGE_S = 900.0  # decisions younger than that may still wait for their feedback
JOIN_NEWEST = 2_000
_METHODS = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"}
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PROCESS = {
    "resident_memory_bytes": "Resident memory [bytes].",
    "cpu_seconds": "Processor time [s].",
    "open_fds": "Open file descriptors.",
    "start_time_seconds": "When it began [s since 1970].",
}


class Meter:
    """Counts what one worker does, and tells what all of them did.

    Of several processes with the environment variable ``PROMETHEUS_MULTIPROC_DIR`` each keeps its counts in
    that folder, and tells the sums. Labels are names of routers, models and metrics that are configured,
    and templates of routes; everything else counts as "other".
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}_requests",
            "HTTP requests.",
            ("route", "method", "status"),
            registry=registry,
        )
        self.latency = Histogram(
            f"{PREFIX}_request_seconds",
            "Time from a request to the end of its answer [s].",
            ("route", "method"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.decisions = Counter(
            f"{PREFIX}_decisions",
            "Decisions made.",
            ("router", "model", "reason"),
            registry=registry,
        )
        self.feedback = Counter(
            f"{PREFIX}_feedback",
            "Words of feedback: applied, pending, duplicate, refused, or failed.",
            ("router", "name", "result"),
            registry=registry,
        )
        self.outcomes = Counter(
            f"{PREFIX}_outcomes", "Outcomes reported.", ("router",), registry=registry
        )
        self.up = self._gauge("up", "Whether log and store answer.", "livemin", "dependency")
        self.behind = self._gauge(
            "learning_behind_seconds",
            "Since when the beliefs of the slowest worker have not caught up with the log [s].",
            "livemax",
            "router",
        )
        self.newest = self._gauge(
            "newest_decisions",
            f"The newest decisions older than {JOIN_AGE_S:g} s, of which it is known who has feedback.",
            "livemax",
            "router",
        )
        self.joined = self._gauge(
            "newest_decisions_joined", "Those of them that have feedback.", "livemax", "router"
        )
        self._process = {
            name: self._gauge(f"process_{name}", f"{said}", "liveall") for name, said in _PROCESS.items()
        }
        self._gauge("info", "The program's version.", "livemax", "version").labels(__version__).set(1)

    def _gauge(self, name: str, said: str, mode: Any, *labels: str) -> Gauge:  # Any: one of a few words
        registry = self._registry
        return Gauge(f"{PREFIX}_{name}", said, labels, registry=registry, multiprocess_mode=mode)

    def measure(self, ready: ReadyAnswer) -> None:
        """Set what is measured rather than counted."""
        for name, part in (("log", ready.log), ("store", ready.store)):
            if part is not None:
                self.up.labels(name).set(part.ok)
        for name, learning in (ready.routers or {}).items():
            self.behind.labels(name).set(learning.behind_s)
        for family in ProcessCollector(namespace=PREFIX, registry=None).collect():
            for sample in family.samples:
                gauge = self._process.get(
                    sample.name.removeprefix(f"{PREFIX}_process_").removesuffix("_total")
                )
                if gauge is not None:
                    gauge.set(sample.value)

    def open_router(self, log: str, **arguments: Any) -> Router:  # Any: of `Router.open`
        """Open a router that is counted."""
        router = MeteredRouter.open(log, **arguments)
        assert isinstance(router, MeteredRouter)
        router.meter = self
        return router

    def told(self) -> bytes:
        """Return all that is known, as Prometheus reads it."""
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has none
        return generate_latest(registry)


class Metered:
    """Counts requests and how long they take, by the template of their route.

    Parameters
    ----------
    app : ASGI app
    meter : Meter
    """

    def __init__(self, app: ASGIApp, *, meter: Meter) -> None:
        self._app, self._meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # the client went before it was answered

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            status = 500
            raise
        finally:
            self._count(scope, status, time.perf_counter() - began)

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        route = getattr(scope.get("route"), "path", OTHER)
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        self._meter.requests.labels(route, method, status).inc()
        self._meter.latency.labels(route, method).observe(took_s)


class MeteredRouter(Router):
    """A router that counts what it decides and hears.

    Attributes
    ----------
    meter : Meter
        Set after opening.
    """

    meter: Meter

    def choose(self, prompt: Messages | None = None, **options: Unpack[ChooseArguments]) -> Decision:
        """As `Router.choose`."""
        return self._decided(super().choose(prompt, **options))

    async def achoose(
        self, prompt: Messages | None = None, **options: Unpack[ChooseArguments]
    ) -> Decision:
        """As `Router.achoose`."""
        return self._decided(await super().achoose(prompt, **options))

    async def areport(
        self, decision_id: str, outcome: Outcome, *, answer: str | None = None
    ) -> Reported:
        """As `Router.areport`."""
        reported = await super().areport(decision_id, outcome, answer=answer)
        if not reported.duplicate:
            self.meter.outcomes.labels(self._name).inc()
        return reported

    async def afeedback(
        self,
        decision_id: str | None,
        name: str,
        value: FeedbackValue,
        **options: Unpack[FeedbackArguments],
    ) -> Feedback:
        """As `Router.afeedback`."""
        with self._hearing(name):
            heard = await super().afeedback(decision_id, name, value, **options)
        self._heard(name, _result(heard))
        return heard

    @property
    def _name(self) -> str:
        return self._here().plan.router

    def _decided(self, decision: Decision) -> Decision:
        if not decision.duplicate:
            self.meter.decisions.labels(decision.router, decision.model, decision.reason).inc()
        return decision

    @contextmanager
    def _hearing(self, name: str) -> Iterator[None]:
        try:
            yield
        except LogUnavailableError:
            self._heard(name, "failed")
            raise
        except Exception:
            self._heard(name, "refused")
            raise

    def _heard(self, name: str, result: str) -> None:
        known = name if name in self.settings.metrics else OTHER
        self.meter.feedback.labels(self._name, known, result).inc()


def _result(heard: Feedback) -> str:
    if heard.duplicate:
        return "duplicate"
    return "applied" if heard.applied else "pending"


class Sampler:
    """Measures every few seconds what cannot be counted: dependencies, lag, memory, the join rate.

    Parameters
    ----------
    desk : Desk
    meter : Meter
    checkup : Checkup
    """

    def __init__(self, desk: Desk, meter: Meter, checkup: Checkup) -> None:
        self._desk, self._meter, self._checkup = desk, meter, checkup

    async def run(self) -> None:
        """Measure until cancelled."""
        join_at = 0.0
        while True:
            self._meter.measure(await self._checkup.ready())
            if time.monotonic() >= join_at:
                join_at = time.monotonic() + JOIN_S
                await self._join()
            await asyncio.sleep(SAMPLE_S)

    async def _join(self) -> None:
        before = self._desk.clock() - JOIN_AGE_S
        for name in self._desk.routers:
            count = partial(join_counts, router=name, before=before, newest=JOIN_NEWEST)
            try:
                newest, joined = await self._desk.read(count)
            except LogUnavailableError:
                return  # the gauge `up` tells
            self._meter.newest.labels(name).set(newest)
            self._meter.joined.labels(name).set(joined)


def metrics_routes(meter: Meter) -> APIRouter:
    """Return the route that Prometheus scrapes; with a key, as all others."""
    api = APIRouter(tags=["health"], dependencies=[needs("route", "admin")])

    @api.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
    )
    async def metrics() -> Response:
        """Tell what all workers did, as Prometheus reads it."""
        return Response(await asyncio.to_thread(meter.told), media_type=CONTENT_TYPE_LATEST)

    return api
