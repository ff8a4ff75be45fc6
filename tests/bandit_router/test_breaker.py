"""Breaker: it opens on errors and on slowness, and one call at a time tries."""

from __future__ import annotations

import threading

from bandit_router.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock) -> Breaker:
    breaker = Breaker(slow_s=0.5, failures=3, rest_s=2.0, clock=clock)
    for _ in range(3):
        breaker.failed("away")
    return breaker


def test_a_few_failures_do_not_open_it() -> None:
    breaker = Breaker(slow_s=0.5, failures=3, clock=Clock())
    for _ in range(10):
        breaker.failed("away")
        breaker.failed("away")
        breaker.succeeded(took_s=0.1)
    assert breaker.allows()
    assert breaker.trouble is None


def test_slow_answers_open_it_like_errors() -> None:
    breaker = Breaker(slow_s=0.5, failures=3, clock=Clock())
    for _ in range(3):
        assert breaker.allows()
        breaker.succeeded(took_s=0.6)
    assert not breaker.allows()
    assert breaker.trouble == "it took 0.6 s"


def test_open_it_refuses_until_it_has_rested_and_a_bad_try_opens_it_again() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now = 1.9
    assert not breaker.allows()
    clock.now = 2.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.failed("still away")
    clock.now = 3.9
    assert not breaker.allows()
    assert breaker.trouble == "still away"


def test_a_good_try_closes_it() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now = 2.0
    assert breaker.allows()
    breaker.succeeded(took_s=0.1)
    assert [breaker.allows() for _ in range(3)] == [True, True, True]


def test_a_try_that_never_comes_back_blocks_nobody_for_long() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now = 2.0
    assert breaker.allows()
    clock.now = 4.0
    assert breaker.allows()


def test_one_of_many_threads_tries() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now = 2.0
    allowed: list[bool] = []
    threads = [threading.Thread(target=lambda: allowed.append(breaker.allows())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 1
