"""Traces: spans go to an OpenTelemetry collector, where one is configured and the extra is installed."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandit_router import __version__
from bandit_router.errors import SettingsError
from bandit_router.tracing import Attribute, trace_with
from bandit_router.values import check_name, check_unit

logger = logging.getLogger(__name__)
SERVICE = "bandit-router"  # unless OTEL_SERVICE_NAME says another
FLUSH_MS = 2_000  # for what is not yet sent when a worker ends
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_ENTRIES = ("endpoint", "share")
_MISSING = "pip install 'bandit-router[otel]'"


class OpenTelemetry:
    """Hears of spans, and hands them to a provider of OpenTelemetry's.

    Parameters
    ----------
    provider : TracerProvider
    """

    def __init__(self, provider: Any) -> None:  # Any: of an optional package
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("bandit_router", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, **attributes: Attribute) -> Iterator[Step]:
        """As `Tracer.span`."""
        with self._step(name, None, attributes) as step:
            yield step

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Step]:
        """A span of an HTTP request, within the caller's trace where it names one (W3C ``traceparent``)."""
        parent = self._propagator.extract(headers)
        with self._step(method, parent, {"http.request.method": method}) as step:
            yield step

    @contextmanager
    def _step(
        self, name: str, parent: Any, attributes: Mapping[str, Attribute]
    ) -> Iterator[Step]:  # Any: as above
        from opentelemetry.trace import SpanKind

        kind = SpanKind.INTERNAL if parent is None else SpanKind.SERVER
        # What an exception says may hold what somebody wrote: only its kind is told.
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as begun:
            step = Step(begun)
            try:
                yield step
            except BaseException as error:
                step.failed(type(error).__name__)
                raise

    def close(self) -> None:
        """Send what waits, within `FLUSH_MS`, and stop."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


class Step:
    """A span under way."""

    def __init__(self, begun: Any) -> None:  # Any: a span of OpenTelemetry's
        self._begun = begun

    def set(self, **attributes: Attribute) -> None:
        """As `Span.set`."""
        self._begun.set_attributes(attributes)

    def failed(self, kind: str) -> None:
        """Say that it did not end well, and by which kind of error."""
        from opentelemetry.trace import StatusCode

        self._begun.set_attribute("error.type", kind)
        self._begun.set_status(StatusCode.ERROR)

    def answered(self, route: str, method: str, status: int) -> None:
        """Name a request by its route's template, and say how it was answered."""
        self._begun.update_name(f"{method} {route}")
        self._begun.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            self.failed(str(status))


def check_tracing(body: Mapping[str, object]) -> None:
    """See that what a table ``[tracing]`` asks for can be done.

    Raises
    ------
    SettingsError
        A bad entry, or the extra is not installed.
    """
    for name in body:
        if name not in _ENTRIES:
            raise SettingsError(f"tracing: no entry {name!r}; there are {', '.join(_ENTRIES)}")
    try:
        check_unit("share", body.get("share", 1.0))
        check_name("endpoint", body.get("endpoint", "http://localhost"))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"tracing: {error}") from error
    if "endpoint" in body and not _is_installed():
        raise SettingsError(f"tracing: OpenTelemetry must be installed: {_MISSING}")


def start_tracing(
    body: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> OpenTelemetry | None:
    """Let spans go to the collector that is configured, from now on; None: there is none.

    Parameters
    ----------
    body : mapping
        The table ``[tracing]``: ``endpoint``, to which ``/v1/traces`` is added, and ``share``, of the traces
        that begin here.
    environ : mapping
        OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``_HEADERS``, ``OTEL_SERVICE_NAME``,
        ``OTEL_TRACES_SAMPLER``, ...) mean what they mean everywhere; the table wins over them.
    """
    check_tracing(body)
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not ("endpoint" in body or any(environ.get(name) for name in _ENDPOINTS)):
        return None
    if not _is_installed():
        logger.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is traced: %s", _MISSING)
        return None
    tracer = OpenTelemetry(_provider(body, environ))
    trace_with(tracer)
    return tracer


def _is_installed() -> bool:
    try:
        return all(
            importlib.util.find_spec(name) is not None
            for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        )
    except ModuleNotFoundError:
        return False


def _provider(body: Mapping[str, object], environ: Mapping[str, str]) -> Any:  # Any: as above
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    named = {"service.name": environ.get("OTEL_SERVICE_NAME", SERVICE), "service.version": __version__}
    sampler = None
    if "share" in body:
        sampler = ParentBased(TraceIdRatioBased(check_unit("share", body["share"])))
    provider = TracerProvider(resource=Resource.create(named), sampler=sampler)
    endpoint = f"{str(body['endpoint']).rstrip('/')}/v1/traces" if "endpoint" in body else None
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


class Traced:
    """Makes a span of each request.

    Parameters
    ----------
    app : ASGI app
    tracer : OpenTelemetry
    """

    def __init__(self, app: ASGIApp, *, tracer: OpenTelemetry) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracer.request(scope["method"], headers) as step:
            status = 499  # the client went before it was answered

            async def sent(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            await self._app(scope, receive, sent)
            route = getattr(scope.get("route"), "path", "other")
            step.answered(route, scope["method"], status)
