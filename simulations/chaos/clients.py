"""Clients: they choose, report, say, repeat, revise and take back, and try again as careful clients do."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx

from simulations.chaos.ledger import Choice, Erasure, Ledger, Refusal, Report, Word

READ_S = (2.0, 8.0)  # how long impatient and patient clients wait for an answer
CONNECT_S = 1.0
PATIENCE_S = 12.0  # how long something is tried again
PAUSES_S = (0.05, 0.3)  # between attempts
REST_S = (0.02, 0.45)  # between turns
AGAIN = (429, 502, 503)
USERS = 40  # of each client
Body = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, and at which attempt it came."""

    status: int
    body: Any  # Any: JSON
    tries: int

    @property
    def good(self) -> bool:
        """Whether what was asked for is durable."""
        return self.status in (200, 202)


class Caller:
    """Sends requests to workers, and tries again elsewhere while it hears nothing good.

    Parameters
    ----------
    urls : sequence of str
        Where workers answer.
    rng : Random
    ledger : Ledger
    over : Event
        Set when nothing is tried again any more.
    """

    def __init__(
        self, urls: Sequence[str], rng: random.Random, ledger: Ledger, over: threading.Event
    ) -> None:
        limits = httpx.Timeout(rng.choice(READ_S), connect=CONNECT_S)
        self._doors = [httpx.Client(base_url=url, timeout=limits, trust_env=False) for url in urls]
        self._rng, self.ledger, self._over = rng, ledger, over
        self.pool = ThreadPoolExecutor(2)

    def close(self) -> None:
        """Disconnect."""
        self.pool.shutdown()
        for door in self._doors:
            door.close()

    def any_door(self) -> int:
        """Return the number of a worker."""
        return self._rng.randrange(len(self._doors))

    def call(
        self,
        what: str,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        key: str | None = None,
        door: int | None = None,
        once: bool = False,
    ) -> Answer | None:
        """Return an answer, or None where none came that says what became of it.

        Parameters
        ----------
        door : int, optional
            Which worker is asked first; the others follow.
        once : bool
            It is not tried again: nothing would tell a second attempt from a second wish.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        at = self.any_door() if door is None else door % len(self._doors)
        deadline, tries = time.monotonic() + PATIENCE_S, 0
        while True:
            tries += 1
            told = self._attempt(what, self._doors[at], method, path, body, headers)
            if told is not None:
                return replace(told, tries=tries)
            if once or self._over.is_set() or time.monotonic() > deadline:
                return None
            time.sleep(self._rng.uniform(*PAUSES_S))
            at = (at + 1) % len(self._doors)

    def _attempt(
        self, what: str, door: httpx.Client, method: str, path: str, body: Body | None, headers: Body
    ) -> Answer | None:
        try:
            answer = door.request(method, path, json=body, headers=dict(headers))
        except httpx.TimeoutException:
            self.ledger.requests[what, "no answer in time"] += 1
            return None
        except httpx.TransportError:
            self.ledger.requests[what, "no connection"] += 1
            return None
        self.ledger.requests[what, str(answer.status_code)] += 1
        if answer.status_code in AGAIN:
            return None
        return Answer(status=answer.status_code, body=_json(answer), tries=1)

    def refused(
        self, what: str, answer: Answer, *, expected: int | None = None, key: str | None = None
    ) -> None:
        """Write down an answer that is not good."""
        message = str(answer.body.get("error", answer.body))
        self.ledger.refusals.append(
            Refusal(
                what=what,
                status=answer.status,
                message=message,
                expected=answer.status == expected,
                key=key,
            )
        )


class Client:
    """One client: users speak through it, each under a name that no other client has.

    Parameters
    ----------
    number : int
    caller : Caller
    rng : Random
    decided : deque of str
        Decisions that any client may speak about.
    """

    def __init__(self, number: int, caller: Caller, rng: random.Random, decided: deque[str]) -> None:
        self.name, self._caller, self._rng, self._decided = f"client-{number}", caller, rng, decided
        self.ledger = caller.ledger
        self._clock, self._numbered = 0.0, 0

    def play(self, over: threading.Event) -> None:
        """Take turns until it is over."""
        while not over.is_set():
            self.turn()
            over.wait(self._rng.uniform(*REST_S))

    def turn(self) -> None:
        """Ask for one decision, and say a few things about it and about earlier ones."""
        rng = self._rng
        choice, door = self.choose(f"{self.name}:{rng.randrange(USERS)}")
        if choice is None:
            return
        decision_id = str(choice["id"])
        if rng.random() < 0.5:  # at once, and to another worker
            self.say(decision_id, "thumb", rng.random() < 0.7, door=door + 1)
        self._decided.append(decision_id)
        if rng.random() < 0.6:
            self.report(decision_id)
        for chance, act in self._habits:
            if rng.random() < chance:
                act(self, rng.choice(self._decided) if rng.random() < 0.6 else decision_id)

    # -- what it does -------------------------------------------------------------------------------

    def choose(self, user: str) -> tuple[Body | None, int]:
        """Ask for a decision, sometimes twice under its key; return it, and who was asked first."""
        rng, door = self._rng, self._caller.any_door()
        key = self.key()
        kind = rng.choice(["write code for", "translate", "explain", "count", "tell a story of"])
        body = {"prompt": f"{kind} number {rng.randrange(100)}", "user": user}
        choice = Choice(key=key, user=user)
        self.ledger.choices.append(choice)
        for nth in range(2 if rng.random() < 0.1 else 1):
            answer = self._caller.call(
                "decisions", "POST", "/v1/decisions", body, key=key, door=door + nth
            )
            if answer is None:
                break
            if not answer.good:
                self._caller.refused("decisions", answer, key=key)
                break
            choice.answers.append(answer.body)
        self._check_same(choice)
        return (choice.answers[0] if choice.answers else None), door

    def _check_same(self, choice: Choice) -> None:
        """One key, one decision; only workers that are cut off from the log may decide apart."""
        apart = any(answer["reason"] == "degraded" for answer in choice.answers)
        if len({answer["id"] for answer in choice.answers}) > 1 and not apart:
            self.ledger.broken.append(f"key {choice.key}: a second decision")

    def report(self, decision_id: str) -> None:
        """Report an outcome; sometimes another one after it, of another model."""
        rng = self._rng
        for _ in range(2 if rng.random() < 0.2 else 1):
            body: dict[str, Any] = {"decision_id": decision_id}  # Any: JSON
            body |= {"output_tokens": rng.randrange(50, 500), "latency_s": rng.randrange(1, 40) / 8}
            if rng.random() < 0.15:
                body["model"] = rng.choice(["small", "large"])
            answer = self._caller.call("outcomes", "POST", "/v1/outcomes", body)
            if answer is not None and not answer.good:
                self._caller.refused("outcomes", answer)
                return
            told = answer is not None
            sure = answer is not None and answer.tries == 1
            self.ledger.reports.append(
                Report(decision_id=decision_id, body=body, acknowledged=told, sure=sure)
            )

    def say(
        self,
        decision_id: str,
        name: str,
        value: object,
        *,
        source: str | None = None,
        keyed: bool = True,
        at: float | None = None,
        door: int | None = None,
    ) -> Word:
        """Say a word; return it as the ledger has it."""
        word = self._word(decision_id, name, value, source=source, keyed=keyed, at=at)
        self.ledger.words.append(word)
        answer = self._send(word, door=door)
        self._hear(word, answer)
        return word

    def _word(
        self,
        decision_id: str,
        name: str,
        value: object,
        *,
        source: str | None = None,
        keyed: bool = True,
        at: float | None = None,
    ) -> Word:
        speaker = f"{self.name}:{self._rng.randrange(USERS)}" if source is None else source
        key = self.key() if keyed else None
        moment = self.tick() if at is None else at
        return Word(decision_id=decision_id, name=name, source=speaker, value=value, key=key, at=moment)

    def _send(self, word: Word, *, door: int | None = None, **changed: object) -> Answer | None:
        body = _body(word) | changed
        return self._caller.call(
            "feedback", "POST", "/v1/feedback", body, door=door, once=word.key is None
        )

    def _hear(self, word: Word, answer: Answer | None) -> None:
        if answer is None:
            return
        if not answer.good:
            self._caller.refused("feedback", answer, key=word.key)
            return
        if word.id is not None and word.id != answer.body["id"]:
            self.ledger.broken.append(f"key {word.key}: a second word")
        word.id = answer.body["id"]
        word.duplicate = answer.body["duplicate"] and word.key is None

    # -- habits -------------------------------------------------------------------------------------

    def _repeat(self, decision_id: str) -> None:
        """The same key and body again, through another worker."""
        door = self._caller.any_door()
        word = self.say(decision_id, "rating", self._rng.randrange(9) / 8, door=door)
        if word.id is not None:
            self._hear(word, self._send(word, door=door + 1))

    def _race(self, decision_id: str) -> None:
        """The same through two workers at the same moment."""
        word = self._word(decision_id, "thumb", self._rng.random() < 0.5)
        self.ledger.words.append(word)
        sent = [self._caller.pool.submit(self._send, word, door=door) for door in (0, 1)]
        for future in sent:
            self._hear(word, future.result())

    def _race_others(self, decision_id: str) -> None:
        """Two words about one decision, through two workers at the same moment."""
        words = [self._word(decision_id, name, 0.25) for name in ("rating", "judge")]
        self.ledger.words += words
        sent = [self._caller.pool.submit(self._send, word, door=door) for door, word in enumerate(words)]
        for word, future in zip(words, sent, strict=True):
            self._hear(word, future.result())

    def _change_mind(self, decision_id: str) -> None:
        """Another value by the same user, and perhaps none at all."""
        first = self.say(decision_id, "thumb", self._rng.random() < 0.5)
        value = self._rng.choice([True, False, None])
        self.say(decision_id, "thumb", value, source=first.source)

    def _click_twice(self, decision_id: str) -> None:
        """The same without a key: the second one says nothing new."""
        first = self.say(decision_id, "thumb", True, keyed=False)
        if first.id is None:
            return
        again = self.say(decision_id, "thumb", True, source=first.source, keyed=False)
        if again.id not in (None, first.id):
            self.ledger.broken.append(f"word {first.id}: said again, it became another")

    def _late(self, decision_id: str) -> None:
        """Words that arrive in another order than they were said."""
        later = self.say(decision_id, "rating", self._rng.random(), at=self.tick() + 2.0)
        self.say(decision_id, "rating", self._rng.random(), source=later.source, at=later.at - 3600.0)
        self._clock = max(self._clock, later.at)

    def _take_back(self, decision_id: str) -> None:
        """A word, and its retraction, perhaps twice."""
        word = self.say(decision_id, "rating", 0.0)
        if word.id is None:
            return
        for _ in range(self._rng.choice([1, 1, 2])):
            answer = self._caller.call("retractions", "DELETE", f"/v1/feedback/{word.id}")
            if answer is not None and not answer.good:
                self._caller.refused("retractions", answer)
            if word.taken_back is not True:
                word.taken_back = True if answer is not None and answer.good else None

    def _batch(self, decision_id: str) -> None:
        """Many words at once; each is answered on its own."""
        about = [decision_id, *self._rng.sample(list(self._decided), min(4, len(self._decided)))]
        words = [self._word(of, "rating", self._rng.randrange(5) / 4) for of in about]
        self.ledger.words += words
        items = {"items": [_body(word) for word in words]}
        answer = self._caller.call("batches", "POST", "/v1/feedback/batch", items)
        if answer is None:
            return
        if not answer.good:
            self._caller.refused("batches", answer)
            return
        for word, result in zip(words, answer.body["results"], strict=True):
            if result["status"] in AGAIN:
                self._hear(word, self._send(word))
            else:
                self._hear(word, Answer(status=result["status"], body=result, tries=1))

    def _comment(self, decision_id: str) -> None:
        """A word that carries no reward."""
        self.say(decision_id, "comment", f"words of {self.name}")

    def _err(self, decision_id: str) -> None:
        """What must be refused: another body under a known key, a value out of range, no such decision."""
        word = self.say(decision_id, "rating", 0.5)
        if word.id is not None:
            self._refuse(self._send(word, value=0.75), 409, word.key)
        bad = self._word(decision_id, "rating", 2.0)
        self._refuse(self._send(bad), 422, bad.key)
        nowhere = self._word("01900000-0000-7000-8000-000000000000", "thumb", True)
        self._refuse(self._send(nowhere), 404, nowhere.key)

    def _refuse(self, answer: Answer | None, expected: int, key: str | None) -> None:
        if answer is None:
            return
        self._caller.refused("feedback", answer, expected=expected, key=key)
        if answer.good:
            self.ledger.broken.append(f"key {key}: {expected} was wanted, it was taken")

    _habits: Sequence[tuple[float, Callable[[Client, str], None]]] = (
        (0.15, _repeat),
        (0.10, _race),
        (0.10, _race_others),
        (0.20, _change_mind),
        (0.10, _click_twice),
        (0.10, _late),
        (0.12, _take_back),
        (0.06, _batch),
        (0.05, _comment),
        (0.05, _err),
    )

    # -- what it knows ------------------------------------------------------------------------------

    def key(self) -> str:
        """Return a key that nobody has used."""
        self._numbered += 1
        return f"{self.name}-{self._numbered}"

    def tick(self) -> float:
        """Return now, later than every earlier now [s since 1970]."""
        self._clock = round(max(self._clock + 1e-3, time.time()), 6)
        return self._clock


class Operator(Client):
    """Changes models and erases users, while others play."""

    def erase(self, number: int) -> None:
        """Let a user come, decide, speak about their own and others' decisions, and be erased."""
        user, began = f"leaver-{number}", dict(self.ledger.requests)
        made = [self.choose(user)[0] for _ in range(4)]
        for decision in filter(None, made):
            self.say(str(decision["id"]), "thumb", True, source=user)
        for of in self._rng.sample(list(self._decided), min(3, len(self._decided))):
            self.say(of, "rating", 0.0, source=user)
        troubled = _troubles(self.ledger.requests) > _troubles(began)
        answer = self._caller.call("admin", "DELETE", f"/v1/users/{user}")
        if answer is not None and not answer.good:
            self._caller.refused("admin", answer)
        told = answer is not None and answer.good
        self.ledger.erasures.append(Erasure(user=user, acknowledged=told, sure=not troubled))

    def put_model(self, name: str) -> None:
        """Add a model, or resume it."""
        self._change(name, "PUT", {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}, kept=True)

    def retire_model(self, name: str) -> None:
        """Retire a model."""
        self._change(name, "DELETE", None, kept=False)

    def _change(self, name: str, method: str, body: Body | None, *, kept: bool) -> None:
        before = self.ledger.models.get(name)
        path = f"/v1/routers/default/models/{name}"
        answer = self._caller.call("admin", method, path, body)
        gone = answer is not None and answer.status == 404 and not kept  # an earlier attempt did it
        if answer is not None and not answer.good and not gone:
            self._caller.refused("admin", answer)
        sure = answer is not None and (answer.good or gone) and answer.tries == 1
        self.ledger.models[name] = kept if sure or before == kept else None


def _body(word: Word) -> dict[str, Any]:  # Any: JSON
    body = {"decision_id": word.decision_id, "name": word.name, "value": word.value}
    body |= {"source": word.source, "at": word.at}
    return body if word.key is None else body | {"key": word.key}


def _json(answer: httpx.Response) -> Any:  # Any: JSON
    try:
        return answer.json()
    except ValueError:  # not even an error of ours
        return {"error": answer.text[:200]}


def _troubles(requests: Mapping[tuple[str, str], int]) -> int:
    """How many requests had no good answer."""
    return sum(number for (_, how), number in requests.items() if not how.startswith("2"))
