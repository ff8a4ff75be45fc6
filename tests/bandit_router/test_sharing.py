"""SharedBook: newer versions are left alone, damage is mended, and the log has the last word."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from beliefs import demand_fold, hear, until, until_well

from bandit_router import EventLog, Router, sharing
from bandit_router.evidence import Delta, Observation, evidence_to_bytes
from bandit_router.log import tables as t
from bandit_router.log.following import last_row
from bandit_router.store.frames import delta_to_bytes
from simulations.chaos.servers import RedisServer

Open = Callable[..., Router]
PARTS = ("head", "stream")
WRONG = Delta(key=10**6, model="small", observation=Observation.of([1.0], 0.5))  # of another length


def newer_frame() -> bytes:
    frame = delta_to_bytes(WRONG)
    return frame[:4] + b"\x02\x00" + frame[6:]


def test_what_a_newer_program_wrote_is_left_alone_until_it_is_gone(
    pair: tuple[Router, Router],
    own_redis: RedisServer,
    open_router: Open,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "NEWER_S", 0.3)
    one = pair[0]
    hear(one, 5)
    until_well(5, *pair)
    head, stream = (
        f"bandit_router:{{{quote(one._worker.learner.view.registration.book)}}}:{part}" for part in PARTS
    )
    with own_redis.client() as client:
        for change, back in (
            (lambda: client.hset(head, "format", "2"), lambda: client.hset(head, "format", "1")),
            (
                lambda: client.xadd(stream, {"deltas": newer_frame()}),
                lambda: client.xdel(stream, client.xrevrange(stream, count=1)[0][0]),
            ),
        ):
            n = one.health().observations
            caplog.clear()
            change()
            before = [client.dump(key) for key in (head, stream)]
            until(lambda: all(r.health().store for r in pair), 3.0, lambda: [r.health() for r in pair])
            restarted = open_router(store=own_redis.url)
            for router in (*pair, restarted):
                assert not any(hear(router, 3))
                assert "upgrade this worker" in str(router.health().store)
                assert router.health().observations == n
            assert [client.dump(key) for key in (head, stream)] == before
            told = [r for r in caplog.records if "upgrade this worker" in r.message]
            assert 0 < len(told) <= 2 * 3  # each of two threads of each worker once
            back()
            until_well(n + 9, *pair, restarted)
            demand_fold(*pair, restarted)
            restarted.close()


def test_what_is_damaged_is_folded_anew_from_the_log(
    pair: tuple[Router, Router],
    own_redis: RedisServer,
    open_router: Open,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sharing, "MEND_S", 0.0)
    hear(pair[0], 5)
    until_well(5, *pair)
    head, stream = (
        f"bandit_router:{{{quote(pair[0]._worker.learner.view.registration.book)}}}:{part}"
        for part in PARTS
    )
    snapshot = head.replace("head", "snapshot")
    with own_redis.client() as client:
        for n, damage in enumerate(
            (
                lambda: client.hset(head, "generation", "one"),
                lambda: client.xadd(stream, {"other": "entry"}),
                lambda: client.xadd(stream, {"deltas": delta_to_bytes(WRONG)}),
                lambda: (client.delete(stream), client.set(stream, "a string")),
                lambda: (client.hset(snapshot, "evidence", "x"), client.hset(head, "complete", "z")),
            )
        ):
            caplog.clear()
            damage()
            until(lambda: "damaged" in caplog.text, 3.0, lambda: caplog.text)
            until_well(5 + 3 * n, *pair)
            assert sum(router.health().mended for router in pair) >= n + 1
            hear(pair[1], 3)
            until_well(8 + 3 * n, *pair)
            demand_fold(*pair)
        client.hset(snapshot, "evidence", "only who starts reads it")
        again = open_router(store=own_redis.url)
        until_well(20, again, *pair)
        demand_fold(again, *pair)


def test_a_checkpoint_of_a_newer_program_is_passed_over_and_stays(
    url: str, open_router: Open, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # two checkpoints
        router = open_router()
        hear(router, 4)
        router.close()
    c = t.checkpoints.c
    with EventLog.open(url) as log:
        newest = log.read(lambda x: x.execute(sa.select(sa.func.max(c.id))).scalar_one())
        newer = evidence_to_bytes({})[:4] + b"\x02\x00" + b"of another kind"
        log.write(
            lambda x: x.execute(sa.update(t.checkpoints).where(c.id == newest).values(evidence=newer))
        ).result()
        for _ in range(3):
            router = open_router()
            assert "not usable" in caplog.text
            hear(router, 2)
            demand_fold(router)
            router.close()
        kept = log.read(lambda x: list(x.execute(sa.select(c.id, c.evidence).order_by(c.id))))
    assert kept[0] == (newest, newer)
    assert len(kept) == 3


# An older log


@pytest.mark.parametrize("rebuilt", [False, True], ids=["same generation", "generation ahead"])
def test_a_log_from_an_older_backup_begins_a_generation_after_the_stores(
    rebuilt: bool,
    open_router: Open,
    redis_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    router = open_router(store=redis_url)
    hear(router, 5)
    with closing(sqlite3.connect(tmp_path / "chat.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    hear(router, 7)
    if rebuilt:
        router.rebuild()
        router.rebuild()
    hear(router, 1)
    router.close()
    for file in tmp_path.glob("chat.db*"):
        file.unlink() if file.is_file() else shutil.rmtree(file)
    (tmp_path / "backup.db").rename(tmp_path / "chat.db")
    restored, other = open_router(store=redis_url), open_router(store=redis_url)
    assert "restored from an older backup" in caplog.text
    assert restored.health().mended == 1
    until_well(5, restored, other)
    demand_fold(restored, other)
    for each in (restored, other):
        assert all(hear(each, 6))  # reward rows of numbers that the store had seen
    until_well(17, restored, other)
    demand_fold(restored, other)


def test_a_log_that_goes_back_under_a_worker_is_noticed(
    open_router: Open, postgres_url: str, redis_url: str
) -> None:
    router = open_router(log=postgres_url, store=redis_url)
    hear(router, 8)
    log = router._worker.log
    last = log.read(lambda c: last_row(c, t.rewards, "default"))

    def go_back(c: sa.Connection) -> None:
        c.execute(sa.delete(t.rewards).where(t.rewards.c.seq > last - 5))
        c.execute(sa.text(f"SELECT setval(pg_get_serial_sequence('rewards', 'seq'), {last - 5})"))

    log.write(go_back).result()
    until(lambda: router.health().mended == 1, 5.0, router.health)
    until_well(3, router)
    assert all(hear(router, 6))
    until_well(9, router)
    demand_fold(router)
