"""Buckets: what is taken, from all or none, alike in a process and in Redis; in time, or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from bandit_router.errors import StoreUnavailableError
from bandit_router.service.buckets import Bucket, Buckets, LocalBuckets, SharedBuckets
from simulations.chaos.servers import RedisServer

PATIENCE_S = 5.0  # where a slow machine shall not matter


def bucket(name: str = "{a}", *, per_minute: float = 60.0, burst: int = 3) -> Bucket:
    return Bucket.of(name, name, per_minute, burst)


@pytest.fixture(params=["local", "redis", "cluster"])
def use(
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[Buckets], Awaitable[None]]], None]:
    """Run a test on each kind of buckets."""
    urls = {"redis": "redis_url", "cluster": "redis_cluster_url"}
    url = request.getfixturevalue(urls[request.param]) if request.param in urls else None

    async def run(test: Callable[[Buckets], Awaitable[None]]) -> None:
        buckets = LocalBuckets() if url is None else SharedBuckets(url, patience_s=PATIENCE_S)
        try:
            await test(buckets)
        finally:
            await buckets.aclose()

    return lambda test: asyncio.run(run(test))


Use = Callable[[Callable[[Buckets], Awaitable[None]]], None]


def test_what_comes_at_once_and_what_comes_back(use: Use) -> None:
    async def test(buckets: Buckets) -> None:
        one = bucket(per_minute=300.0)  # one in 0.2 s
        taken = await buckets.take([[one]] * 5)
        assert taken[:3] == [None] * 3
        for empty in taken[3:]:
            assert empty is not None
            assert empty.bucket == one
            assert 0.0 < empty.wait_s <= 0.2
        last = taken[4]
        assert last is not None
        await asyncio.sleep(last.wait_s + 0.005)
        assert await buckets.take([[one]]) == [None]  # the wait that was told is true

    use(test)


def test_a_charge_takes_from_all_or_none(use: Use) -> None:
    async def test(buckets: Buckets) -> None:
        key, small = bucket("{a}:key", burst=3), bucket("{a}:small", burst=1)
        taken = await buckets.take([[small, key]] * 5)
        assert [empty and empty.bucket for empty in taken] == [None] + [small] * 4
        taken = await buckets.take([[key], [], [key], [key]])
        assert [empty and empty.bucket for empty in taken] == [None, None, None, key]
        assert await buckets.take([]) == []

    use(test)


def test_a_batch_of_a_thousand(use: Use) -> None:
    async def test(buckets: Buckets) -> None:
        key = bucket("{a}:key", burst=600)
        taken = await buckets.take([[key, bucket(f"{{a}}:{i}", burst=1)] for i in range(1_000)])
        assert [empty is None for empty in taken] == [True] * 600 + [False] * 400

    use(test)


def test_the_same_sequence_is_answered_alike(redis_url: str) -> None:
    """Rates so slow that no time passes: whatever is left is counted alike."""
    names = [bucket(f"{{a}}:{i}", per_minute=1e-3, burst=i + 1) for i in range(4)]
    charges = [[names[(i * i) % 4], names[i % 3]] for i in range(60)]
    charges = [list(dict.fromkeys(charge)) for charge in charges]

    async def run() -> None:
        shared = SharedBuckets(redis_url, patience_s=PATIENCE_S)
        local = await LocalBuckets(clock=lambda: 1.0).take(charges)
        answers = [(await shared.take([charge]))[0] for charge in charges]
        await shared.aclose()
        for mine, theirs in zip(local, answers, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or theirs is None or mine.wait_s == pytest.approx(theirs.wait_s, abs=60)

    asyncio.run(run())


def test_what_stands_in_redis_is_bounded_and_not_trusted(own_redis: RedisServer) -> None:
    async def run() -> None:
        buckets = SharedBuckets(own_redis.url + "?timeout=1&slow=0.9", patience_s=PATIENCE_S)
        one = bucket(burst=3)
        with own_redis.client() as redis:
            assert await buckets.take([[one]]) == [None]
            assert 0 < redis.pttl("{a}") <= 1_000  # full again then
            for value in ("9" * 300, "-5", "nonsense", "nan", "inf", str(2**62)):
                redis.set("{a}", value)
                (empty,) = await buckets.take([[one]])
                assert empty is None or empty.wait_s <= 1.0, value
            redis.delete("{a}")
            redis.lpush("{a}", "a list")
            assert await buckets.take([[one]]) == [None]
            redis.script_flush()
            assert await buckets.take([[one]]) == [None]
        await buckets.aclose()

    asyncio.run(run())


def test_a_redis_that_stands_still_is_not_waited_for(own_redis: RedisServer) -> None:
    async def run() -> None:
        buckets, ticks = SharedBuckets(own_redis.url, patience_s=0.3), 0

        async def ticking() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        assert await buckets.take([[bucket()]]) == [None]
        ticker = asyncio.create_task(ticking())
        os.kill(own_redis.process.pid, signal.SIGSTOP)
        try:
            waits = []
            for _ in range(20):
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    await buckets.take([[bucket()]])
                waits.append(time.monotonic() - began)
        finally:
            os.kill(own_redis.process.pid, signal.SIGCONT)
        assert max(waits) < 3.0  # on a busy machine; else they would be for ever
        assert sum(wait > 0.1 for wait in waits) <= 8  # then the breaker is open
        assert ticks > 15  # the event loop went on while they waited
        deadline = time.monotonic() + 20
        while True:
            try:
                await buckets.take([[bucket()]])
                break
            except StoreUnavailableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        ticker.cancel()
        await buckets.aclose()

    asyncio.run(run())


def test_a_redis_that_is_started_again(own_redis: RedisServer) -> None:
    async def run() -> None:
        buckets = SharedBuckets(own_redis.url, patience_s=PATIENCE_S)
        await buckets.take([[bucket()]])
        own_redis.stop()
        own_redis.start()
        assert await buckets.take([[bucket()]]) == [None]  # over a new connection
        await buckets.aclose()

    asyncio.run(run())


def test_a_process_forgets_what_is_full_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit_router.service.buckets.REMEMBERED", 10)
    buckets = LocalBuckets(clock=lambda: 0.0)
    asyncio.run(buckets.take([[bucket(f"{{{i}}}")] for i in range(100)]))
    assert len(buckets._full) == 10
