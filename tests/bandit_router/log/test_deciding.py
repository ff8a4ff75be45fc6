"""Idempotency keys of decisions: one decision each, over all partitions, for a stated time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from bandit_router import ConflictError, EventLog, Router
from bandit_router.events import id_floor
from bandit_router.log import tables as t
from bandit_router.log.deciding import KEYS_KEPT_S, has_old_keys, sweep_keys
from bandit_router.log.upkeep import Upkeep

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


@pytest.fixture
def store_url() -> str:
    return "memory://"


def counted(log: EventLog, table: sa.Table) -> int:
    return log.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_a_key_that_comes_to_many_workers_at_once_is_one_decision(open_router: Open, url: str) -> None:
    routers = [open_router() for _ in range(3)]
    with ThreadPoolExecutor(9) as pool:
        made = list(pool.map(lambda k: routers[k % 3].choose("p", key="k"), range(9)))
    assert len({decision.id for decision in made}) == 1
    assert sum(not decision.duplicate for decision in made) == 1
    with pytest.raises(ConflictError, match="another body"):
        routers[0].choose("another", key="k")
    with EventLog.open(url) as log:
        assert counted(log, t.decisions) == counted(log, t.decision_keys) == 1


def test_a_key_holds_for_thirty_days(open_router: Open, url: str) -> None:
    router = open_router()
    first = router.choose("p", key="k")
    kept_until = time.time() + KEYS_KEPT_S
    with EventLog.open(url) as log:
        assert not log.read(lambda c: has_old_keys(c, kept_until - 60))
        assert log.write(lambda c: sweep_keys(c, kept_until - 60)).result() == 0
        assert router.choose("p", key="k").id == first.id
        assert log.read(lambda c: has_old_keys(c, kept_until + 60))
        assert log.write(lambda c: sweep_keys(c, kept_until + 60)).result() == 1
    again = router.choose("another", key="k")
    assert not again.duplicate
    assert again.id != first.id


def test_a_worker_sweeps_keys_now_and_then(url: str) -> None:
    now = time.time()
    used = {"router": "default", "body_hash": ""}
    old = used | {"key": "old", "decision_id": id_floor(now - KEYS_KEPT_S - 60)}
    new = used | {"key": "new", "decision_id": id_floor(now)}
    with EventLog.open(url) as log:
        log.insert((t.decision_keys, old), (t.decision_keys, new)).result()
        upkeep = Upkeep(log)
        upkeep.look()
        assert counted(log, t.decision_keys) == 1
        log.insert((t.decision_keys, old)).result()
        upkeep.look()  # not again already
        assert counted(log, t.decision_keys) == 2


def test_the_key_of_a_decision_that_has_left_the_log_is_free(open_router: Open, url: str) -> None:
    router = open_router()
    first = router.choose("p", key="k")
    with EventLog.open(url) as log:
        log.write(
            lambda c: c.execute(sa.delete(t.decisions).where(t.decisions.c.id == first.id))
        ).result()
        assert router.choose("another", key="k").id != first.id
        assert counted(log, t.decision_keys) == 1
