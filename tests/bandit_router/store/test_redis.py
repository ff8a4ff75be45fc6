"""RedisStore beyond the contract, which `test_checks.py` runs: what can happen to servers and their keys."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_router.errors import (
    ClosedError,
    FormatError,
    NewerFormatError,
    StaleGenerationError,
    StoreUnavailableError,
)
from bandit_router.evidence import Delta, Evidence, Observation, evidence_to_bytes
from bandit_router.store import Changes, MemoryStore, Snapshot, open_store
from bandit_router.store.frames import delta_to_bytes
from bandit_router.store.lua import COMPACT
from bandit_router.store.redis import RedisStore
from bandit_router.store.server import REST_S
from simulations.chaos.proxy import CLEAR, Link, Weather, linked
from simulations.chaos.servers import RedisServer

Open = Callable[..., RedisStore]
PARTS = ("head", "stream", "keys", "snapshot")


@pytest.fixture
def open_redis() -> Iterator[Open]:
    """Open stores; they are closed at the end."""
    opened: list[RedisStore] = []

    def open_(url: str, *, snapshot_every: int = 1_000) -> RedisStore:
        opened.append(RedisStore.from_url(url, snapshot_every=snapshot_every))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def store(redis_url: str, open_redis: Open) -> RedisStore:
    """A store that folds a snapshot every ten appends and holds a first generation of router "r"."""
    store = open_redis(f"{redis_url}?timeout=20", snapshot_every=10)
    store.replace("r", begin())
    return store


@pytest.fixture
def held(redis_url: str) -> Iterator[redis.Redis]:
    """What the server holds, to be looked at and damaged."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def begin(generation: int = 1, **said: object) -> Snapshot:
    empty = {"generation": generation, "position": 0, "complete": 0, "half_life_s": None, "evidence": {}}
    return Snapshot(**{**empty, **said})  # type: ignore[arg-type] - each of its own type


def deltas(first: int, n: int, *, dim: int = 3) -> list[Delta]:
    x = np.random.default_rng(first).standard_normal((n, dim))
    x[:, 0] = 1.0
    return [
        Delta(key=2 * row + 1, model=f"m{row % 2}", observation=Observation.of(x[row - first], 0.5))
        for row in range(first, first + n)
    ]


def append(store: RedisStore, told: Sequence[Delta], **said: int) -> int:
    return store.append("r", told, **{"generation": 1, "complete": 0, **said})


def append_each(store: RedisStore, first: int, n: int) -> None:
    for delta in deltas(first, n):
        append(store, [delta])


def whole(store: RedisStore, router: str = "r") -> Snapshot:
    found = store.read(router, generation=1, after=None)
    assert isinstance(found, Snapshot)
    return found


def count(snapshot: Snapshot) -> int:
    return round(sum(evidence.n for evidence in snapshot.evidence.values()))


def part_of(name: str, router: str = "r") -> str:
    return f"bandit_router:{{{router}}}:{name}"


# Snapshots and what is trimmed behind them


def test_the_stream_stays_short_and_the_sums_stay_the_same(store: RedisStore, held: redis.Redis) -> None:
    sums = {model: Evidence(3) for model in ("m0", "m1")}
    for delta in deltas(1, 200):
        append(store, [delta])
        sums[delta.model].add(delta.observation)
        assert held.xlen(part_of("stream")) <= 21
    found = whole(store)
    assert evidence_to_bytes({m: found.evidence[m] for m in sorted(sums)}) == evidence_to_bytes(sums)
    assert held.hget(part_of("snapshot"), "position") != held.hget(part_of("snapshot"), "previous")


def test_a_reader_follows_over_snapshots_and_gets_one_when_too_late(store: RedisStore) -> None:
    early, position = whole(store).position, whole(store).position
    for first in range(1, 100, 5):
        append_each(store, first, 5)
        found = store.read("r", generation=1, after=position)
        assert isinstance(found, Changes)
        assert [delta.key for delta in found.deltas] == [2 * row + 1 for row in range(first, first + 5)]
        position = found.position
    assert isinstance(store.read("r", generation=1, after=early), Snapshot)


def test_one_at_a_time_folds_a_snapshot(store: RedisStore, held: redis.Redis) -> None:
    held.set(part_of("lease"), "somebody")
    append_each(store, 1, 15)
    assert held.xlen(part_of("stream")) == 16
    held.delete(part_of("lease"))
    append_each(store, 16, 1)
    assert held.hget(part_of("head"), "folded") == held.hget(part_of("head"), "position")
    assert not held.exists(part_of("lease"))


def test_of_two_snapshots_the_newer_stays(store: RedisStore, held: redis.Redis) -> None:
    """The slower of two that fold comes too late, and changes nothing."""
    append_each(store, 1, 8)
    old = {"position": held.hget(part_of("head"), "position"), "evidence": b""}
    append_each(store, 9, 5)
    before = held.hgetall(part_of("snapshot"))
    assert before[b"position"] > old["position"]
    names = [part_of(name) for name in (*PARTS, "lease")]
    for generation, position in (
        (1, old["position"]),
        (1, b"9999999999999999-1"),
        (2, before[b"position"]),
    ):
        answer = store._server.run(COMPACT, names, generation, position, 0, b"rubbish")
        assert answer == [b"stale", b"1"]
    assert held.hgetall(part_of("snapshot")) == before


def test_large_appends_come_in_pieces_and_call_for_a_snapshot(
    store: RedisStore, held: redis.Redis
) -> None:
    told = deltas(1, 20_000, dim=96)
    position = whole(store).position
    assert append(store, told, complete=19_999, after=position) == 20_000
    assert append(store, told) == 0
    found = whole(store)
    assert (count(found), found.complete, found.beyond) == (20_000, 19_999, {40_001})
    assert max(held.memory_usage(part_of("stream"), samples=0), 1) < 60e6
    assert held.hget(part_of("head"), "folded") == held.hget(part_of("head"), "position")


def test_an_append_of_many_pieces_gives_up_in_time_and_goes_on_where_it_was(
    own_redis: RedisServer, open_redis: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bandit_router.store.redis._PATIENCE", 0.06)
    link = Link(own_redis.port, seed=1)
    with linked(link):
        store = open_redis(f"redis://127.0.0.1:{link.port}/0?timeout=5")
        store.replace("r", begin())
        told = deltas(1, 6_000)  # in 6 pieces
        link.turn(Weather(delay_s=0.08))  # some hundred thousand bytes come in several pieces too
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="of 6 pieces took too long"):
            append(store, told, complete=6_000)
        assert time.monotonic() - begun < 5.0
        link.turn(CLEAR)
        monkeypatch.setattr("bandit_router.store.redis._PATIENCE", 50.0)
        assert 0 < append(store, told, complete=6_000) < 6_000
        assert (count(whole(store)), whole(store).complete) == (6_000, 6_000)


def test_the_memory_for_keys_is_given_back(store: RedisStore, held: redis.Redis) -> None:
    append(store, deltas(1, 5_000))
    used = held.memory_usage(part_of("keys"), samples=0)
    assert used is not None
    assert used / 5_000 < 150
    append(store, [], complete=4_990)
    assert held.zcard(part_of("keys")) == 10


# What can happen to what the server holds


def test_after_flushall_it_holds_nothing_and_can_begin_again(
    store: RedisStore, held: redis.Redis
) -> None:
    append_each(store, 1, 5)
    position = whole(store).position
    held.flushall()
    assert store.read("r", generation=1, after=position) is None
    with pytest.raises(StaleGenerationError, match="'r' holds nothing, not generation 1"):
        append(store, deltas(6, 1))
    assert not store.wait("r", after=position, timeout_s=0.05)
    store.replace("r", begin())
    found = store.read("r", generation=1, after=position)
    assert isinstance(found, Snapshot)
    assert found.position > position
    assert store.wait("r", after=position, timeout_s=20)


@pytest.mark.parametrize("part", PARTS)
def test_a_router_that_lost_a_key_begins_again(part: str, store: RedisStore, held: redis.Redis) -> None:
    """As where a server with little memory evicts some: to go on without would count twice, or lose."""
    append_each(store, 1, 25)
    position = whole(store).position
    held.delete(part_of(part))
    assert store.read("r", generation=1, after=position) is None
    with pytest.raises(StaleGenerationError, match="nothing"):
        append(store, deltas(26, 1))
    store.replace("r", begin())
    assert isinstance(store.read("r", generation=1, after=position), Snapshot)
    assert append(store, deltas(1, 5)) == 5
    assert count(whole(store)) == 5


@pytest.mark.parametrize("part", PARTS)
def test_another_type_under_a_key_is_damage(part: str, store: RedisStore, held: redis.Redis) -> None:
    append_each(store, 1, 2)
    held.delete(part_of(part))
    held.set(part_of(part), "a string")
    if part == "keys":  # what was counted is not known any more: as where the key was lost
        assert store.read("r", generation=1, after=None) is None
    else:
        with pytest.raises(FormatError, match="WRONGTYPE"):
            store.read("r", generation=1, after=None)
    store.replace("r", begin(2))
    assert store.append("r", deltas(1, 3), generation=2, complete=0) == 3


def test_foreign_entries_are_refused_until_a_new_generation(
    store: RedisStore, held: redis.Redis
) -> None:
    for entry in ({"deltas": b"BRDL?"}, {"other": b""}, {"deltas": b"", "and": b"more"}):
        store.replace("r2", begin())
        position = whole(store, "r2").position
        held.xadd(part_of("stream", "r2"), entry)
        for after in (None, position):
            with pytest.raises(FormatError):
                store.read("r2", generation=1, after=after)
        held.delete(part_of("head", "r2"))
    store.replace("r2", begin(2))
    assert isinstance(store.read("r2", generation=2, after=None), Snapshot)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("head", "format", "0"),
        ("head", "format", ""),
        ("head", "generation", "one"),
        ("head", "position", "here"),
        ("head", "known", "many"),
        ("snapshot", "evidence", b"\x80\x04pickle"),
        ("snapshot", "position", "1-1"),
    ],
)
def test_what_is_damaged_is_named(
    part: str, field: str, value: str | bytes, store: RedisStore, held: redis.Redis
) -> None:
    held.hset(part_of(part), field, value)
    with pytest.raises(FormatError):
        store.read("r", generation=1, after=None)
    if part == "head":
        with pytest.raises(FormatError, match=f"'r'.*{field if field != 'position' else value}"):
            append(store, deltas(1, 1))
        held.hdel(part_of("head"), field)
        with pytest.raises(FormatError):
            store.read("r", generation=1, after=None)
    store.replace("r", begin(2))
    assert store.append("r", deltas(1, 3), generation=2, complete=0) == 3


def test_what_a_newer_version_wrote_is_left_alone(store: RedisStore, held: redis.Redis) -> None:
    append_each(store, 1, 3)
    position = whole(store).position
    newer_frame = delta_to_bytes(deltas(4, 1)[0])[:4] + b"\x02\x00" + b"of another kind"
    newer_sums = evidence_to_bytes({})[:4] + b"\x02\x00" + b"of another kind"
    for change in (
        lambda: held.hset(part_of("head"), "format", "2"),
        lambda: held.xadd(part_of("stream"), {"deltas": newer_frame}),
        lambda: held.hset(part_of("snapshot"), "evidence", newer_sums),
    ):
        before = [held.dump(part_of(part)) for part in PARTS]
        change()
        changed = [held.dump(part_of(part)) for part in PARTS]
        with pytest.raises(NewerFormatError):
            store.read("r", generation=1, after=None)
        if held.hget(part_of("head"), "format") == b"2":
            for call in (
                lambda: store.read("r", generation=1, after=position),
                lambda: append(store, deltas(9, 1)),
                lambda: store.replace("r", begin(2)),
            ):
                with pytest.raises(NewerFormatError, match="'r' is of format 2, this program knows 1"):
                    call()
        store._compact("r", 1)
        assert [held.dump(part_of(part)) for part in PARTS] == changed
        for part, dump in zip(PARTS, before, strict=True):
            held.restore(part_of(part), 0, dump, replace=True)
    assert count(whole(store)) == 3


def test_evidence_and_deltas_that_do_not_fit_are_damage(store: RedisStore, held: redis.Redis) -> None:
    append(store, deltas(1, 2))
    held.hset(part_of("snapshot"), "evidence", evidence_to_bytes({"m0": Evidence(7), "m1": Evidence(7)}))
    with pytest.raises(FormatError, match="do not fit"):
        store.read("r", generation=1, after=None)


def test_deltas_of_another_length_are_refused(store: RedisStore) -> None:
    with pytest.raises(ValueError, match=r"expected one shape, got \[3, 4\]"):
        append(store, deltas(1, 1) + deltas(2, 1, dim=4))
    append(store, deltas(1, 1))
    with pytest.raises(ValueError, match="expected 3 features, as 'r' has"):
        append(store, deltas(2, 1, dim=4))
    store.replace("r", begin(2, evidence={"m0": Evidence(4)}))
    with pytest.raises(ValueError, match="expected 4 features"):
        store.append("r", deltas(2, 1), generation=2, complete=0)
    with pytest.raises(ValueError, match="one length"):
        store.replace("r", begin(3, evidence={"m0": Evidence(4), "m1": Evidence(5)}))
    with pytest.raises(ValueError, match="below 2"):
        store.replace("r", begin(3, beyond={2**53}))


@pytest.mark.parametrize(
    "router", ["a{b}c", "}{", "{}", "two words", "größer", "a:head", "a%7D", "\N{ROCKET}"]
)
def test_any_name_is_a_router_of_its_own(router: str, redis_cluster_url: str, open_redis: Open) -> None:
    store = open_redis(f"{redis_cluster_url}?timeout=20", snapshot_every=3)
    for name, n in ((router, 7), ("a", 5)):
        store.replace(name, begin())
        for delta in deltas(1, n):
            store.append(name, [delta], generation=1, complete=0)
    assert [count(whole(store, name)) for name in (router, "a")] == [7, 5]


# What can happen to the server


def test_a_server_that_comes_back_older_says_so(own_redis: RedisServer, open_redis: Open) -> None:
    store = open_redis(f"{own_redis.url}?timeout=20")
    store.replace("r", begin())
    append(store, deltas(1, 10), complete=8)
    backup = own_redis.folder.with_suffix(".backup")
    shutil.copytree(own_redis.folder, backup)
    append_each(store, 11, 5)
    append(store, [], complete=15, after=whole(store).position)
    ahead = whole(store).position
    own_redis.kill()
    shutil.rmtree(own_redis.folder)
    backup.rename(own_redis.folder)
    own_redis.start()
    assert store.wait("r", after=ahead, timeout_s=20)
    assert append(store, deltas(20, 1), complete=20, after=ahead) == 1
    found = store.read("r", generation=1, after=ahead)
    assert isinstance(found, Snapshot)
    assert (count(found), found.complete, found.beyond) == (11, 8, {19, 21, 41})
    append_each(store, 11, 9)  # another history, longer than the first
    assert isinstance(store.read("r", generation=1, after=ahead), Snapshot)
    assert append(store, deltas(1, 20), complete=20, after=whole(store).position) == 0
    assert (count(whole(store)), whole(store).complete) == (20, 20)


def test_a_server_that_is_away_is_said_to_be(own_redis: RedisServer, open_redis: Open) -> None:
    store = open_redis(own_redis.url)
    store.replace("r", begin())
    position = whole(store).position
    assert store.trouble is None
    own_redis.stop()
    for call in (
        lambda: append(store, deltas(1, 1)),
        lambda: store.read("r", generation=1, after=None),
        lambda: store.replace("r", begin(2)),
        lambda: store.wait("r", after=position, timeout_s=20),
    ):
        with pytest.raises(StoreUnavailableError, match=str(own_redis.port)):
            call()
    assert "refused" in str(store.trouble)
    own_redis.start()
    time.sleep(REST_S)
    assert append(store, deltas(1, 1)) == 1
    assert store.wait("r", after=position, timeout_s=20)


WRITER = """
import random, sys, time
sys.path.insert(0, sys.argv[1])
from test_redis import BLOCK, N, deltas
from bandit_router.errors import StoreUnavailableError
from bandit_router.store.redis import RedisStore

def insist(call):
    while True:
        try:
            return call()
        except StoreUnavailableError:
            time.sleep(0.005)

url, seed = sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
store = RedisStore.from_url(url, snapshot_every=20)
told = deltas(1, N)
after = insist(lambda: store.read("r", generation=1, after=None)).position
print("ready", flush=True)
for start in range(0, N, BLOCK):
    block = told[start : start + BLOCK]
    rng.shuffle(block)
    while block:
        size = rng.choice([1, 1, 2, 7])
        part, block = block[:size], block[size:]
        insist(lambda: store.append("r", part, generation=1, complete=0, after=after))
        if rng.random() < 0.1:
            block += part
    insist(lambda: store.append("r", [], generation=1, complete=start + BLOCK, after=after))
    after = insist(lambda: store.read("r", generation=1, after=after)).position
store.close()
"""
N, BLOCK = 1_000, 50


def test_writers_and_a_server_that_is_killed_count_everything_once(
    own_redis: RedisServer, open_redis: Open
) -> None:
    """Four processes bring the same deltas, each in its own order, and fold snapshots against each other."""
    with own_redis.client() as client:
        client.config_set("appendfsync", "always")
    store = open_redis(f"{own_redis.url}?timeout=20")
    store.replace("r", begin())
    here = __file__.rpartition("/")[0]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, here, own_redis.url, str(seed)],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        )
        for seed in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    kills, rng = 0, random.Random(1)
    while any(writer.poll() is None for writer in writers):
        time.sleep(rng.uniform(0.1, 0.6))
        own_redis.kill()
        own_redis.start()
        kills += 1
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
        assert writer.wait() == 0
    assert kills > 2
    sums = {model: Evidence(3) for model in ("m0", "m1")}
    for delta in deltas(1, N):
        sums[delta.model].add(delta.observation)
    fresh = [whole(open_redis(f"{own_redis.url}?timeout=20")) for _ in range(3)]
    assert len({evidence_to_bytes(found.evidence) for found in fresh}) == 1
    assert (fresh[0].complete, fresh[0].beyond, count(fresh[0])) == (N, frozenset(), N)
    for model, evidence in fresh[0].evidence.items():
        np.testing.assert_allclose(evidence.A, sums[model].A, rtol=0, atol=1e-9 * N)


# Waiting and closing


def test_close_ends_a_wait(store: RedisStore) -> None:
    position = whole(store).position
    answers: list[object] = []

    def wait() -> None:
        try:
            answers.append(store.wait("r", after=position, timeout_s=60))
        except BaseException as error:
            answers.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    begun = time.monotonic()
    store.close()
    waiting.join(20)
    assert answers == [False]
    assert time.monotonic() - begun < 2.0
    assert not store.wait("r", after=position, timeout_s=60)
    with pytest.raises(ClosedError):
        append(store, [])


def test_a_waiter_hears_of_another_generation(
    store: RedisStore, redis_url: str, open_redis: Open
) -> None:
    position, heard = whole(store).position, threading.Event()

    def wait() -> None:
        if store.wait("r", after=position, timeout_s=60):
            heard.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    open_redis(f"{redis_url}?timeout=20").replace("r", begin(2))
    assert heard.wait(20)
    waiting.join()


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "again", "complete", "read", "snapshot", "replace"]),
            st.lists(st.integers(1, 30), min_size=1, max_size=3),
        ),
        max_size=25,
    )
)
def test_it_does_as_the_store_in_memory(store_url: str, steps: list[tuple[str, list[int]]]) -> None:
    """Whatever is appended, said twice, declared complete, read and replaced in whatever order."""
    ours = RedisStore.from_url(store_url, snapshot_every=2)
    theirs, told, generation, position = MemoryStore(), set[int](), time.time_ns() // 1000, 0
    for store in (ours, theirs):
        store.replace("r", begin(generation))
    for step, rows in steps:
        low = min(set(range(1, 32)) - told) - 1  # all rows up to here have been told
        complete = low if step == "complete" else 0
        batch = [deltas(row, 1)[0] for row in (rows if step == "append" else sorted(told))]
        if step in ("append", "again", "complete"):
            new = [
                s.append("r", batch, generation=generation, complete=complete) for s in (ours, theirs)
            ]
            assert new[0] == new[1]
            told |= set(rows) if step == "append" else set()
        elif step == "replace":
            generation += 1
            found = theirs.read("r", generation=generation, after=None)
            assert isinstance(found, Snapshot)
            for store in (ours, theirs):
                store.replace("r", begin(generation, evidence=found.evidence, complete=found.complete,
                                         beyond=found.beyond))  # fmt: skip
        elif step == "read":
            change = ours.read("r", generation=generation, after=position)
            position = change.position if change else 0
        mine, other = (s.read("r", generation=generation, after=None) for s in (ours, theirs))
        assert isinstance(mine, Snapshot)
        assert isinstance(other, Snapshot)
        assert (mine.generation, mine.complete, mine.beyond) == (
            generation,
            other.complete,
            other.beyond,
        )
        assert evidence_to_bytes(mine.evidence) == evidence_to_bytes(other.evidence)
    ours.close()


@pytest.fixture(scope="module")
def store_url(redis_server: RedisServer) -> str:
    """A database that outlives an example."""
    return f"{redis_server.url_of(999)}?timeout=20"


def test_open_store(redis_url: str) -> None:
    assert isinstance(open_store(redis_url), RedisStore)
    assert isinstance(open_store("rediss://nowhere:1/0"), RedisStore)
    assert open_store(redis_url).shared
