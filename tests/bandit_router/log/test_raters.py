"""What raters have used: counted once, given back with time, and by no word that changes another."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from bandit_router import ConflictError, EventLog, Model, Router, Uniform
from bandit_router.log import raters
from bandit_router.log import tables as t
from bandit_router.log.writer import committed
from bandit_router.rewards import RECOVERY_S, Channel

VOTES = int(os.environ.get("STUFFED_VOTES", "300"))  # of one script
LIMIT = 50.0
HONEST = 100
TOGETHER = 16


@pytest.fixture
def log(log_url: str) -> Iterator[EventLog]:
    with EventLog.open(log_url, migrate=True) as opened:
        yield opened


@pytest.fixture
def router(log_url: str, store_url: str) -> Iterator[Router]:
    models = [Model("small"), Model("large")]
    options: dict[str, Any] = {"migrate": True, "store": store_url, "policy": Uniform()}
    options["log_timeout_s"] = 60.0  # the machine may be busy
    with Router.open(log_url, models=models, rater_limit=LIMIT, **options) as opened:
        yield opened


def used(log: EventLog, rater: str = "user:1") -> float:
    c = t.raters.c
    found = log.read(lambda q: q.execute(sa.select(c.used).where(c.rater == rater)).scalar())
    return 0.0 if found is None else float(found)


def observations(router: Router) -> float:
    return sum(float(belief["n"]) for belief in router.beliefs().values())


async def say(router: Router, decisions: list[str], value: object, source: Any, **options: Any) -> None:
    for start in range(0, len(decisions), TOGETHER):
        part = enumerate(decisions[start : start + TOGETHER], start)
        words = (
            router.afeedback(d, "thumb", value, source=source(i), **options)  # type: ignore[arg-type]
            for i, d in part
        )
        await asyncio.gather(*words)


async def decided(router: Router, n: int, **options: Any) -> list[str]:
    made: list[str] = []
    while len(made) < n:
        part = (router.achoose(f"question {i}", **options) for i in range(min(TOGETHER, n - len(made))))
        made += [decision.id for decision in await asyncio.gather(*part)]
    return made


def test_words_of_one_transaction_and_of_many_add_up(log: EventLog) -> None:
    def twice(connection: sa.Connection) -> float:
        for _ in range(2):
            raters.charge(connection, "r", ["user:1", "user:2"], 1.5, 1000.0)
        return raters.allowances(connection, "r", ["user:1"])["user:1"].used

    assert committed(log.write(twice)) == 3.0  # seen before it is committed
    committed(log.write(twice))
    assert used(log) == used(log, "user:2") == 6.0


def test_what_is_used_comes_back_with_time(log: EventLog) -> None:
    for moment in (0.0, RECOVERY_S):
        committed(log.write(lambda c, at=moment: raters.charge(c, "r", ["user:1"], 8.0, at)))
    assert used(log) == pytest.approx(12.0)
    late = 40 * RECOVERY_S
    assert committed(log.write(lambda c: raters.drop_spent(c, "r", RECOVERY_S))) == 0
    assert committed(log.write(lambda c: raters.drop_spent(c, "r", late))) == 1
    assert used(log) == 0.0


def test_a_transaction_that_fails_charges_nothing(log: EventLog) -> None:
    def fails(connection: sa.Connection) -> None:
        raters.charge(connection, "r", ["user:1"], 1.0, 0.0)
        raise SystemError("on the way")

    writing = log.engine.execution_options(writes=True)
    with (
        pytest.raises(SystemError),
        writing.begin() as connection,
        raters.tallying(connection),
    ):
        fails(connection)
    assert used(log) == 0.0


def test_two_workers_that_charge_the_same_raters_lose_nothing(log: EventLog, log_url: str) -> None:
    names = [f"user:{i}" for i in range(6)]

    def charges(order: list[str]) -> Any:
        def job(connection: sa.Connection) -> None:
            for name in order:
                raters.charge(connection, "r", [name], 1.0, 10.0)

        return job

    with EventLog.open(log_url) as other:
        jobs = [
            one.write(charges(order))
            for _ in range(20)
            for one, order in ((log, names), (other, names[::-1]))
        ]
        for job in jobs:
            committed(job)
    assert [used(log, name) for name in names] == pytest.approx([40.0] * 6)


def test_a_changed_mind_takes_over_its_share_and_uses_nothing_more(router: Router) -> None:
    decision = router.choose("x").id
    for value in (None, True, False, True):
        router.feedback(decision, "thumb", value, source="user:1")
    assert used(router.log) == 1.0
    router.retract(router.feedback(decision, "thumb", False, source="user:1").id)
    heard = router.feedback(decision, "thumb", True, source="user:1")
    assert used(router.log) == 1.0
    assert heard.reward is not None
    assert heard.reward.weight == 1.0


def test_one_user_moves_a_mean_by_no_more_than_the_bound(router: Router) -> None:
    honest = asyncio.run(decided(router, HONEST))
    asyncio.run(say(router, honest, True, "user:{}".format))
    before = router.beliefs()
    began = time.time()
    stuffed = asyncio.run(decided(router, VOTES, user="mallory"))
    asyncio.run(say(router, stuffed, False, lambda _: None))
    asyncio.run(say(router, honest, False, lambda _: "mallory"))  # about others' decisions too
    after = router.beliefs()
    most = LIMIT * (1 + math.log(2) * (time.time() - began) / RECOVERY_S)  # it comes back meanwhile
    assert observations(router) <= HONEST + most + 1e-6
    for model, belief in after.items():
        bound = most / (before[model]["n"] + most)
        assert abs(belief["mean_reward"] - before[model]["mean_reward"]) <= bound + 1e-6
    assert used(router.log, "mallory") == pytest.approx(LIMIT, rel=1e-3)


def test_a_thousand_names_through_one_key_count_as_one(router: Router) -> None:
    key = Channel(name="leaked", influence=80.0)
    decisions = asyncio.run(decided(router, VOTES))
    asyncio.run(say(router, decisions, True, lambda i: f"user:{i % 1000}", channel=key))
    assert observations(router) == pytest.approx(80.0, rel=1e-3)
    assert used(router.log, "key:leaked") == pytest.approx(80.0, rel=1e-3)
    later = router.choose("x").id  # others are heard as before
    heard = router.feedback(later, "thumb", True, source="user:7")
    assert heard.reward is not None
    assert heard.reward.weight == 1.0


def test_a_key_that_decides_answers_for_its_users_names(router: Router) -> None:
    backend = Channel(name="backend", influence=0.0, vouches=True)
    own = router.choose("x", user="user:1").id
    assert router.feedback(own, "thumb", True, channel=backend).reward is not None
    other = router.feedback(own, "rating", 0.0, source="user:2", channel=backend)
    assert other.reward is not None
    assert (other.reward.value, other.reward.weight) == (1.0, 1.0)


def test_a_name_like_a_keys_uses_nothing_of_that_key(router: Router) -> None:
    decision = router.choose("x").id
    router.feedback(decision, "thumb", True, source="key:leaked")
    assert used(router.log, "key:leaked") == 0.0


def test_a_judge_of_ones_own_and_nameless_users_are_not_counted(router: Router) -> None:
    decisions = asyncio.run(decided(router, 2 * int(LIMIT)))
    for decision in decisions:
        router.feedback(decision, "judge", 0.5, source="judge:one")
    asyncio.run(say(router, decisions, True, lambda _: None))
    assert observations(router) == pytest.approx(len(decisions))
    rows = router.log.read(lambda c: c.execute(sa.select(t.raters)).all())
    assert rows == []


def test_a_word_that_waited_is_limited_when_it_is_applied(router: Router) -> None:
    from bandit_router.events import new_id

    key = Channel(name="k", influence=0.25)
    router.configure(rater_limit=None)
    decision = router.choose("x")
    early = router.feedback(new_id(decision.at), "thumb", True, source="user:1", channel=key)
    assert early.pending
    said = t.pending.c
    move = sa.update(t.pending).where(said.id == early.id).values(decision_id=decision.id)
    committed(router.log.write(lambda c: c.execute(move)))
    heard = router.feedback(decision.id, "comment", "and so on")
    assert heard.reward is not None
    assert heard.reward.weight == 0.25


def test_a_key_that_is_used_up_changes_and_takes_back_nothing_of_others(router: Router) -> None:
    key = Channel(name="leaked", influence=3.0)
    decisions = asyncio.run(decided(router, 10))
    words = [router.feedback(d, "thumb", True, source=f"user:{i}") for i, d in enumerate(decisions)]
    refused = 0
    for i, decision in enumerate(decisions):
        try:
            if i % 2:
                router.retract(words[i].id, channel=key)
            else:
                router.feedback(decision, "thumb", False, source=f"user:{i}", channel=key)
        except ConflictError:
            refused += 1
    assert refused == 7
    told = [router.decision(decision).reward for decision in decisions]
    assert sum(reward is not None and reward.value == 1.0 for reward in told) == 7
    first = router.feedback(decisions[0], "thumb", True, source="user:0", channel=key)  # its own word
    assert first.reward is not None
    assert first.reward.value == 1.0


def test_who_was_silenced_by_a_key_that_is_used_up_counts_when_they_speak_themselves(
    router: Router,
) -> None:
    spent = Channel(name="spent", influence=0.0)
    decision = router.choose("x").id
    squatted = router.feedback(decision, "thumb", False, source="user:1", channel=spent)
    assert squatted.reward is None
    heard = router.feedback(decision, "thumb", True, source="user:1")
    assert heard.reward is not None
    assert (heard.reward.value, heard.reward.weight) == (1.0, 1.0)


def test_a_job_that_fails_charges_nothing(log: EventLog) -> None:
    def fails(connection: sa.Connection) -> None:
        raters.charge(connection, "r", ["user:1"], 1.0, 0.0)
        raise ConflictError("on the way")

    failed = log.write(fails)
    committed(log.write(lambda c: raters.charge(c, "r", ["user:2"], 1.0, 0.0)))
    assert isinstance(failed.exception(), ConflictError)
    assert (used(log), used(log, "user:2")) == (0.0, 1.0)
