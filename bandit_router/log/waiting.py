"""Waiting for PostgreSQL, but not for ever: a server that is frozen keeps its connections alive."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any

import psycopg

SILENCE_S = 20.0  # how long a server may say nothing while it is waited for
Steps = Generator[Any, Any, Any]  # Any: psycopg's own states, and what an operation returns


class BoundedConnection(psycopg.Connection[Any]):  # Any: rows as SQLAlchemy wants them
    """A connection that ends by itself where the server keeps silent.

    Attributes
    ----------
    until : float
        When its transaction must be over, whatever the server says; by the monotonic clock [s].
    silence_s : float
        How long the server may say nothing [s].
    """

    until: float = math.inf
    silence_s: float = SILENCE_S

    def wait(self, gen: Steps, *arguments: Any, **options: Any) -> Any:  # Any: as psycopg's own
        """Wait as psycopg does, for every exchange with the server, but end what takes too long."""
        try:
            return super().wait(_bounded(gen, self.until, self.silence_s), *arguments, **options)
        except _TooLongError as error:
            self.close()  # in the middle of an exchange: nothing else can be said on it
            raise psycopg.OperationalError(str(error)) from None


class _TooLongError(Exception):
    """Raised when a server was waited for long enough."""


def _bounded(gen: Steps, until: float, silence_s: float) -> Steps:
    """The same steps, looked at each time that psycopg wakes up: when something came, or nothing for 0.1 s."""
    heard = time.monotonic()
    try:
        state = next(gen)
        while True:
            ready = yield state
            now = time.monotonic()
            if ready:
                heard = now
            elif now > min(until, heard + silence_s):
                raise _TooLongError(f"the server has said nothing for {now - heard:.1f} s")
            state = gen.send(ready)
    except StopIteration as done:
        return done.value
    finally:
        gen.close()
