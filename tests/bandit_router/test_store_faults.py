"""What happens when the shared store misbehaves: nothing is lost, nothing counts twice, and nobody waits."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
import sqlalchemy as sa
from beliefs import BACK_S, demand_fold, hear, until, until_well

from bandit_router import Outcome, Router, Uniform
from bandit_router.log.following import HELD_BACK, SETTLE_S
from bandit_router.store.redis import RedisStore
from simulations.chaos.proxy import CLEAR, CUT, DEAF, HALF_OPEN, Link, Weather
from simulations.chaos.servers import RedisServer

Open = Callable[..., Router]
TIMEOUT_S = 0.5  # of one call of `pair` to Redis
SLACK_S = 2.0  # for a machine that is busy
# There and back it is always slow, which is half of the time limit, and yet within that.
SLUGGISH = Weather(delay_s=0.36 * TIMEOUT_S, spread=0.0)
WORDS = int(os.environ.get("BANDIT_ROUTER_TEST_WORDS", "600"))


# Each fault begins, and ends: yields meanwhile.


@contextmanager
def weather(links: tuple[Link, Link], bad: Weather) -> Iterator[None]:
    for link in links:
        link.turn(bad)
    yield
    for link in links:
        link.turn(CLEAR)


@contextmanager
def stopped(server: RedisServer, how: str) -> Iterator[None]:
    getattr(server, how)()
    yield
    server.start()


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    server.process.send_signal(signal.SIGSTOP)
    yield
    server.process.send_signal(signal.SIGCONT)


@contextmanager
def full(server: RedisServer, policy: str) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def older(server: RedisServer, spare: Path) -> Iterator[None]:
    """It dies, and comes back as it was when it was copied."""
    server.kill()
    shutil.rmtree(server.folder)
    yield
    shutil.copytree(spare, server.folder)
    server.start()


FAULTS: dict[str, Callable[[RedisServer, tuple[Link, Link], Path], object]] = {
    "slow": lambda server, links, spare: weather(links, SLUGGISH),
    "cut off": lambda server, links, spare: weather(links, CUT),
    "half-open": lambda server, links, spare: weather(links, HALF_OPEN),
    "deaf": lambda server, links, spare: weather(links, DEAF),
    "down": lambda server, links, spare: stopped(server, "stop"),
    "killed": lambda server, links, spare: stopped(server, "kill"),
    "frozen": lambda server, links, spare: frozen(server),
    "out of memory": lambda server, links, spare: full(server, "noeviction"),
    "evicting": lambda server, links, spare: full(server, "allkeys-random"),
    "older": lambda server, links, spare: older(server, spare),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nobody_waits_for_a_redis_in_trouble_and_nothing_is_lost(
    fault: str,
    pair: tuple[Router, Router],
    own_redis: RedisServer,
    links: tuple[Link, Link],
    tmp_path: Path,
) -> None:
    for router in pair:
        hear(router, 3)
    until_well(6, *pair)
    shutil.copytree(own_redis.folder, tmp_path / "older")
    hear(pair[0], 2)
    until_well(8, *pair)
    with FAULTS[fault](own_redis, links, tmp_path / "older"):
        for router in pair:
            begun = time.monotonic()
            hear(router, 4 if fault == "slow" else 1)
            assert time.monotonic() - begun < 4 * TIMEOUT_S + SLACK_S
        until(lambda: all(r.health().store for r in pair), BACK_S, lambda: [r.health() for r in pair])
        begun = time.monotonic()
        for router in pair:
            assert not any(hear(router, 10))  # durable, and answered at once
        assert time.monotonic() - begun < 3 * TIMEOUT_S + SLACK_S  # and not twenty times that of a call
    n = 6 + 2 + 2 * (4 if fault == "slow" else 1) + 20
    until_well(n, *pair)
    demand_fold(*pair)
    for router in pair:
        hear(router, 2)
    until_well(n + 4, *pair)
    demand_fold(*pair)


def test_whoever_is_cut_off_alone_goes_on_with_its_last_beliefs(
    pair: tuple[Router, Router], links: tuple[Link, Link]
) -> None:
    one, two = pair
    hear(one, 6)
    until_well(6, *pair)
    links[0].turn(CUT)
    until(lambda: one.health().store is not None, BACK_S, one.health)
    assert not any(hear(one, 5))
    assert any(hear(two, 5))
    until_well(16, two)  # what the other heard is in the log, and so in these beliefs
    assert one.health().observations == 6
    assert one.choose("x").candidates  # and it chooses
    links[0].turn(CLEAR)
    until_well(16, *pair)
    demand_fold(*pair)


def test_a_redis_that_is_flushed_while_it_is_busy_is_filled_again(
    pair: tuple[Router, Router], own_redis: RedisServer
) -> None:
    heard = [0, 0]

    def talk(k: int) -> None:
        for _ in range(15):
            hear(pair[k], 1)
            heard[k] += 1

    threads = [threading.Thread(target=talk, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    with own_redis.client() as client:
        while min(heard) < 15:
            client.flushall()
            time.sleep(0.1)
    for thread in threads:
        thread.join()
    until_well(30, *pair)
    demand_fold(*pair)


def test_what_is_changed_or_asked_meanwhile_needs_no_redis(
    open_router: Open, own_redis: RedisServer
) -> None:
    router = open_router(store=f"{own_redis.url}?timeout={TIMEOUT_S}")
    decision = router.choose("x", user="user:1")
    hear(router, 3)
    router.feedback(decision.id, "thumb", True)
    own_redis.stop()
    until(lambda: router.health().store is not None, BACK_S, router.health)
    router.report(decision.id, Outcome(output_tokens=10))
    assert router.configure(policy=Uniform()).policy == Uniform()
    assert sum(belief["n"] for belief in router.beliefs().values()) == 4  # the last beliefs
    router.retire_model("large")
    assert [model.name for model in router.models] == ["small"]
    assert router.forget_user("user:1").decisions == 1
    assert sum(belief["n"] for belief in router.beliefs().values()) == 3  # its own fold
    router.rebuild()
    hear(router, 2)
    own_redis.start()
    until_well(5, router)
    demand_fold(router)


# A worker that stands still

WORKER = """
import sys
from bandit_router import Router
from bandit_router.store.redis import RedisStore

log, store = sys.argv[1:]
store = RedisStore.from_url(store, snapshot_every=5)
with Router.open(log, store=store) as router:
    for line in sys.stdin:
        for _ in range(int(line)):
            router.feedback(router.choose("x").id, "thumb", True)
        print(router.health().observations, flush=True)
store.close()
"""


def ask(other: subprocess.Popen[str]) -> float:
    """How much a worker in another process holds."""
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write("0\n")
    return float(other.stdout.readline())


def test_a_worker_that_stood_still_while_others_trimmed_the_stream_catches_up(
    postgres_url: str, open_router: Open, redis_url: str
) -> None:
    store = RedisStore.from_url(redis_url, snapshot_every=5)
    router = open_router(log=postgres_url, store=store)
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", WORKER, postgres_url, redis_url]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": path},
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write("5\n")
        assert float(other.stdout.readline()) == 5
        other.stdin.write("15\n")
        time.sleep(0.02)  # somewhere in the middle
        other.send_signal(signal.SIGSTOP)
        assert all(hear(router, 30))  # nobody waits for the one that stands still
        other.send_signal(signal.SIGCONT)
        assert 20 <= float(other.stdout.readline()) <= 50
        until_well(50, router)
        until(lambda: ask(other) == 50, BACK_S, lambda: ask(other))
        other.stdin.close()
        other.stdout.read()
    demand_fold(router)
    router.close()
    store.close()


# What must be remembered


def test_what_is_remembered_is_what_is_in_flight(open_router: Open, own_redis: RedisServer) -> None:
    """Of many words no more deltas and keys of deltas are kept than of the first hundred."""
    store = RedisStore.from_url(own_redis.url, snapshot_every=10)
    router = open_router(store=store)
    ids = [router.choose(f"question {i}").id for i in range(50)]
    head = f"bandit_router:{{{quote(router._worker.learner.view.registration.book)}}}:"

    async def say(n: int) -> None:
        await asyncio.gather(*(router.afeedback(ids[i % 50], "rating", (i % 11) / 11) for i in range(n)))

    kept = []
    with own_redis.client() as client:
        for _ in range(WORDS // 100):
            asyncio.run(say(100))
            kept.append((client.zcard(head + "keys"), client.xlen(head + "stream")))
            assert len(router._worker.learner._rewards.seen) == 0
        used = client.memory_usage(head + "stream", samples=0)
    keys, entries = zip(*kept, strict=True)
    assert max(keys) <= 2 * 100
    assert max(entries) <= 2 * 10 + 1
    assert used < 1_000_000
    until_well(50, router)
    demand_fold(router)
    router.close()
    store.close()


def test_somebody_elses_long_transaction_holds_nothing_back(
    open_router: Open, postgres_url: str, redis_url: str
) -> None:
    router = open_router(log=postgres_url, store=redis_url)
    hear(router, 2)
    key = f"bandit_router:{{{quote(router._worker.learner.view.registration.book)}}}:keys"
    engine = router._worker.log.engine
    with engine.connect() as foreign, redis.Redis.from_url(redis_url) as client:
        foreign.execute(sa.text("SELECT pg_current_xact_id()"))  # it writes, elsewhere
        hear(router, 45)
        assert router.health().held_back < HELD_BACK + 10
        assert client.zcard(key) < 2 * HELD_BACK
        begun = time.monotonic()
        router.rebuild()
        assert time.monotonic() - begun < SETTLE_S  # nobody waited for that transaction
        assert client.zcard(key) == router.health().held_back == 0
        foreign.rollback()
    demand_fold(router)
