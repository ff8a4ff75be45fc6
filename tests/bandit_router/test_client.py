"""The client against the real service: alone, and with something in between that cuts, stalls and refuses."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from serving import Serving

from bandit_router import (
    AccessError,
    ClosedError,
    ConflictError,
    EventLog,
    FormatError,
    Greedy,
    LogUnavailableError,
    Metric,
    Model,
    NoEligibleModelError,
    Outcome,
    Preference,
    Reward,
    ServiceUnavailableError,
    SettingsError,
    StoreUnavailableError,
    UnknownDecisionError,
    UnknownFeedbackError,
    UnknownModelError,
    UnknownRouterError,
)
from bandit_router.client import AsyncClient, Client, Heard
from bandit_router.events import new_id
from bandit_router.log import tables as t


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that the service never gave."""

    status: int
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def content(self) -> bytes:
        """OpenAI's error with the code; else the body."""
        if self.code is None:
            return self.body or b""
        error = {"message": f"it says {self.code}", "type": "x", "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


class Between:
    """Passes requests on to a service, but for what a test says about the next ones.

    "refused" is cut before the service hears it, "cut" after it has answered, "half" within the answer;
    "silent" is never answered. A `Reply` is given in its stead.
    """

    def __init__(self, service: str) -> None:
        self.service = httpx.Client(base_url=service, timeout=60)
        self.next: deque[str | Reply] = deque()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.between = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=partial(self._server.serve_forever, 0.02))
        self._thread.start()

    def then(self, *faults: str | Reply) -> None:
        """Say what happens to the next requests, one after another; the count of them begins anew."""
        self.requests.clear()
        self.next.extend(faults)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.service.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    between: Between

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        between = self.server.between
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        between.requests.append((self.path, headers))
        fault = between.next.popleft() if between.next else "passed"
        self.close_connection = fault != "passed"
        if isinstance(fault, Reply):
            self._answer(fault.status, fault.headers, fault.content())
        elif fault != "refused":
            kept = {name: headers[name] for name in headers.keys() - {"host", "connection"}}
            answer = between.service.request(self.command, self.path, content=content, headers=kept)
            self._pass_on(answer, fault)

    def _pass_on(self, answer: httpx.Response, fault: str) -> None:
        if fault == "silent":
            self.server.between.closing.wait(20)
        elif fault != "cut":
            half = len(answer.content) // 2 if fault == "half" else None
            self._answer(answer.status_code, dict(answer.headers), answer.content, half)

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name in headers.keys() - {"content-length"}:
            self.send_header(name, headers[name])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names


class Waited:
    """An `AsyncClient` whose every call is waited for."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        called = getattr(self._client, name)
        return lambda *args, **options: self._loop.run_until_complete(called(*args, **options))

    def close(self) -> None:
        self.aclose()
        self._loop.close()


@pytest.fixture(scope="module")
def log_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('log') / 'chat.db'}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, log_url: str) -> Iterator[str]:
    """A service for all tests of this file, which are told apart by their users."""
    serving = Serving(tmp_path_factory.mktemp("serving"), "--log", log_url)
    yield serving.url
    serving.end()


@pytest.fixture
def between(service: str) -> Iterator[Between]:
    standing = Between(service)
    yield standing
    standing.close()


@pytest.fixture(params=[Client, Waited])
def open_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Make clients of both faces."""
    opened: list[Any] = []

    def open_(url: str, **options: Any) -> Any:
        opened.append(request.param(url, **options))
        return opened[-1]

    yield open_
    for client in opened:
        client.close()


@pytest.fixture
def client(open_client: Callable[..., Any], service: str) -> Any:
    return open_client(service)


def counted(log_url: str, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    with EventLog.open(log_url) as log, log.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table).where(condition)) or 0


# -- the loop ---------------------------------------------------------------------------------------


def test_the_whole_loop(client: Any) -> None:
    user = f"user/{new_id()}"
    decision = client.choose(
        [{"role": "user", "content": "half a character: \ud83d"}],
        models={"small"},
        preference=Preference(price_weight=0.1, max_quality_drop=0.5),
        max_cost_usd=1.0,
        max_tokens=100,
        user=user,
        conversation=f"talk {user}",
        tags={"app": "chat"},
    )
    assert (decision.model, decision.probability, decision.duplicate) == ("small", 1.0, False)
    assert decision.probabilities == {"small": 1.0}
    assert decision.feedback_token.startswith("brt1.")

    reported = client.report(decision.id, Outcome(output_tokens=3, cost_usd=0.5), answer="An answer.")
    assert (reported.decision_id, reported.cost_usd, reported.duplicate) == (decision.id, 0.5, False)
    assert client.report(decision.id, {"output_tokens": 3, "cost_usd": 0.5}).duplicate

    heard = client.feedback(decision.id, "thumb", True, comment="good")
    assert (heard.applied, heard.value, heard.reward) == (True, True, Reward(value=1.0))
    moment = datetime.now(UTC)
    late = client.feedback(None, "rating", 0.5, conversation=f"talk {user}", source="x", at=moment)
    assert late.reward == Reward(value=0.75)
    client.retract(late.id)

    told = client.decision(decision.id)
    assert (told.id, told.user, told.answer, told.tags) == (
        decision.id,
        user,
        "An answer.",
        {"app": "chat"},
    )
    assert told.prompt == [{"role": "user", "content": "half a character: \N{REPLACEMENT CHARACTER}"}]
    assert told.outcome == Outcome(model="small", output_tokens=3, cost_usd=0.5)
    assert [(said.feedback.source, said.retracted) for said in told.feedback] == [
        (user, False),
        ("x", True),
    ]
    assert told.feedback[1].feedback.at == pytest.approx(moment.timestamp(), abs=2e-6)
    assert told.revisions == (Reward(value=1.0), Reward(value=0.75), Reward(value=1.0))
    assert client.beliefs()["small"].n >= 1
    assert client.beliefs()["small"].drifts == ()

    forgotten = client.forget_user(user)
    assert (forgotten.decisions, forgotten.outcomes) == (1, 1)
    assert client.forget_user("..").decisions == 0
    with pytest.raises(UnknownDecisionError, match="no decision"):
        client.decision(decision.id)


def test_a_batch_answers_each_word(client: Any) -> None:
    decision = client.choose("a")
    good, wrong, unknown = client.feedback_batch(
        [
            {"decision_id": decision.id, "name": "thumb", "value": None, "at": datetime.now(UTC)},
            {"decision_id": decision.id, "name": "thumb", "value": 3},
            {"decision_id": "nobody", "name": "thumb", "value": True, "source": None},
        ]
    )
    assert isinstance(good, Heard)
    assert (good.value, good.reward) == (None, None)
    assert isinstance(wrong, ValueError)
    assert isinstance(unknown, UnknownDecisionError)


def test_models_come_and_go(client: Any) -> None:
    name = f"maker/größe-{new_id()}"
    client.put_model(Model(name, output_usd_per_mtok=3.0, context_tokens=1_000), reset=True)
    assert client.choose("a", models=[name]).model == name
    client.retire_model(name)
    assert client.beliefs()[name].retired
    with pytest.raises(UnknownModelError):
        client.retire_model(name)


def test_settings_are_changed(open_client: Callable[..., Any], service: str) -> None:
    client = open_client(service, router=f"router-{new_id()}")
    with pytest.raises(UnknownRouterError):
        client.choose("a")
    given = {"policy": Greedy(), "half_life": timedelta(days=1), "metrics": {"stars": Metric(high=5.0)}}
    settings = client.configure(**given, preference=Preference(price_weight=0.5))
    assert (settings.policy, settings.half_life) == (Greedy(), timedelta(days=1))
    assert (settings.preference.price_weight, settings.metrics["stars"].high) == (0.5, 5.0)
    assert client.configure(floor=0.5, half_life=None).floor == 0.5
    assert client.configure().policy == Greedy()
    with pytest.raises(SettingsError, match="no setting 'flor'"):
        client.configure(flor=0.5)


def test_a_token_is_a_key_for_one_decision(open_client: Callable[..., Any], service: str) -> None:
    decision = open_client(service).choose("a")
    holder = open_client(service, key=decision.feedback_token)
    assert holder.feedback(decision.id, "thumb", False).reward == Reward(value=0.0)
    with pytest.raises(AccessError, match="scope route"):
        holder.choose("a")


def test_many_threads_share_a_client(service: str) -> None:
    with Client(service) as client, ThreadPoolExecutor(8) as pool:
        decisions = list(pool.map(lambda i: client.choose(f"question {i}"), range(80)))
        assert len({decision.id for decision in decisions}) == 80
        same = list(pool.map(lambda _: client.choose("a", key="the same for all"), range(16)))
    assert len({decision.id for decision in same}) == 1
    assert [decision.duplicate for decision in same].count(False) == 1


def test_many_tasks_share_a_client(service: str) -> None:
    async def talk() -> set[str]:
        async with AsyncClient(service) as client:
            decisions = await asyncio.gather(*(client.choose(f"question {i}") for i in range(40)))
        return {decision.id for decision in decisions}

    assert len(asyncio.run(talk())) == 40


# -- what fails on the way --------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["refused", "cut", "half", "silent"])
def test_a_decision_is_made_once(
    open_client: Callable[..., Any], between: Between, log_url: str, lost: str
) -> None:
    client, user = open_client(between.url, timeout_s=2.0 if lost == "silent" else 60.0), new_id()
    between.then(lost, lost)
    decision = client.choose("a", user=user)
    assert decision.duplicate == (lost != "refused")
    assert counted(log_url, t.decisions, t.decisions.c.user == user) == 1
    keys = {headers["idempotency-key"] for _, headers in between.requests}
    assert len(between.requests) >= 3
    assert len(keys) == 1
    client.choose("a", user=user)
    assert between.requests[-1][1]["idempotency-key"] not in keys
    assert counted(log_url, t.decisions, t.decisions.c.user == user) == 2


@pytest.mark.parametrize("lost", ["refused", "cut", "half"])
def test_what_is_said_counts_once(
    open_client: Callable[..., Any], between: Between, log_url: str, lost: str
) -> None:
    client = open_client(between.url, timeout_s=60.0)
    decision = client.choose("a")
    for say in (
        lambda: client.report(decision.id, Outcome(output_tokens=3), answer="b"),
        lambda: client.feedback(decision.id, "thumb", True),
        lambda: client.feedback_batch([{"decision_id": decision.id, "name": "rating", "value": 0.5}])[0],
    ):
        between.then(lost)
        assert say().duplicate == (lost != "refused")
        assert len(between.requests) == 2
    between.then(lost)
    told = client.decision(decision.id)
    assert [said.feedback.name for said in told.feedback] == ["thumb", "rating"]
    assert told.reward == Reward(value=0.75)
    assert counted(log_url, t.outcomes, t.outcomes.c.decision_id == decision.id) == 1
    between.then(lost)
    client.retract(told.feedback[0].feedback.id)
    assert client.decision(decision.id).reward == Reward(value=0.5)


def test_a_late_repetition_does_not_win_over_a_newer_word(
    open_client: Callable[..., Any], between: Between, service: str
) -> None:
    client, other = open_client(between.url, timeout_s=60), open_client(service)
    decision = other.choose("a")
    between.then("cut", Reply(503, "busy", {"retry-after": "1"}))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.feedback, decision.id, "thumb", True)
        while not between.requests or other.decision(decision.id).reward is None:
            time.sleep(0.01)
        other.feedback(decision.id, "thumb", False)
        assert first.result().duplicate
    assert other.decision(decision.id).reward == Reward(value=0.0)


@pytest.mark.parametrize(
    "busy",
    [Reply(503, "busy", {"retry-after": "1"}), Reply(429, "too_many_requests", {"retry-after": "1"})],
)
def test_it_waits_as_it_is_asked(open_client: Callable[..., Any], between: Between, busy: Reply) -> None:
    client = open_client(between.url)
    between.then(busy)
    began = time.monotonic()
    assert not client.choose("a").duplicate
    assert time.monotonic() - began >= 1
    assert len(between.requests) == 2


def test_it_waits_for_what_may_pass(open_client: Callable[..., Any], between: Between) -> None:
    client = open_client(between.url)
    between.then(*(Reply(status, body=b"<html>a proxy's page</html>") for status in (408, 502, 504)))
    assert client.choose("a").id
    assert len(between.requests) == 4


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(503, "log_unavailable"), LogUnavailableError),
        (Reply(503, "store_unavailable"), StoreUnavailableError),
        (Reply(503, "closing"), ServiceUnavailableError),
        (Reply(429, "too_many_requests"), ServiceUnavailableError),
        (Reply(502, body=b"<html>"), ServiceUnavailableError),
    ],
)
def test_it_gives_up(
    open_client: Callable[..., Any], between: Between, reply: Reply, kind: type[Exception]
) -> None:
    client = open_client(between.url, retries=1)
    between.then(reply, reply)
    with pytest.raises(kind) as raised:
        client.choose("a")
    assert type(raised.value) is kind
    assert (
        str(raised.value) == f"it says {reply.code}" if reply.code else "HTTP 502" in str(raised.value)
    )
    assert len(between.requests) == 2


def test_it_does_not_wait_a_minute(open_client: Callable[..., Any], between: Between) -> None:
    client = open_client(between.url)
    between.then(Reply(429, "too_many_requests", {"retry-after": "60"}))
    with pytest.raises(ServiceUnavailableError, match="it says too_many_requests"):
        client.choose("a")
    assert len(between.requests) == 1


def test_silence_has_an_end(open_client: Callable[..., Any], between: Between) -> None:
    client = open_client(between.url, timeout_s=0.3, retries=1)
    between.then("silent", "silent")
    began = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match="POST /v1/decisions: ReadTimeout"):
        client.choose("a")
    assert 0.6 < time.monotonic() - began < 10


def test_nobody_listens(open_client: Callable[..., Any], between: Between) -> None:
    client = open_client(between.url, retries=1)
    between.close()
    with pytest.raises(ServiceUnavailableError, match="ConnectError"):
        client.beliefs()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(500, "server_error"), ServiceUnavailableError),
        (Reply(200, body=b"<html>"), FormatError),
        (Reply(200, body=b"null"), FormatError),
        (Reply(200, body=b"[]"), FormatError),
        (Reply(200, body=b'{"id": "1"}'), FormatError),
        (Reply(204), FormatError),
        (Reply(302, headers={"location": "/elsewhere"}), FormatError),
        (Reply(404, body=b"<html>"), FormatError),
        (Reply(403, body=b"<html>"), AccessError),
    ],
)
def test_what_is_no_answer_is_not_asked_for_again(
    open_client: Callable[..., Any], between: Between, reply: Reply, kind: type[Exception]
) -> None:
    client = open_client(between.url)
    between.then(reply)
    with pytest.raises(kind):
        client.choose("a")
    assert len(between.requests) == 1


def test_fields_of_a_newer_service_are_passed_over(
    open_client: Callable[..., Any], between: Between
) -> None:
    client = open_client(between.url)
    told = {"id": "1", "decision_id": "2", "name": "thumb", "value": True, "duplicate": False}
    more = {"applied": True, "reward": {"value": 1.0, "weight": 1.0, "new": 1}, "new": 1}
    between.then(Reply(200, body=json.dumps(told | more).encode()))
    assert client.feedback("2", "thumb", True).reward == Reward(value=1.0)


# -- what the service refuses -----------------------------------------------------------------------


def twice(client: Any) -> None:
    for prompt in ("a", "b"):
        client.choose(prompt, key=f"twice-{id(client)}")


def capped(client: Any) -> None:
    client.put_model(Model("dear", output_usd_per_mtok=1_000.0))
    try:
        client.choose("a", models=["dear"], max_tokens=1_000, max_cost_usd=0.001)
    finally:
        client.retire_model("dear")


NOBODY = "01a20f16-7f32-7828-9f86-86eef3cf6d8f"
REFUSED: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (lambda c: c.report(NOBODY, Outcome()), UnknownDecisionError, "no decision"),
    (lambda c: c.feedback(NOBODY, "thumb", True), UnknownDecisionError, "no decision"),
    (lambda c: c.feedback(None, "thumb", True, conversation=NOBODY), UnknownDecisionError, NOBODY),
    (lambda c: c.decision(NOBODY), UnknownDecisionError, "no decision"),
    (lambda c: c.retract(NOBODY), UnknownFeedbackError, "no feedback"),
    (lambda c: c.retire_model("nothing"), UnknownModelError, "no active model"),
    (twice, ConflictError, "another body"),
    (capped, NoEligibleModelError, "no model is left"),
    (lambda c: c.choose("a", models=["nothing"]), ValueError, "nothing"),
    (lambda c: c.choose("a", user="two\nlines"), ValueError, "user"),
    (lambda c: c.choose("a" * 9_000_000), ValueError, "body: expected at most"),
    (lambda c: c.feedback(c.choose("a").id, "thumb", 3), ValueError, "thumb"),
    (lambda c: c.feedback(None, "thumb", True), ValueError, "decision_id"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "kind", "said"), REFUSED)
def test_what_is_refused_is_our_own_error(
    client: Any, ask: Callable[[Any], object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as raised:
        ask(client)
    assert type(raised.value) is kind


def test_a_key_that_opens_nothing(open_client: Callable[..., Any], service: str) -> None:
    client = open_client(service, key="br_secret")
    with pytest.raises(AccessError, match="no such key"):
        client.choose("a")


# -- what the client refuses ------------------------------------------------------------------------

MALFORMED: list[tuple[Callable[[Any], object], type[Exception], str]] = [
    (lambda c: c.choose([{"role": "user", "content": object()}]), TypeError, "JSON serializable"),
    (lambda c: c.choose("a", models="small"), TypeError, "models: expected a list of names"),
    (lambda c: c.choose("a", key="größe"), ValueError, "key: expected ASCII"),
    (lambda c: c.choose("a", key=" x"), ValueError, "key: expected ASCII"),
    (lambda c: c.choose("a", colour="red"), TypeError, "unexpected keyword argument 'colour'"),
    (lambda c: c.report("", Outcome()), ValueError, "decision_id: expected 1 to 255 characters"),
    (lambda c: c.report("1", {"tokens": 3}), TypeError, "tokens"),
    (lambda c: c.report("1", {"output_tokens": -3}), ValueError, "output_tokens"),
    (lambda c: c.feedback("1", "rating", float("nan")), ValueError, "JSON"),
    (lambda c: c.forget_user(""), ValueError, "user: expected"),
]


@pytest.mark.parametrize(("ask", "kind", "said"), MALFORMED)
def test_what_is_malformed_is_not_sent(
    open_client: Callable[..., Any],
    between: Between,
    ask: Callable[[Any], object],
    kind: type[Exception],
    said: str,
) -> None:
    with pytest.raises(kind, match=said):
        ask(open_client(between.url))
    assert between.requests == []


def test_a_closed_client_refuses(service: str) -> None:
    with Client(service) as client:
        pass
    client.close()
    with pytest.raises(ClosedError):
        client.choose("a")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"base_url": "localhost:8080"}, ValueError),
        ({"retries": -1}, ValueError),
        ({"timeout_s": "1"}, TypeError),
        ({"router": ""}, ValueError),
    ],
)
def test_a_client_is_checked_when_it_is_made(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Client(**{"base_url": "http://127.0.0.1:1", **options})


def test_the_key_is_not_shown() -> None:
    with Client("http://127.0.0.1:1/", key="br_secret") as client:
        assert repr(client) == "Client('http://127.0.0.1:1', router='default')"


def test_the_faces_are_alike() -> None:
    def face(kind: type) -> dict[str, inspect.Signature]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        shown = [(name, method) for name, method in methods if not name.startswith("_")]
        assert all(method.__doc__ for _, method in shown)
        return {name: inspect.signature(method) for name, method in shown}

    sync, later = face(Client), face(AsyncClient)
    sync["aclose"] = later["aclose"]
    del sync["close"]
    assert sync == later


def test_without_httpx_it_says_what_is_missing() -> None:
    program = "import sys; sys.modules['httpx'] = None; import bandit_router.client"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: the client needs httpx: pip install 'bandit-router[http]'" in run.stderr
