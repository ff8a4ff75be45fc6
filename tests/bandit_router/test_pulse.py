"""Pulse: who asks is answered by a step that begins afterwards, or told at once why there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bandit_router import ClosedError, StoreUnavailableError
from bandit_router.pulse import Pulse


class Work:
    """Steps that begin, and end when they are let."""

    def __init__(self) -> None:
        self.began, self.end = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None
        self.pulse = Pulse("working", self.step, rest=self.idle, leave=self.idle, every_s=60.0)

    def step(self) -> None:
        self.began.release()
        self.end.acquire(timeout=20)
        if self.error is not None:
            raise self.error

    def idle(self) -> None:
        """What can wait does."""


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.end.release(100)
    work.pulse.close()


def test_a_step_that_had_begun_answers_nobody(work: Work) -> None:
    first = work.pulse.ask()
    work.began.acquire()
    second = work.pulse.ask(patient=False)
    work.end.release()
    assert first.result(20) is None
    work.began.acquire()
    assert not second.done()
    work.end.release()
    assert second.result(20) is None


def test_a_step_that_fails_answers_the_impatient_too(work: Work) -> None:
    work.error = StoreUnavailableError("away")
    first = work.pulse.ask()
    work.began.acquire()
    hasty, patient = work.pulse.ask(patient=False), work.pulse.ask()
    work.end.release()
    for future in (first, hasty):
        with pytest.raises(StoreUnavailableError, match="away"):
            future.result(20)
    assert work.pulse.error is work.error
    work.began.acquire()
    assert not patient.done()
    work.error = None
    work.end.release()
    assert patient.result(20) is None


def test_somebody_else_may_know_what_a_step_would_meet(work: Work) -> None:
    work.pulse.ask()
    work.began.acquire()
    hasty, patient = work.pulse.ask(patient=False), work.pulse.ask()
    gone = work.pulse.ask(patient=False)
    gone.cancel()
    work.pulse.refuse(StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError, match="away"):
        hasty.result(20)
    assert not patient.done()


def test_a_closed_pulse_refuses(work: Work) -> None:
    future = work.pulse.ask()
    work.end.release(2)
    work.pulse.close()
    assert future.result(20) is None
    for ask in (work.pulse.ask, work.pulse.check):
        with pytest.raises(ClosedError):
            ask()
