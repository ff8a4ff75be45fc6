"""Nothing that anybody wrote, and no key, is in what the program says: logs, metrics, errors, at any level."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstream import Reply, Upstream

from bandit_router import EventLog
from bandit_router.log.engine import connect, upgrade
from bandit_router.log.keys import add_key, new_key
from bandit_router.log.writer import committed
from simulations.chaos.servers import PostgresServer, RedisServer

PROMPT, ANSWER, COMMENT, USER, GRADE = (f"{what}-xq7zmark" for what in ("p", "a", "c", "u", "g"))
JUDGE_KEY = "sk-xq7zmark"
SERVE = """
import logging, os, socket, sys
from bandit_router.config import read_config
from bandit_router.service.app import create_app
from bandit_router.service.logs import log_to_stderr
from bandit_router.service.serving import Server, uvicorn_config

log_to_stderr("json")
plain = logging.FileHandler(sys.argv[3])  # as a host would write it: what a record says, any formatter
plain.setFormatter(logging.Formatter("%(name)s %(message)s"))
logging.getLogger().addHandler(plain)
for name in (None, "uvicorn", "uvicorn.access", "uvicorn.error", "sqlalchemy", "sqlalchemy.engine", "asyncio",
             "sqlalchemy.pool", "alembic", "httpx", "httpcore", "redis", "psycopg", "fastapi", "feedback",
             "bandit_router"):
    logging.getLogger(name).setLevel(logging.DEBUG)
listener = socket.socket(fileno=int(sys.argv[2]))
config = read_config(sys.argv[1], environ=os.environ)
Server(uvicorn_config(create_app(config), config.service), ready=lambda: None).run(sockets=[listener])
"""
CONFIG = """
log = "{log}"
store = "{store}"
[limits]
user_per_minute = 600
[judge]
url = "{judge}"
model = "grader"
api_key_env = "JUDGE_KEY"
share = 1.0
poll_s = 0.1
[[models]]
name = "small"
output_usd_per_mtok = 1.0
[[models]]
name = "large"
output_usd_per_mtok = 10.0
"""


@contextmanager
def serving(folder: Path, **places: str) -> Iterator[tuple[httpx.Client, Path, Path]]:
    """A service at the level DEBUG, in a process of its own."""
    (folder / "serve.toml").write_text(CONFIG.format(**places))
    listener = socket.create_server(("127.0.0.1", 0))
    records, stderr = folder / "records", folder / "stderr"
    arguments = [str(folder / "serve.toml"), str(listener.fileno()), str(records)]
    with stderr.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *arguments],
            stdout=said,
            stderr=said,
            pass_fds=[listener.fileno()],
            env=os.environ | {"JUDGE_KEY": JUDGE_KEY},
        )
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            client.get("/healthz")
            yield client, records, stderr
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def bodies(of: str) -> list[tuple[str, str, Any]]:
    """Calls that fail, and that quote what must not be repeated."""
    word = {"decision_id": of, "name": "thumb", "value": True}
    prompt = {"role": "user", "content": PROMPT}
    return [
        ("POST", "/v1/decisions", {"prompt": PROMPT, "messages": [prompt]}),
        ("POST", "/v1/decisions", {"prompt": {"text": PROMPT}}),
        ("POST", "/v1/decisions", {"prompt": PROMPT, "unknown": PROMPT}),
        ("POST", "/v1/decisions", {"messages": [{"role": [PROMPT], "content": PROMPT}]}),
        ("POST", "/v1/decisions", {"messages": [{"content": PROMPT}]}),
        ("POST", "/v1/decisions", {"messages": PROMPT}),
        ("POST", "/v1/decisions", {"prompt": PROMPT, "models": ["nobody"]}),
        ("POST", "/v1/decisions", {"prompt": PROMPT, "max_cost_usd": 0, "max_tokens": 1}),
        ("POST", "/v1/decisions", {"prompt": PROMPT, "user": f"{USER}\n"}),
        ("POST", "/v1/decisions", {"prompt": PROMPT, "user": USER * 60}),
        ("POST", "/v1/decisions", {"prompt": PROMPT, "user": [USER]}),
        ("POST", "/v1/outcomes", {"decision_id": of, "answer": [ANSWER]}),
        ("POST", "/v1/outcomes", {"decision_id": of, "answer": ANSWER, "model": "nobody"}),
        ("POST", "/v1/outcomes", {"decision_id": "none", "answer": ANSWER, "error": ANSWER}),
        ("POST", "/v1/feedback", word | {"value": COMMENT}),
        ("POST", "/v1/feedback", word | {"name": "rating", "value": COMMENT}),
        ("POST", "/v1/feedback", word | {"value": [COMMENT]}),
        ("POST", "/v1/feedback", word | {"comment": [COMMENT]}),
        ("POST", "/v1/feedback", word | {"comment": COMMENT * 10_000}),
        ("POST", "/v1/feedback", word | {"source": f"{USER}\n", "comment": COMMENT}),
        ("POST", "/v1/feedback", word | {"decision_id": "none", "source": USER, "comment": COMMENT}),
        ("POST", "/v1/feedback", word | {"key": "k", "comment": f"{COMMENT} again"}),
        ("DELETE", f"/v1/users/{USER}%7F", None),
        ("GET", f"/v1/nothing/{USER}?prompt={PROMPT}", None),
    ]


def raw() -> list[bytes]:
    """Bodies that are no JSON, or not ours."""
    good = json.dumps({"prompt": PROMPT}).encode()
    twice = f'{{"prompt": "{PROMPT}", "prompt": "{PROMPT}"}}'
    return [
        *(good[:-1], good + good, b"\xff" + good, good.replace(b'"p', b'"\x01p'), PROMPT.encode()),
        *(f'{{"prompt": "{PROMPT}", "max_cost_usd": NaN}}'.encode(), twice.encode()),
        *(b"[" * 100_000 + PROMPT.encode(), json.dumps([PROMPT]).encode(), json.dumps(PROMPT).encode()),
    ]


def test_nobody_is_quoted(tmp_path: Path, own_postgres: PostgresServer, own_redis: RedisServer) -> None:
    engine = connect(own_postgres.url)
    upgrade(engine)
    engine.dispose()
    key, told = new_key(), b""
    with EventLog.open(own_postgres.url) as log:
        add = log.write(lambda c: add_key(c, key, name="n", scopes=["admin"], now=time.time()))
        committed(add)
    replies = [Reply(content=GRADE), Reply(status=500, raw=GRADE.encode()), Reply(raw=GRADE.encode())]
    places = {"log": own_postgres.url, "store": own_redis.url}
    with (
        Upstream() as judge,
        serving(tmp_path, judge=judge.url, **places) as (client, records, stderr),
    ):
        judge.then(*replies)
        headers = {"authorization": f"Bearer {key}"}

        def ask(method: str, path: str, body: Any = None, **given: Any) -> httpx.Response:
            nonlocal told
            content = {} if body is None else {"json": body}
            answer = client.request(method, path, **{"headers": headers} | content | given)
            told += b"" if answer.status_code == 200 else answer.content
            return answer

        def go_on(expected: set[int]) -> str:
            made = ask("POST", "/v1/decisions", {"prompt": PROMPT, "user": USER})
            of = made.json().get("id", "none")
            word = {"decision_id": of, "name": "thumb", "value": True, "comment": COMMENT, "key": "k"}
            statuses = {
                made.status_code,
                ask("POST", "/v1/outcomes", {"decision_id": of, "answer": ANSWER}).status_code,
                ask("POST", "/v1/feedback", word | {"source": USER}).status_code,
                ask("DELETE", f"/v1/users/{USER}-nobody").status_code,
            }
            assert statuses <= expected, statuses
            return str(of)

        of, *_ = [go_on({200}) for _ in range(4)]
        for method, path, body in bodies(of):
            assert 400 <= ask(method, path, body).status_code < 500, (method, path, body)
        for content in raw():
            given = {"headers": headers | {"content-type": "application/json"}, "content": content}
            assert ask("POST", "/v1/decisions", **given).status_code == 422
        for wrong in (key[:-1], f"{key}x", f"brt1.{PROMPT}.{PROMPT}"):
            assert (
                ask("GET", "/v1/routers", headers={"authorization": f"Bearer {wrong}"}).status_code
                == 401
            )
        deadline = time.monotonic() + 60
        while len(judge.requests) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        metrics = ask("GET", "/metrics").content
        own_redis.stop()
        go_on({200, 202, 503})
        own_postgres.stop()
        go_on({200, 202, 404, 503})
        told += metrics
    assert judge.headers[0]["authorization"] == f"Bearer {JUDGE_KEY}"
    said = told + records.read_bytes() + stderr.read_bytes()
    assert b"log_unavailable" in said
    for secret in (PROMPT, ANSWER, COMMENT, USER, GRADE, JUDGE_KEY, key[3:-1]):
        lines = [line for line in said.splitlines() if secret.encode() in line]
        assert not lines, lines[:5]


def test_keys_and_passwords_are_not_in_what_is_shown(tmp_path: Path) -> None:
    from bandit_router.config import read_config
    from bandit_router.store import open_store
    from bandit_router.worker import Plan

    secret = "xq7zmark"
    store = open_store(f"redis://:{secret}@localhost:1/0")  # not connected
    assert secret not in repr(store)
    store.close()
    for url in (f"redis://:{secret}@localhost:port/0", f"redis://:{secret}@h/0?nonsense=1"):
        with pytest.raises(ValueError) as told:
            open_store(url)
        assert secret not in str(told.value)
    url = f"postgresql://u:{secret}@localhost:1/x"
    plan = Plan(url=url, store=f"redis://:{secret}@localhost:1/0", router="default", clock=time.time)
    assert secret not in repr(plan)
    environ = {"USERS": secret * 4, "BANDIT_ROUTER_USER_KEY_ENV": "USERS", "BANDIT_ROUTER_LOG": url}
    config = read_config(environ=environ)
    assert config.user_key == (secret * 4).encode()
    assert secret not in repr(config)
