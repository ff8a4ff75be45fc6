"""``/metrics``: what this service does, counted over all workers, as Prometheus reads it."""

import asyncio
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
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
from bandit_router.errors import LogUnavailableError, UnknownDecisionError
from bandit_router.events import Decision, Feedback, FeedbackValue, Outcome
from bandit_router.log.hearing import Reported
from bandit_router.log.joining import join_counts
from bandit_router.router import Router
from bandit_router.service.alarms import Watch
from bandit_router.service.auth import needs
from bandit_router.service.desk import Desk
from bandit_router.service.health import Checkup, ReadyAnswer
from bandit_router.tracing import span
from feedback.health import Alarm
from feedback.standing import CODES, Standing
from feedback.vitals import Vitals

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
            "Words of feedback: applied, pending, duplicate, unknown (no such decision), refused, or failed.",
            ("router", "name", "result"),
            registry=registry,
        )
        self.limited = Counter(
            f"{PREFIX}_limited",
            "Calls, and words of feedback, that were one too many for a key, a user or a token.",
            ("kind", "whose"),
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
        self.alarm = self._gauge(
            "alarm",
            "Whether an alarm is raised (1); of no router: of the whole service.",
            "livemax",
            "router",
            "code",
        )
        self.alarms = self._gauge(
            "alarms", "How many alarms of a severity a worker raises.", "livemax", "severity"
        )
        self.journal = self._gauge(
            "journal", "What waits in workers' journals for the log.", "livesum", "of"
        )
        self.skew = self._gauge(
            "clock_skew_seconds", "How far this machine is ahead of a server [s].", "livemax", "server"
        )
        self.breaker = self._gauge(
            "breaker_open", "Whether nobody waits for a dependency any more.", "livemax", "dependency"
        )
        self.vital = self._gauge(
            "loop",
            "What the loop's alarms go by, of a sample of the latest decisions.",
            "livemax",
            "router",
            "figure",
        )
        self._process = {
            name: self._gauge(f"process_{name}", f"{said}", "liveall") for name, said in _PROCESS.items()
        }
        self._gauge("info", "The program's version.", "livemax", "version").labels(__version__).set(1)

    def _gauge(self, name: str, said: str, mode: Any, *labels: str) -> Gauge:  # Any: one of a few words
        registry = self._registry
        return Gauge(f"{PREFIX}_{name}", said, labels, registry=registry, multiprocess_mode=mode)

    def refused(self, kind: str, whose: str) -> None:
        """Count what was one too many."""
        self.limited.labels(kind, whose).inc()

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

    def words(self) -> tuple[int, int]:
        """Return how many words this worker has heard, and how many of them were about no decision."""
        told = [
            s for family in self.feedback.collect() for s in family.samples if s.name.endswith("_total")
        ]
        unknown = sum(s.value for s in told if s.labels["result"] == "unknown")
        return int(sum(s.value for s in told)), int(unknown)

    def stands(self, standing: Standing, desk: Desk) -> None:
        """Say how this worker stands to what all its routers share."""
        self.journal.labels("decisions").set(standing.journaled)
        self.journal.labels("bytes").set(standing.journal_bytes)
        for server, skew_s in standing.skew_s.items():
            self.skew.labels(server).set(skew_s)
        away = [router.log.trouble for router in desk.routers.values()]
        self.breaker.labels("log").set(any(away))
        self.breaker.labels("store").set(getattr(desk.store, "trouble", None) is not None)

    def alarmed(self, alarms: Collection[Alarm], routers: Iterable[str]) -> None:
        """Say which alarms there are, and which there are not."""
        raised = {(alarm.router or "", alarm.code) for alarm in alarms}
        for router in ("", *routers):
            for code in CODES:
                self.alarm.labels(router, code).set((router, code) in raised)
        for severity in ("warning", "critical"):
            self.alarms.labels(severity).set(sum(alarm.severity == severity for alarm in alarms))

    def looked(self, vitals: Vitals) -> None:
        """Say what the alarms of one router's loop go by; what is not known is NaN."""
        for figure, value in vitals.figures().items():
            self.vital.labels(vitals.router, figure).set(value)

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
        with span("choose", router=self._name) as step:
            decision = self._decided(await super().achoose(prompt, **options))
            step.set(decision_id=decision.id, model=decision.model, reason=decision.reason)
        return decision

    async def areport(
        self, decision_id: str, outcome: Outcome, *, answer: str | None = None
    ) -> Reported:
        """As `Router.areport`."""
        with span("report", router=self._name) as step:
            reported = await super().areport(decision_id, outcome, answer=answer)
            step.set(decision_id=decision_id)
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
        known = name if name in self.settings.metrics else OTHER
        with self._hearing(name), span("feedback", router=self._name, metric=known) as step:
            heard = await super().afeedback(decision_id, name, value, **options)
            step.set(decision_id=heard.decision_id, applied=heard.applied, duplicate=heard.duplicate)
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
        except UnknownDecisionError:
            self._heard(name, "unknown")
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
    watch : Watch
    """

    def __init__(self, desk: Desk, meter: Meter, checkup: Checkup, watch: Watch) -> None:
        self._desk, self._meter, self._checkup, self._watch = desk, meter, checkup, watch

    async def run(self) -> None:
        """Measure until cancelled."""
        join_at = 0.0
        while True:
            self._meter.measure(await self._checkup.ready())
            self._meter.alarmed(self._watch.alarms(), self._desk.routers)
            self._meter.stands(self._watch.standings()[0], self._desk)
            for vitals in self._watch.look.vitals.values():
                self._meter.looked(vitals)
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


def shared_folder() -> Path | None:
    """Return where the workers of one `serve` keep what they share; None: this one is alone."""
    return Path(os.environ[FOLDER]) if FOLDER in os.environ else None


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
