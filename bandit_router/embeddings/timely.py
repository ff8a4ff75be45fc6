"""Timely: what is slow comes within a time limit, from memory, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from bandit_router.breaker import Breaker
from bandit_router.embeddings.sources import CONNECTIONS, RefusedTextError
from bandit_router.errors import BanditRouterError, EmbeddingsUnavailableError
from bandit_router.values import Array

logger = logging.getLogger(__name__)
Answer = Array | EmbeddingsUnavailableError


@dataclass(slots=True, eq=False)
class _Call:
    """One call that is under way; its future never raises, so that nobody must look at it."""

    began: float
    future: Future[Answer] = field(default_factory=Future)
    told: bool = False


class Timely:
    """Calls a slow function of a text, so that nobody waits longer than a time limit.

    Results are remembered, the least recently used forgotten first; of the text only a hash. Several who ask
    for one text at once share a call. A call that comes too late goes on, for those who ask again. When calls
    fail or are late, one after another, nobody waits any more, until one that runs beside them is good again.

    Parameters
    ----------
    call : callable
        From a text to a vector; raises what it likes.
    timeout_s : float
        How long anybody waits [s].
    memory : int
        How many results are remembered.
    clock : callable
        Returns seconds, monotonic.

    Examples
    --------
    >>> import numpy as np
    >>> timely = Timely(lambda text: np.array([float(len(text))]), timeout_s=1.0)
    >>> timely.get("four")
    array([4.])
    """

    def __init__(
        self,
        call: Callable[[str], Array],
        *,
        timeout_s: float,
        memory: int = 4_096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeout_s = timeout_s
        self._call, self._memory, self._clock = call, memory, clock
        self._breaker = Breaker(slow_s=timeout_s, clock=clock)
        self._known: OrderedDict[bytes, Array] = OrderedDict()
        self._calls: dict[bytes, _Call] = {}
        self._lock = threading.Lock()

    @property
    def trouble(self) -> str | None:
        """Why nobody waits at the moment; None where all is well."""
        return self._breaker.trouble

    def get(self, text: str) -> Array:
        """Return the vector of a text.

        Raises
        ------
        EmbeddingsUnavailableError
            It does not come in time, or is no good.
        """
        found = self._known_or_called(text)
        if not isinstance(found, _Call):
            return found
        try:
            return _opened(found.future.result(self.timeout_s))
        except TimeoutError:
            raise self._late(found) from None

    async def aget(self, text: str) -> Array:
        """As `get`, without blocking the event loop."""
        found = self._known_or_called(text)
        if not isinstance(found, _Call):
            return found
        try:
            # Its future is running, so that giving up the wait cancels nothing for others.
            answer = await asyncio.wait_for(asyncio.wrap_future(found.future), self.timeout_s)
        except TimeoutError:
            raise self._late(found) from None
        return _opened(answer)

    def find(self, text: str) -> Array | None:
        """Return the vector of a text that is remembered."""
        with self._lock:
            return self._find(_hash(text))

    def keep(self, text: str, vector: Array) -> None:
        """Remember the vector of a text."""
        with self._lock:
            self._keep(_hash(text), vector)

    def _known_or_called(self, text: str) -> Array | _Call:
        of = _hash(text)
        with self._lock:
            known = self._find(of)
            if known is not None:
                return known
            call, trouble = self._calls.get(of), self._breaker.trouble
            if call is None and (trouble is None or self._breaker.allows()):
                call = self._begin(of, text)
        if trouble is not None or call is None:
            raise EmbeddingsUnavailableError(f"embeddings: nobody waits for them now: {trouble}")
        return call

    def _begin(self, of: bytes, text: str) -> _Call:
        if len(self._calls) >= CONNECTIONS:
            raise EmbeddingsUnavailableError(f"embeddings: {CONNECTIONS} are under way already")
        call = _Call(self._clock())
        call.future.set_running_or_notify_cancel()
        thread = threading.Thread(
            target=self._run, args=(of, text, call), name="bandit-router-embedding", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise EmbeddingsUnavailableError(f"embeddings: {error}") from error
        self._calls[of] = call
        return call

    def _run(self, of: bytes, text: str, call: _Call) -> None:
        answer = self._answer(text, call)
        with self._lock:
            self._calls.pop(of, None)
            if not isinstance(answer, EmbeddingsUnavailableError):
                self._keep(of, answer)
        call.future.set_result(answer)

    def _answer(self, text: str, call: _Call) -> Answer:
        try:
            vector = self._call(text)
        except RefusedTextError as error:
            return error  # nobody else's trouble
        except Exception as error:
            self._tell(
                call, str(error) if isinstance(error, BanditRouterError) else type(error).__name__
            )
            return (
                error
                if isinstance(error, EmbeddingsUnavailableError)
                else EmbeddingsUnavailableError(f"embeddings: {type(error).__name__}")
            )
        took_s = self._clock() - call.began
        if took_s <= self.timeout_s:
            self._breaker.succeeded(took_s=took_s)
        else:
            self._tell(call, f"it took {took_s:.2g} s")
        return vector

    def _late(self, call: _Call) -> EmbeddingsUnavailableError:
        self._tell(call, f"nothing came within {self.timeout_s:g} s")
        return EmbeddingsUnavailableError(f"embeddings: nothing came within {self.timeout_s:g} s")

    def _tell(self, call: _Call, trouble: str) -> None:
        """Count a bad call once, whoever notices first."""
        with self._lock:
            told, call.told = call.told, True
        if not told:
            well = self._breaker.trouble is None
            self._breaker.failed(trouble)
            if well and self._breaker.trouble is not None:
                logger.warning("embeddings: nobody waits for them until they come again: %s", trouble)

    def _find(self, of: bytes) -> Array | None:
        if of in self._known:
            self._known.move_to_end(of)
        return self._known.get(of)

    def _keep(self, of: bytes, vector: Array) -> None:
        self._known[of] = vector
        self._known.move_to_end(of)
        while len(self._known) > self._memory:
            self._known.popitem(last=False)


def _opened(answer: Answer) -> Array:
    if isinstance(answer, EmbeddingsUnavailableError):
        raise EmbeddingsUnavailableError(str(answer))  # a fresh one for each who waited
    return answer


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
