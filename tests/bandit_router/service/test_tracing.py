"""Traces: nothing where nothing is configured; else spans at a collector, without what anybody wrote."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bandit_router import Model
from bandit_router.config import Config
from bandit_router.errors import SettingsError
from bandit_router.service.app import create_app
from bandit_router.service.tracing import OpenTelemetry, check_tracing, start_tracing
from bandit_router.tracing import span, trace_with

SECRET = "SECRET"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MODELS = (Model("a"), Model("b"))


class Collector:
    """What a collector of OpenTelemetry's hears over HTTP."""

    def __init__(self) -> None:
        self.heard: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # as the base calls it
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector.heard.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def spans(self) -> list[Sent]:
        return [
            sent
            for request in self.heard
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for sent in scope.spans
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()
    trace_with(None)


async def play(config: Config) -> str:
    """A decision within a trace of the caller's, and a word about it; return the decision's id."""
    app = create_app(config, loopback=True)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as inside,
    ):
        within = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        body = {"prompt": SECRET, "user": SECRET}
        chosen = await inside.post("/v1/decisions", json=body, headers=within)
        word = {"decision_id": chosen.json()["id"], "name": "thumb", "value": True, "comment": SECRET}
        await inside.post("/v1/feedback", json=word)
        await inside.get(f"/nowhere/{SECRET}?query={SECRET}")
        await inside.post("/v1/outcomes", json={"decision_id": SECRET})
        return str(chosen.json()["id"])


def test_a_collector_hears_of_every_step(url: str, collector: Collector) -> None:
    config = Config(log=url, models=MODELS, tracing={"endpoint": collector.url})
    decision_id = asyncio.run(play(config))
    spans = collector.spans()
    assert SECRET not in str(collector.heard)
    named = {sent.name: sent for sent in spans}
    assert {"POST /v1/decisions", "choose", "features", "beliefs", "log commit"} <= named.keys()
    assert {"POST /v1/feedback", "feedback", "learn", "store append", "log transaction"} <= named.keys()
    assert {"GET other", "report"} <= named.keys()
    request = named["POST /v1/decisions"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert named["choose"].parent_span_id == request.span_id
    assert named["features"].parent_span_id == named["choose"].span_id
    said = {entry.key: entry.value.string_value for entry in named["choose"].attributes}
    assert said["decision_id"] == decision_id
    assert said["model"] in ("a", "b")
    assert said["reason"]
    (resource,) = {str(r.resource) for request in collector.heard for r in request.resource_spans}
    assert "bandit-router" in resource


def test_standard_variables_configure_it_too(collector: Collector) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    assert start_tracing({}, {}) is None
    assert start_tracing({}, environ | {"OTEL_SDK_DISABLED": "true"}) is None


def test_an_error_is_told_by_its_kind_alone() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OpenTelemetry(provider)
    trace_with(tracer)
    try:
        with suppress(ValueError), span("outer", router="default"), span("inner") as step:
            step.set(rows=3)
            raise ValueError(SECRET)
        with suppress(RuntimeError), tracer.request("GET", {}) as request:
            request.answered("/v1/x", "GET", 503)
            raise RuntimeError(SECRET)
    finally:
        trace_with(None)
        tracer.close()
    inner, outer, asked = exporter.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(inner.attributes or {}) == {"rows": 3, "error.type": "ValueError"}
    assert dict(outer.attributes or {}) == {"router": "default", "error.type": "ValueError"}
    assert asked.name == "GET /v1/x"
    assert not inner.status.is_ok
    assert SECRET not in inner.to_json() + outer.to_json() + asked.to_json()


def test_settings() -> None:
    for bad, said in [
        ({"endpont": "x"}, "no entry 'endpont'"),
        ({"share": 2}, "share"),
        ({"endpoint": ""}, "endpoint"),
    ]:
        with pytest.raises(SettingsError, match=said):
            check_tracing(bad)


def test_nothing_is_loaded_where_nothing_is_traced() -> None:
    program = (
        "import sys\n"
        "from bandit_router.config import Config\n"
        "from bandit_router.service.app import create_app\n"
        "create_app(Config(log='sqlite://'))\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
    )
    environ = {"PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.strip() == "[]"
