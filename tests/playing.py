"""Clients that play one seeded stream, keep a ledger of what was acknowledged, and check the log by it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import numpy as np
import sqlalchemy as sa

from bandit_router import EventLog, Outcome, Router
from bandit_router.evidence import Evidence
from bandit_router.log import tables as t

WEIGHT = {"thumb": 1.0, "rating": 1.0, "judge": 0.5}
BASE_S = 1_790_000_000.0  # what was said at a given time was said after this
CLIENTS = 4


class Door(Protocol):
    """What a client calls: a router in this process, or the service."""

    def choose(self, prompt: str, user: str, key: str) -> str: ...

    def report(self, decision_id: str, tokens: int) -> None: ...

    def feedback(self, decision_id: str, name: str, value: Any, **options: Any) -> str: ...

    def retract(self, feedback_id: str) -> None: ...

    def close(self) -> None: ...


class Embedded:
    """The door of a router in this process."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def choose(self, prompt: str, user: str, key: str) -> str:
        return self.router.choose(prompt, user=user, key=key).id

    def report(self, decision_id: str, tokens: int) -> None:
        self.router.report(decision_id, Outcome(output_tokens=tokens, latency_s=1.0))

    def feedback(self, decision_id: str, name: str, value: Any, **options: Any) -> str:
        return self.router.feedback(decision_id, name, value, **options).id

    def retract(self, feedback_id: str) -> None:
        self.router.retract(feedback_id)

    def close(self) -> None:
        pass  # the router is the test's


class Remote:
    """The door of the service; it is tried again until it answers, as a careful client does."""

    def __init__(self, url: str, *, key: str | None = None, patience_s: float = 60.0) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=20.0)
        self._patience_s = patience_s

    def choose(self, prompt: str, user: str, key: str) -> str:
        body = {"prompt": prompt, "user": user}
        return str(self._send("POST", "/v1/decisions", body, {"Idempotency-Key": key})["id"])

    def report(self, decision_id: str, tokens: int) -> None:
        self._send(
            "POST",
            "/v1/outcomes",
            {"decision_id": decision_id, "output_tokens": tokens, "latency_s": 1.0},
        )

    def feedback(self, decision_id: str, name: str, value: Any, **options: Any) -> str:
        body = {"decision_id": decision_id, "name": name, "value": value, **options}
        return str(self._send("POST", "/v1/feedback", body)["id"])

    def retract(self, feedback_id: str) -> None:
        self._send("DELETE", f"/v1/feedback/{feedback_id}")

    def close(self) -> None:
        self._client.close()

    def _send(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._client.request(method, path, json=body, headers=headers)
                if answer.status_code not in (502, 503):
                    break
                trouble = f"{answer.status_code} {answer.text}"
            except httpx.TransportError as error:
                trouble = repr(error)
            assert time.monotonic() < deadline, trouble
            time.sleep(0.05)
        assert answer.status_code in (200, 202), f"{method} {path}: {answer.status_code} {answer.text}"
        told: dict[str, Any] = answer.json()
        return told


@dataclass
class Word:
    """One word that was acknowledged."""

    id: str
    name: str
    source: str
    value: float | None
    at: float
    retracted: bool = False


@dataclass
class Ledger:
    """What was acknowledged, by decision."""

    words: dict[str, list[Word]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decided(self, decision_id: str) -> None:
        with self.lock:
            assert decision_id not in self.words, "one decision was given to two clients"
            self.words[decision_id] = []

    def said(self, decision_id: str, word: Word) -> None:
        with self.lock:
            self.words[decision_id].append(word)

    def reward(self, decision_id: str) -> tuple[float, float] | None:
        """What all that is known amounts to: (value, weight)."""
        latest: dict[tuple[str, str], Word] = {}
        for word in sorted(self.words[decision_id], key=lambda word: word.at):  # stable: ties by arrival
            latest[word.name, word.source] = word
        active = [w for w in latest.values() if not w.retracted and w.value is not None]
        total = sum(WEIGHT[w.name] for w in active)
        if not active:
            return None
        value = sum(WEIGHT[w.name] * w.value for w in active if w.value is not None) / total
        return value, min(total, 1.0)


def play(doors: Callable[[int], Door], decisions: int, *, seed: int = 0) -> Ledger:
    """Let clients play the stream together; `doors` gives each its own."""
    ledger, errors = Ledger(), list[BaseException]()
    players = [_Player(doors(i), ledger, i, seed) for i in range(CLIENTS)]

    def run(player: _Player) -> None:
        try:
            for turn in range(decisions // CLIENTS):
                player.turn(turn)
        except BaseException as error:
            errors.append(error)
        finally:
            player.door.close()

    threads = [threading.Thread(target=run, args=(player,)) for player in players]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return ledger


class _Player:
    """One client: its words have a source of their own, so that their order is known."""

    def __init__(self, door: Door, ledger: Ledger, number: int, seed: int) -> None:
        self.door, self.ledger, self.source = door, ledger, f"user:{number}"
        self.rng = random.Random(f"{seed} {number}")
        self.clock = BASE_S
        self.name = f"{seed}-{number}"

    def turn(self, turn: int) -> None:
        rng, of = self.rng, f"{self.name}-{turn}"
        kind = rng.choice(["write code for", "translate", "explain", "count"])
        decision = self.door.choose(f"{kind} number {turn}", self.source, of)
        self.ledger.decided(decision)
        if rng.random() < 0.1:
            assert self.door.choose(f"{kind} number {turn}", self.source, of) == decision
        if rng.random() < 0.8:
            self.door.report(decision, rng.randrange(50, 500))
        if rng.random() < 0.6:
            self.say(decision, "thumb", rng.random() < 0.7)
        if rng.random() < 0.3:
            self.say(decision, *rng.choice([("thumb", True), ("rating", 0.25)]))
        if rng.random() < 0.15:
            self.say_late(self.any_decision())

    def any_decision(self) -> str:
        with self.ledger.lock:
            return self.rng.choice(list(self.ledger.words))

    def say(self, decision: str, name: str, value: Any) -> None:
        """Say a word; perhaps twice, perhaps another one after it, perhaps take it back."""
        word = self.record(decision, name, value)
        if self.rng.random() < 0.2:
            self.record(decision, name, value if self.rng.random() < 0.5 else None)
        if self.rng.random() < 0.15:
            for _ in range(self.rng.choice([1, 2])):
                self.door.retract(word.id)
            self.take_back(decision, word.id)

    def say_late(self, decision: str) -> None:
        """Words about any decision, which arrive out of the order in which they were said."""
        first, second = self.rng.random(), self.rng.random()
        self.record(decision, "rating", second, at=self.tick(2.0))
        self.record(decision, "rating", first, at=self.clock - 1.0)

    def tick(self, seconds: float) -> float:
        self.clock += seconds
        return self.clock

    def record(self, decision: str, name: str, value: Any, at: float | None = None) -> Word:
        said = self.tick(1.0) if at is None else at
        options: dict[str, Any] = {"source": self.source, "at": _rfc3339(said)}
        if at is not None or self.rng.random() < 0.5:  # only a key makes a late word known again
            options["key"] = f"{self.name}-{self.rng.random()}"
        feedback_id = self.door.feedback(decision, name, value, **options)
        if self.rng.random() < 0.2:  # the same again
            assert self.door.feedback(decision, name, value, **options) == feedback_id
        number = None if value is None else float(value)
        word = Word(id=feedback_id, name=name, source=self.source, value=number, at=said)
        known = {w.id for w in self.ledger.words[decision]}
        if feedback_id in known:  # it said nothing new; it holds from its latest time on
            for earlier in self.ledger.words[decision]:
                if earlier.id == feedback_id:
                    earlier.at = max(earlier.at, said)
            return word
        self.ledger.said(decision, word)
        return word

    def take_back(self, decision: str, feedback_id: str) -> None:
        for word in self.ledger.words[decision]:
            if word.id == feedback_id:
                word.retracted = True


def _rfc3339(moment: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(moment)))
    return f"{whole}.{round(moment % 1 * 1e6):06d}Z"


def check_log(url: str, ledger: Ledger) -> dict[str, Evidence]:
    """See that the log has what was acknowledged, once each; return the sums that follow from the ledger."""
    with EventLog.open(url) as log, log.reading() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(t.decisions))}
        assert ledger.words.keys() <= rows.keys(), "a decision that was acknowledged is not there"
        said = list(connection.execute(sa.select(t.feedback.c.id)).scalars())
        assert len(said) == len(set(said))
        acknowledged = {word.id for words in ledger.words.values() for word in words}
        assert acknowledged == set(said), "words were lost, or made up"
        assert list(connection.execute(sa.select(t.pending.c.id)).scalars()) == []
        latest: dict[str, Any] = {}
        for row in connection.execute(sa.select(t.rewards).order_by(t.rewards.c.revision)):
            before = latest.get(row.decision_id)
            assert row.revision == (0 if before is None else before.revision + 1)
            latest[row.decision_id] = row
    sums: dict[str, Evidence] = {}
    for decision_id in ledger.words:
        expected, found = ledger.reward(decision_id), latest.get(decision_id)
        value = None if found is None or found.value is None else (found.value, found.weight)
        assert value == expected or np.allclose(value, expected, atol=1e-12), decision_id
        if expected is not None:
            row = rows[decision_id]
            _add(sums, row.model, np.frombuffer(row.features), *expected)
    return sums


def _add(sums: dict[str, Evidence], model: str, x: Any, value: float, weight: float) -> None:
    own = sums.setdefault(model, Evidence(len(x)))
    own.add_many(x[None, :], np.array([weight]), np.array([value]), np.array([0.0]))


def assert_same_sums(found: Mapping[str, Evidence], expected: Mapping[str, Evidence]) -> None:
    """The same, to 1e-9 of the largest entry."""
    for model in {*found, *expected}:
        if model not in found or model not in expected:
            assert (found.get(model) or expected[model]).n == 0, model
            continue
        one, other = found[model], expected[model]
        scale = 1e-9 * max(1.0, float(np.abs(other.A).max()))
        assert np.abs(one.A - other.A).max() <= scale, model
        assert np.abs(one.b - other.b).max() <= scale, model
        assert abs(one.c - other.c) <= scale, model
        assert abs(one.n - other.n) <= scale, model
