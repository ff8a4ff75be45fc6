"""How long a request may wait for the log, and where its decision goes when that is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from bandit_router.errors import SettingsError
from bandit_router.values import check_amount, check_count, check_name

_until: ContextVar[float | None] = ContextVar("bandit_router_until", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What is borne while the log is slow or away.

    Attributes
    ----------
    timeout_s : float
        How long one request waits for the log, all in all [s].
    journal : str, optional
        The folder where decisions wait for a log that is away; by default beside an embedded log, else in
        the user's state folder.
    journal_bytes : int
        How much may wait there, of all processes together.

    Examples
    --------
    >>> Patience(timeout_s=0)
    Traceback (most recent call last):
        ...
    bandit_router.errors.SettingsError: log_timeout_s: expected a number above 0, got 0
    """

    timeout_s: float = 5.0
    journal: str | Path | None = None
    journal_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        try:
            if check_amount("log_timeout_s", self.timeout_s) == 0:
                raise ValueError("log_timeout_s: expected a number above 0, got 0")
            check_count("journal_bytes", self.journal_bytes)
            if self.journal is not None and not isinstance(self.journal, Path):
                check_name("journal", self.journal)
        except (TypeError, ValueError) as error:
            raise SettingsError(str(error)) from error


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let all waits for the log inside it, together, take no longer; of two limits the earlier one counts.

    Examples
    --------
    >>> with within(60.0), within(120.0):
    ...     remaining(5.0), round(remaining(300.0))
    (5.0, 60)
    """
    until, outer = time.monotonic() + seconds, _until.get()
    token = _until.set(until if outer is None else min(until, outer))
    try:
        yield
    finally:
        _until.reset(token)


def remaining(seconds: float) -> float:
    """Return how long may still be waited: `seconds`, or what is left of the time around it [s]."""
    until = _until.get()
    return seconds if until is None else max(0.0, min(seconds, until - time.monotonic()))
