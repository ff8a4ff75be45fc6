"""Breaker: when a dependency fails or is slow, nobody waits for it any more; now and then one call tries it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Says whether a dependency is worth asking. It opens on errors, and on slowness as well.

    Closed, all calls go through. After `failures` bad calls in a row it opens: calls are refused at once, for
    `rest_s`. Then one call at a time may try; a good one closes it, a bad one lets it rest again.

    Parameters
    ----------
    slow_s : float
        A call that takes longer is a bad one, whatever it brings [s].
    failures : int
        How many bad calls in a row open it.
    rest_s : float
        How long it stays open before a call may try [s].
    clock : callable
        Returns seconds, monotonic.

    Examples
    --------
    >>> now = [0.0]
    >>> breaker = Breaker(slow_s=0.5, failures=2, rest_s=1.0, clock=lambda: now[0])
    >>> breaker.failed("away"), breaker.succeeded(took_s=0.9)  # slow is bad too
    (None, None)
    >>> breaker.trouble, breaker.allows()
    ('it took 0.9 s', False)
    >>> now[0] = 1.0
    >>> breaker.allows(), breaker.allows()  # one may try
    (True, False)
    >>> breaker.succeeded(took_s=0.1)
    >>> breaker.trouble is None, breaker.allows()
    (True, True)
    """

    def __init__(
        self,
        *,
        slow_s: float,
        failures: int = 3,
        rest_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slow_s, self._failures, self._rest_s, self._clock = slow_s, failures, rest_s, clock
        self._bad, self._until = 0, 0.0
        self._trouble: str | None = None
        self._lock = threading.Lock()

    @property
    def trouble(self) -> str | None:
        """Why it is open; None while it is closed."""
        return self._trouble

    def allows(self) -> bool:
        """Whether a call may go through; while it is open, whoever is told so first tries for all."""
        if self._trouble is None:
            return True
        with self._lock:
            now = self._clock()
            if self._trouble is not None and now < self._until:
                return False
            self._until = (
                now + self._rest_s
            )  # one that tries and never comes back blocks nobody for long
            return True

    def succeeded(self, *, took_s: float) -> None:
        """Tell that a call came back with an answer, and how long it took [s]."""
        if took_s > self._slow_s:
            self.failed(f"it took {took_s:.2g} s")
            return
        if self._bad or self._trouble is not None:
            with self._lock:
                self._bad, self._trouble = 0, None

    def failed(self, trouble: str) -> None:
        """Tell that a call brought nothing, and why."""
        with self._lock:
            self._bad += 1
            if self._bad >= self._failures:
                self._trouble, self._until = trouble, self._clock() + self._rest_s
