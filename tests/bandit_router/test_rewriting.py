"""Rewriting: erased users and expired texts leave the archives, and nothing of them stays anywhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import redis
from pyarrow import dataset
from weeks import Clock, archive, counted, talk

from bandit_router import (
    ArchivedDecisionError,
    ArchiveError,
    EventLog,
    FeaturesError,
    Router,
    UnknownDecisionError,
)
from bandit_router.log.rows import pack
from bandit_router.rewriting import Forgotten, adopt, erase_archived, expire_archived

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    """Each test here runs embedded (SQLite, memory) and on servers (PostgreSQL, Redis)."""
    return log_url


def test_a_user_leaves_log_archives_beliefs_and_store(
    open_router: Open, url: str, store_url: str, tmp_path: Path
) -> None:
    clock, folder = Clock(), tmp_path / "archive"
    with clock.in_force():
        router, other = open_router(), open_router()
        gone = [router.choose(f"mine {i}", user="user:1", conversation="talk") for i in range(2)]
        stays = router.choose("another's", user="user:2", conversation="talk")
        for decision in (*gone, stays):
            router.feedback(decision.id, "thumb", True, source="user:1")
        router.feedback(stays.id, "rating", 0.0, source="user:2")
        expected = {"decisions": 2, "feedback": 3, "rewards": 2, "texts": 2, "outcomes": 0}
        clock.wait(14.0)
        archive(url, folder, clock)
        for decision in gone:
            with pytest.raises(ArchivedDecisionError):
                router.decision(decision.id)
        assert router.forget_user("user:1") == Forgotten(**expected)
        for decision in gone:
            with pytest.raises(UnknownDecisionError) as unknown:
                other.decision(decision.id)
            assert type(unknown.value) is UnknownDecisionError
        for found in (counted(router), counted(other)):
            assert found["small n"] + found["large n"] == pytest.approx(1.0)
            assert found["small mean"] + found["large mean"] == pytest.approx(0.0)
        router.rebuild()
        assert counted(router) == pytest.approx(found)
        assert router.forget_user("user:1") == Forgotten()
    rows = dataset.dataset(folder / "decisions").to_table().to_pylist()
    assert [(row["id"], row["head"]) for row in rows] == [(stays.id, None)]
    everything = b"".join(path.read_bytes() for path in folder.rglob("*.parquet"))
    assert b"user:1" not in everything
    if store_url.startswith("redis"):
        with redis.Redis.from_url(store_url) as client:
            held = b"".join(client.dump(key) or b"" for key in client.scan_iter())
            lengths = [client.xlen(key) for key in client.scan_iter("*:stream")]
        assert max(lengths) <= 2  # the stream began anew
        assert not any(pack(decision.features) in held for decision in gone)


def test_archives_out_of_reach_are_looked_through_later(
    open_router: Open, url: str, tmp_path: Path
) -> None:
    clock, folder, moved = Clock(), tmp_path / "archive", tmp_path / "moved"
    with clock.in_force():
        router = open_router()
        talk(router, clock)
        clock.wait(1.1)
        before = counted(router)
        archive(url, folder, clock)
        folder.rename(moved)
        first = router.forget_user("user:1")
        assert (first.decisions, first.archives_pending) == (0, 3)
        assert counted(router) == pytest.approx(before)  # until then the archive is believed
        with pytest.raises(ArchiveError, match="12 decisions are in 3 archives"):
            router.configure(half_life=timedelta(days=9))
        with pytest.raises(FeaturesError, match="12 are in 3 archives"):
            router.rebuild("hashed:buckets=16")
        later = router.choose("of one who came back", user="user:1")
        router.feedback(later.id, "thumb", True)
        with EventLog.open(url) as log:
            assert adopt(log, moved) == 3
            erased = erase_archived(log, now=clock.now)
            assert (erased.decisions, erased.archives_pending) == (6, 0)
            assert erase_archived(log, now=clock.now) == Forgotten()
        found = counted(router)
        assert found["small n"] + found["large n"] == pytest.approx(7.0)
        router.configure(half_life=timedelta(days=9))
        router.configure(half_life=None)
        assert counted(router) == pytest.approx(found)


def test_only_plain_means_survive_what_is_out_of_reach(
    open_router: Open, url: str, tmp_path: Path
) -> None:
    clock, folder = Clock(), tmp_path / "archive"
    with clock.in_force():
        router = open_router(half_life=timedelta(days=30))
        talk(router, clock)
        clock.wait(1.1)
        before = counted(router)
        archive(url, folder, clock)
        folder.rename(tmp_path / "away")
        router.rebuild("hashed:buckets=16", textless="mean")
        sums = router._worker.learner.view.beliefs.evidence["small"]
        assert sums.A[0, 0] == pytest.approx(sums.n)
        assert np.abs(sums.A).sum() == pytest.approx(sums.n)
        assert counted(router) == pytest.approx(before)
        (tmp_path / "away").rename(folder)
        router.forget_user("user:1")
        left = counted(router)
        assert left["small n"] + left["large n"] < before["small n"] + before["large n"]
        router.rebuild("hashed:buckets=32")  # from the texts, which are within reach again
        assert counted(router) == pytest.approx(left)
        both = router._worker.learner.view.beliefs.evidence.values()
        assert sum(np.abs(sums.A).sum() for sums in both) > sum(sums.n for sums in both)


def test_an_erasure_that_comes_after_a_reset_brings_nothing_back(
    open_router: Open, url: str, tmp_path: Path
) -> None:
    clock, folder = Clock(), tmp_path / "archive"
    with clock.in_force():
        router = open_router()
        talk(router, clock, weeks=1)
        clock.wait(1.1)
        archive(url, folder, clock)
        folder.rename(tmp_path / "away")
        assert router.forget_user("user:1").archives_pending == 1
        (tmp_path / "away").rename(folder)
        clock.wait(0.1)
        for model in router.models:
            router.put_model(model, reset=True)
        assert counted(router)["small n"] == counted(router)["large n"] == 0.0
        with EventLog.open(url) as log:  # before any worker has kept a new checkpoint
            assert erase_archived(log, now=clock.now).decisions == 2
        found = counted(router)
        assert found["small n"] == found["large n"] == 0.0


def left_over(folder: Path) -> list[Path]:
    """Files that a run which died has left in each archive."""
    texts = list(folder.glob("texts/*/*.parquet"))
    names = [path.name.rpartition("-")[0] for path in texts]
    left = [
        path.with_name(name)
        for path, start in zip(texts, names, strict=True)
        for name in (f"{start}-99.parquet", f".{start}-99.parquet.tmp")
    ]
    for path in left:
        path.write_bytes(b"somebody's words")
    return left


def test_texts_expire_in_archives_too(open_router: Open, url: str, tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "archive"
    with clock.in_force():
        router = open_router()
        talk(router, clock)
        clock.wait(1.1)
        archive(url, folder, clock)
        with EventLog.open(url) as log:
            assert expire_archived(log, now=clock.now) == 0
            router.configure(text_retention=timedelta(days=15))
            assert expire_archived(log, now=clock.now) == 5
            left = left_over(folder)
            assert expire_archived(log, now=clock.now) == 0
            assert not any(path.exists() for path in left)
        assert dataset.dataset(folder / "texts").to_table().num_rows == 7
        assert dataset.dataset(folder / "decisions").to_table().num_rows == 12
        router.rebuild()
