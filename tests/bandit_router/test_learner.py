"""The learner: checkpoints, retention, shared stores, and what it does when something is wrong."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bandit_router import (
    ClosedError,
    EventLog,
    LogUnavailableError,
    MemoryStore,
    Outcome,
    Router,
    Uniform,
)
from bandit_router import learner as learning
from bandit_router.log import checkpoints
from bandit_router.log import tables as t
from bandit_router.log.registration import begin_generation
from simulations.chaos.servers import RedisServer

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    """Each test here runs embedded (SQLite, memory) and on servers (PostgreSQL, Redis)."""
    return log_url


def talk(router: Router, rounds: int) -> None:
    for i in range(rounds):
        decision = router.choose(f"question {i}")
        router.report(decision.id, Outcome(output_tokens=100 + i, latency_s=1.0))
        router.feedback(decision.id, "rating", (i % 5) / 4)


def counted(router: Router) -> float:
    return float(sum(belief["n"] for belief in router.beliefs().values()))


def test_closing_keeps_a_checkpoint_and_starting_reads_only_the_tail(
    open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = open_router(policy=Uniform())
    talk(router, 12)
    before = router.beliefs()
    costs = {c.model: c.cost_usd for c in router.choose("x").candidates}
    router.close()

    def never(*_: object) -> None:
        raise AssertionError("the whole log was folded")

    monkeypatch.setattr(learning, "fold", never)
    again = open_router()
    for model, belief in again.beliefs().items():
        assert belief["n"] == pytest.approx(before[model]["n"], rel=1e-12)
        assert belief["mean_reward"] == pytest.approx(before[model]["mean_reward"], rel=1e-12)
    # How costs differ by prompt is fitted at the start, and by then from all of the twelve.
    assert {c.model: c.cost_usd for c in again.choose("x").candidates} == pytest.approx(costs, rel=0.01)
    talk(again, 3)
    assert counted(again) == 15


def test_checkpoints_are_written_while_it_runs_and_only_the_last_are_kept(
    open_router: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "CHECKPOINT_EVERY", 4)
    router = open_router()
    talk(router, 20)
    with EventLog.open(url) as log:
        kept = log.read(lambda c: c.execute(sa.select(t.checkpoints.c.reward_seq)).scalars().all())
    assert len(kept) == 2
    assert max(kept) > 10


def test_a_damaged_checkpoint_is_passed_over(
    open_router: Open, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    router = open_router()
    talk(router, 6)
    router.close()
    with EventLog.open(url) as log:
        log.write(
            lambda c: c.execute(sa.update(t.checkpoints).values(evidence=b"BRES nonsense"))
        ).result()
    again = open_router()
    assert counted(again) == 6
    assert "not usable" in caplog.text


def test_a_checkpoint_of_a_generation_that_is_over_is_not_kept(open_router: Open, url: str) -> None:
    router = open_router()
    talk(router, 3)
    with EventLog.open(url) as log:
        lens, state = router._worker.learner.view.lens, checkpoints.Fold()
        log.write(lambda c: begin_generation(c, "default")).result()
        log.write(lambda c: checkpoints.write_checkpoint(c, lens, state, 0, 0.0)).result()
        assert log.read(lambda c: c.execute(sa.select(sa.func.count(t.checkpoints.c.id))).scalar()) == 0
    assert counted(router) == 3


def test_texts_expire_while_the_evidence_stays(
    open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "RETENTION_S", 0.0)
    router = open_router(text_retention=timedelta(milliseconds=1))
    decision = router.choose("a secret")
    router.feedback(decision.id, "thumb", True)
    gone = threading.Event()
    for _ in range(500):
        if router.decision(decision.id).prompt is None:
            break
        gone.wait(0.02)
    assert router.decision(decision.id).prompt is None
    assert counted(router) == 1


def test_routers_that_share_a_store_count_once(open_router: Open) -> None:
    store = MemoryStore()
    one, two = open_router(store=store), open_router(store=store)
    other = open_router(store=store, name="other")
    threads = [threading.Thread(target=talk, args=(router, 10)) for router in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(one) == counted(two) == 20
    assert counted(other) == 0
    two.rebuild()
    assert counted(one) == 20
    one.close()
    talk(two, 1)
    assert counted(two) == 21


def test_features_of_another_version_do_not_count(
    open_router: Open, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    router = open_router()
    talk(router, 4)
    router.close()
    with EventLog.open(url) as log:
        log.write(
            lambda c: (
                c.execute(sa.update(t.decisions).values(features_version="old-1")),
                c.execute(sa.delete(t.checkpoints)),
            )
        ).result()
    again = open_router(store="memory://")  # not what Redis remembers
    assert counted(again) == 0
    assert "another version" in caplog.text
    assert again.health().skipped == 4
    decision = again.choose("x")
    with EventLog.open(url) as log:
        foreign = sa.update(t.decisions).where(t.decisions.c.id == decision.id)
        log.write(lambda c: c.execute(foreign.values(features_version="old-1"))).result()
    again.feedback(decision.id, "thumb", True)  # as from a worker that has not heard of other features
    assert counted(again) == 0
    assert again.health().skipped == 5
    again.rebuild()
    assert counted(again) == 5
    assert again.health().skipped == 0


def test_vectors_that_are_not_finite_never_reach_a_belief(open_router: Open, url: str) -> None:
    router = open_router()
    decision = router.choose("x")
    bad = b"\x00\x00\x00\x00\x00\x00\xf8\x7f" * 64  # NaN
    with EventLog.open(url) as log:
        log.write(lambda c: c.execute(sa.update(t.decisions).values(features=bad))).result()
    router.feedback(decision.id, "thumb", True)
    assert counted(router) == 0
    good = router.choose("y")
    assert router.feedback(good.id, "thumb", True).applied
    assert counted(router) == 1
    router.rebuild()
    assert counted(router) == 1


def test_it_goes_on_after_the_log_was_away(
    open_router: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    router = open_router()
    decision = router.choose("x")
    with monkeypatch.context() as patch:

        def away(*_: object, **__: object) -> None:
            raise LogUnavailableError("log: away")

        patch.setattr(learning, "tail", away)
        heard = router.feedback(decision.id, "thumb", True)
        assert not heard.applied
        assert "learning waits" in caplog.text
    assert counted(router) == 1


def test_closing_answers_whoever_waits(open_router: Open) -> None:
    router = open_router()
    learner = router._worker.learner
    futures = [learner.catch_up() for _ in range(5)]
    router.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ClosedError):
        learner.catch_up()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bandit-router")]


def test_it_begins_alone_where_the_store_is_away_and_shares_when_it_is_back(
    open_router: Open, own_redis: RedisServer
) -> None:
    first = open_router(store=own_redis.url)
    talk(first, 4)
    first.close()
    own_redis.stop()
    alone = open_router(store=own_redis.url)
    decision = alone.choose("x")  # from the log's checkpoint
    assert sum(e.n for e in alone._worker.learner.view.beliefs.evidence.values()) == 4
    assert not alone.feedback(decision.id, "thumb", True).applied  # durable all the same
    assert "store" in (alone.health().store or "")
    assert not alone.health().well
    own_redis.start()
    for _ in range(400):
        if alone.health().well and alone.health().observations == 5:
            break
        time.sleep(0.05)
    assert alone.health().well
    assert counted(alone) == counted(open_router(store=own_redis.url)) == 5


def test_health_tells_what_is_wrong(open_router: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    router = open_router()
    assert router.health().well
    assert router.health().behind_s < 60
    with monkeypatch.context() as patch:

        def away(*_: object, **__: object) -> None:
            raise LogUnavailableError("log: away")

        patch.setattr(learning, "tail", away)
        with pytest.raises(LogUnavailableError):
            router.beliefs()
        for _ in range(100):
            if router.health().log:
                break
            time.sleep(0.02)
        assert router.health().log == "log: away"
        assert router.health().store is router.health().learning is None
    assert counted(router) == 0


def heard(router: Router, rounds: int) -> None:
    for _ in range(rounds):
        router.feedback(router.choose("x").id, "thumb", True)


def until_well(*routers: Router) -> None:
    for _ in range(400):
        if all(router.health().well for router in routers):
            return
        time.sleep(0.05)
    pytest.fail(str([router.health() for router in routers]))


def test_a_worker_that_began_alone_does_not_vouch_for_what_the_store_never_had(
    url: str, open_router: Open, own_redis: RedisServer
) -> None:
    first = open_router(store=own_redis.url)
    heard(first, 10)
    own_redis.kill()  # it keeps all that it had
    heard(first, 10)  # durable, and not handed over
    first.close()
    alone = open_router(store=own_redis.url)
    assert alone.health().observations == 20
    heard(alone, 1)
    own_redis.start()
    until_well(alone)
    assert counted(alone) == counted(open_router(store=own_redis.url)) == 21


def test_a_redis_that_comes_back_older_is_given_again_what_it_lost(
    open_router: Open, own_redis: RedisServer, tmp_path: Path
) -> None:
    one, two = (open_router(store=own_redis.url) for _ in range(2))
    heard(one, 10)
    shutil.copytree(own_redis.folder, tmp_path / "older")
    heard(one, 10)
    heard(two, 5)
    own_redis.kill()
    heard(one, 1)
    shutil.rmtree(own_redis.folder)
    shutil.copytree(tmp_path / "older", own_redis.folder)
    own_redis.start()
    heard(one, 1)
    until_well(one, two)
    assert counted(one) == counted(two) == 27


def test_whoever_chooses_meanwhile_sees_whole_beliefs(open_router: Open) -> None:
    router = open_router()
    talk(router, 5)
    done, errors = threading.Event(), list[Exception]()

    def choose() -> None:
        while not done.is_set():
            try:
                router.choose("x")
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=choose) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        router.rebuild()
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_logs_that_share_a_redis_keep_to_themselves(
    open_router: Open, redis_url: str, tmp_path: Path
) -> None:
    old = open_router(log=f"sqlite:///{tmp_path / 'old.db'}", store=redis_url)
    heard(old, 5)
    new = open_router(log=f"sqlite:///{tmp_path / 'new.db'}", store=redis_url)
    heard(new, 2)
    assert (counted(old), counted(new)) == (5, 2)
