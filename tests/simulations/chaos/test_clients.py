"""Clients try again under the same key, and never send twice what has none."""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from simulations.chaos.clients import Caller, Client
from simulations.chaos.ledger import Ledger, merged

ANSWER = {"id": "w1", "duplicate": False}


@dataclass(slots=True, kw_only=True)
class Door:
    """A worker that answers what it is told to, one after another; the last one again and again."""

    url: str = ""
    script: list[int] = field(default_factory=lambda: [200])
    heard: list[dict[str, Any]] = field(default_factory=list)  # Any: JSON

    def next(self, body: dict[str, Any]) -> int:
        self.heard.append(body)
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@pytest.fixture
def doors() -> Iterator[list[Door]]:
    """Two workers."""
    doors, servers = [Door(), Door()], []
    for door in doors:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), _handler(door)))
        door.url = f"http://127.0.0.1:{servers[-1].server_address[1]}"
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
    yield doors
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler(door: Door) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(ANSWER).encode()
            self.send_response(door.next(body))
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def client(doors: list[Door]) -> Iterator[Client]:
    """A client of both."""
    caller = Caller([door.url for door in doors], random.Random(1), Ledger(), threading.Event())
    yield Client(1, caller, random.Random(1), deque())
    caller.close()


def test_what_comes_to_nothing_is_tried_elsewhere_under_its_key(
    client: Client, doors: list[Door]
) -> None:
    doors[0].script = [503]
    word = client.say("d1", "thumb", True, door=0)
    assert word.id == "w1"
    assert doors[0].heard == doors[1].heard
    assert doors[1].heard[0]["key"] == word.key
    assert client.ledger.requests == {("feedback", "503"): 1, ("feedback", "200"): 1}


def test_what_has_no_key_is_sent_once(client: Client, doors: list[Door]) -> None:
    doors[0].script = [503]
    assert client.say("d1", "thumb", True, keyed=False, door=0).id is None
    assert doors[1].heard == []
    assert client.ledger.totals()["words"] == {"acknowledged": 0, "unknown": 1}


def test_a_refusal_is_not_tried_again(client: Client, doors: list[Door]) -> None:
    doors[0].script = [404]
    assert client.say("d1", "thumb", True, door=0).id is None
    assert doors[1].heard == []
    (refusal,) = client.ledger.refusals
    assert (refusal.status, refusal.expected) == (404, False)


def test_another_answer_to_the_same_is_a_broken_promise(client: Client) -> None:
    word = client.say("d1", "thumb", True)
    word.id = "w0"
    client._hear(word, client._send(word))
    assert client.ledger.broken == [f"key {word.key}: a second word"]


def test_nothing_is_tried_again_when_it_is_over(doors: list[Door]) -> None:
    over = threading.Event()
    over.set()
    doors[0].script = doors[1].script = [503]
    caller = Caller([door.url for door in doors], random.Random(1), Ledger(), over)
    assert caller.call("feedback", "POST", "/v1/feedback", {}) is None
    caller.close()
    assert len(doors[0].heard) + len(doors[1].heard) == 1


def test_ledgers_add_up(client: Client) -> None:
    client.say("d1", "thumb", True)
    whole = merged([client.ledger, client.ledger])
    assert whole.totals()["words"] == {"acknowledged": 2, "unknown": 0}
    assert whole.requests["feedback", "200"] == 2
