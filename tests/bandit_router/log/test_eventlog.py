"""EventLog: what says that it is away, and what does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from bandit_router import EventLog, LogUnavailableError
from bandit_router.log import eventlog
from bandit_router.log.patience import Patience, within
from bandit_router.log.registration import router_names

TIMEOUT_S = 0.2


@pytest.fixture
def log(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventLog]:
    monkeypatch.setattr(eventlog, "REST_S", 60.0)  # nobody tries again meanwhile
    with EventLog.open(url, patience=Patience(timeout_s=TIMEOUT_S)) as opened:
        yield opened


@contextmanager
def busy(log: EventLog) -> Iterator[None]:
    """The log's writer has something to do meanwhile."""
    entered, ends = threading.Event(), threading.Event()

    def holds(_: sa.Connection) -> None:
        entered.set()
        ends.wait(60)

    held = log.writer.submit(holds)
    assert entered.wait(60)
    try:
        yield
    finally:
        ends.set()
        held.result(60)


def nothing(_: sa.Connection) -> None:
    """A job that is soon done."""


def give_up(log: EventLog) -> None:
    """Write something, and hear nothing of it."""
    with pytest.raises(LogUnavailableError, match="no answer"):
        log.result(log.write(nothing))


def test_time_that_went_elsewhere_says_nothing_of_writing(log: EventLog) -> None:
    with busy(log):
        for _ in range(5):
            with within(TIMEOUT_S / 10):
                give_up(log)
        assert log.trouble is None
        for _ in range(3):
            give_up(log)
        assert "no answer within 0.2 s" in str(log.trouble)


def test_slow_reads_refuse_reads_and_no_writes(log: EventLog) -> None:
    def slow(_: sa.Connection) -> None:
        time.sleep(1.5 * TIMEOUT_S)

    for _ in range(3):
        with pytest.raises(LogUnavailableError, match="no answer"):
            log.ask(slow)
    deadline = time.monotonic() + 60
    while log._reading.trouble is None:  # the last one may still be at it
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(LogUnavailableError, match="it is away: it took"):
        log.ask(router_names)
    assert log.trouble is None
    log.write(nothing).result(60)


def test_slow_writes_refuse_writes_and_no_reads(log: EventLog) -> None:
    with busy(log):
        for _ in range(3):
            give_up(log)
        with pytest.raises(LogUnavailableError, match="away"):
            log.write(nothing)
        assert log._asking(router_names, 60.0).result(60) == []
