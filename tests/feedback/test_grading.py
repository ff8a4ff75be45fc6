"""One attempt against a server that speaks the protocol, slow and broken ones too."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import pytest
from upstream import Reply, Upstream

from feedback.grading import REPLY_LIMIT, Attempt, ask, body_of, dearest_usd, new_client, wait_of
from feedback.judge_settings import JudgeSettings

MESSAGES = [{"role": "user", "content": "Grade this."}]


def settings_of(url: str, **changes: Any) -> JudgeSettings:
    given: dict[str, Any] = {
        "url": url,
        "model": "grader",
        "input_usd_per_mtok": 1.0,
        "output_usd_per_mtok": 10.0,
        "timeout_s": 5.0,
    }
    return JudgeSettings(**{**given, **changes})


def attempt_of(settings: JudgeSettings, api_key: str | None = None) -> Attempt:
    async def one() -> Attempt:
        async with new_client(settings, api_key) as client:
            return await ask(client, settings, body_of(settings, MESSAGES), clock=lambda: 0.0)

    return asyncio.run(one())


def test_a_grade_and_what_it_cost(upstream: Upstream) -> None:
    attempt = attempt_of(settings_of(upstream.url), "the key")
    assert attempt == Attempt(state="graded", grade=0.75, cost_usd=pytest.approx(200e-6))
    assert upstream.headers[0]["authorization"] == "Bearer the key"
    assert upstream.requests == [
        {"model": "grader", "messages": MESSAGES, "max_tokens": 500, "temperature": 0}
    ]


def test_without_a_key_none_is_sent(upstream: Upstream) -> None:
    assert attempt_of(settings_of(upstream.url + "/")).state == "graded"
    assert "authorization" not in upstream.headers[0]


def test_what_a_model_knows_is_sent(upstream: Upstream) -> None:
    options = {"seed": 1, "response_format": {"type": "json_object"}}
    name = "max_completion_tokens"
    attempt_of(settings_of(upstream.url, options=options, max_tokens_name=name, max_tokens=9))
    assert upstream.requests[0] == {"model": "grader", "messages": MESSAGES, name: 9, **options}


@pytest.mark.parametrize(
    ("reply", "state", "error"),
    [
        (Reply(content="4"), "malformed", "the reply is not one JSON object"),
        (Reply(content='{"grade": 9}'), "malformed", "grade is not from 1 to 5"),
        (Reply(finish="length"), "malformed", "the reply is not whole"),
        (Reply(finish="content_filter"), "malformed", "the reply is not whole"),
        (Reply(content=None), "malformed", "the reply is not whole"),
        (Reply(raw=b"{"), "later", "no chat completion"),
        (Reply(raw=b"<html>Bad gateway</html>"), "later", "no chat completion"),
        (Reply(raw=b"[]"), "later", "no chat completion"),
        (Reply(raw=b"null"), "later", "no chat completion"),
        (Reply(raw=b'{"choices": []}'), "later", "no chat completion"),
        (Reply(raw=b'{"choices": [{"message": null}]}'), "later", "no chat completion"),
        (Reply(raw=b"\xff\xfe\x00"), "later", "no chat completion"),
        (Reply(raw=b"[" * 100_000), "later", "no chat completion"),
        (Reply(raw=b"x" * (REPLY_LIMIT + 100_000)), "later", "no chat completion"),
        (Reply(raw=b""), "later", "no chat completion"),
        (Reply(cut=0.5), "later", "RemoteProtocolError"),
        (Reply(cut=0.0), "later", "RemoteProtocolError"),
        (Reply(status=500), "later", "HTTP 500"),
        (Reply(status=503), "later", "HTTP 503"),
        (Reply(status=429), "later", "HTTP 429"),
        (Reply(status=204, raw=b""), "later", "HTTP 204"),
        (Reply(status=400), "refused", "HTTP 400"),
        (Reply(status=413), "refused", "HTTP 413"),
        (Reply(status=401), "stuck", "HTTP 401"),
        (Reply(status=403), "stuck", "HTTP 403"),
        (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}), "stuck", "HTTP 302"),
    ],
    ids=str,
)
def test_what_goes_wrong_has_a_name(upstream: Upstream, reply: Reply, state: str, error: str) -> None:
    upstream.then(reply)
    attempt = attempt_of(settings_of(upstream.url))
    assert (attempt.state, attempt.error, attempt.grade) == (state, error, None)
    assert len(upstream.requests) == 1


def test_a_wrong_path_is_stuck(upstream: Upstream) -> None:
    assert attempt_of(settings_of(upstream.url + "/v2")).error == "HTTP 404"


@pytest.mark.parametrize("reply", [Reply(slow_s=30), Reply(drip_s=0.05)], ids=["slow", "dripping"])
def test_the_time_limit_is_of_the_whole_call(upstream: Upstream, reply: Reply) -> None:
    upstream.then(reply)
    began = time.monotonic()
    attempt = attempt_of(settings_of(upstream.url, timeout_s=0.4))
    assert attempt == Attempt(state="later", error="timeout")  # nobody knows what it cost
    assert time.monotonic() - began < 5


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        attempt = attempt_of(settings_of(url))
    assert attempt == Attempt(state="stuck", cost_usd=0.0, error="ConnectError")


def test_a_server_that_says_nothing_of_the_protocol() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def one() -> Attempt:
            settings = settings_of(f"http://127.0.0.1:{server.getsockname()[1]}/v1")
            async with new_client(settings, None) as client:
                asking = asyncio.create_task(ask(client, settings, b"{}", clock=time.time))
                peer, _ = await asyncio.to_thread(server.accept)
                with peer:
                    peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
                return await asking

        attempt = asyncio.run(one())
    assert (attempt.state, attempt.cost_usd) == ("later", None)


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": 1}, [1, 2], "many"],
    ids=str,
)
def test_a_cost_that_is_not_told_is_not_known(upstream: Upstream, usage: Any) -> None:
    upstream.then(Reply(usage=usage))
    assert attempt_of(settings_of(upstream.url)).cost_usd is None


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        (None, None),
        ("7", 7.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("1e9", 3_600.0),
        ("inf", 3_600.0),
        ("nan", None),
        ("tomorrow", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ],
)
def test_retry_after_is_read(header: str | None, wait: float | None) -> None:
    assert wait_of(header, 10.0) == wait


def test_retry_after_comes_with_the_attempt(upstream: Upstream) -> None:
    upstream.then(Reply(status=429, headers={"retry-after": "12"}))
    assert attempt_of(settings_of(upstream.url)).after_s == 12.0


@pytest.mark.parametrize("text", ["Grade this.", "你好，世界", "🙂" * 50, "\ud800"])
def test_a_call_never_costs_more_than_is_reserved(text: str) -> None:
    settings = settings_of("http://localhost/v1", max_tokens=10)
    tokens = len(text.encode("utf-8", "replace"))  # one for each byte, at the very most
    assert dearest_usd(settings, [{"role": "user", "content": text}]) >= settings.cost_usd(tokens, 10)
    assert json.loads(body_of(settings, [{"role": "user", "content": text}]))["max_tokens"] == 10
