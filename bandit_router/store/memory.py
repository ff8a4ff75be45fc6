"""Beliefs in this process's memory: the embedded default. The log's reward rows fill it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice

from bandit_router.errors import StaleGenerationError
from bandit_router.evidence import Delta, Evidence
from bandit_router.store.contract import Changes, Snapshot

_REMEMBERED = 4_096  # deltas that a reader may be behind before it must take a snapshot


class _Book:
    """One generation of one router."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.generation = snapshot.generation
        self.half_life_s = snapshot.half_life_s
        self.evidence = {model: sums.copy() for model, sums in snapshot.evidence.items()}
        self.complete = snapshot.complete
        self.keys = {key for key in snapshot.beyond if key > 2 * snapshot.complete + 1}
        self.recent: deque[Delta] = deque(maxlen=_REMEMBERED)
        self.position = snapshot.position

    def count(self, delta: Delta) -> bool:
        if delta.key <= 2 * self.complete + 1 or delta.key in self.keys:
            return False
        if delta.model not in self.evidence:
            dim = len(delta.observation.x)
            self.evidence[delta.model] = Evidence(dim, half_life=self.half_life_s)
        self.evidence[delta.model].add(delta.observation)
        self.keys.add(delta.key)
        self.recent.append(delta)
        self.position += 1
        return True

    def forget_keys(self, complete: int) -> None:
        if complete > self.complete:
            self.complete = complete
            self.keys = {key for key in self.keys if key > 2 * complete + 1}

    def snapshot(self) -> Snapshot:
        evidence = {model: sums.copy() for model, sums in self.evidence.items()}
        return Snapshot(
            generation=self.generation,
            position=self.position,
            complete=self.complete,
            half_life_s=self.half_life_s,
            evidence=evidence,
            beyond=frozenset(self.keys),
        )


class MemoryStore:
    """Beliefs that live and die with this process.

    Examples
    --------
    >>> store = MemoryStore()
    >>> store.read("default", generation=0, after=None) is None
    True
    """

    shared = False
    trouble: str | None = None

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return "MemoryStore()"

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        """As `PosteriorStore.append`."""
        with self._lock:
            book = self._books.get(router)
            if book is None or book.generation != generation:
                held = "nothing" if book is None else f"generation {book.generation}"
                raise StaleGenerationError(
                    f"store: {router!r} holds {held}, not generation {generation}"
                )
            known = after is None or 0 <= after <= book.position
            new = sum(book.count(delta) for delta in deltas)
            if known:
                book.forget_keys(complete)
            self._changed.notify_all()
            return new

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        """As `PosteriorStore.read`."""
        with self._lock:
            book = self._books.get(router)
            if book is None:
                return None
            behind = None if after is None else book.position - after
            if book.generation != generation or behind is None or not 0 <= behind <= len(book.recent):
                return book.snapshot()
            deltas = tuple(islice(book.recent, len(book.recent) - behind, None))
            return Changes(position=book.position, deltas=deltas)

    def replace(self, router: str, snapshot: Snapshot) -> None:
        """As `PosteriorStore.replace`."""
        with self._lock:
            book = self._books.get(router)
            if book is not None and book.generation >= snapshot.generation:
                held, new = book.generation, snapshot.generation
                raise StaleGenerationError(
                    f"store: {router!r} holds generation {held}, not one before {new}"
                )
            self._books[router] = _Book(snapshot)
            self._changed.notify_all()

    def wait(self, router: str, *, after: int, timeout_s: float) -> bool:
        """As `PosteriorStore.wait`."""

        def moved() -> bool:
            book = self._books.get(router)
            return book is not None and book.position != after

        with self._changed:
            return self._changed.wait_for(moved, timeout_s)

    def close(self) -> None:
        """As `PosteriorStore.close`."""
