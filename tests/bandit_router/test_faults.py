"""Faults that were found once: each of these failed before its mend."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from bandit_router import (
    BanditRouterError,
    EventLog,
    FeaturesError,
    HashedFeatures,
    LogUnavailableError,
    MemoryStore,
    Model,
    Outcome,
    Router,
    SettingsError,
    Uniform,
)
from bandit_router import learner as learning
from bandit_router.evidence import Observation
from bandit_router.log import registration
from bandit_router.log import tables as t
from bandit_router.posterior import Beliefs

Open = Callable[..., Router]


def thumbs(router: Router, n: int, model: str = "small", user: str = "user:1") -> list[str]:
    ids = []
    for i in range(n):
        decision = router.choose(f"question {i}", models=[model], user=user)
        router.feedback(decision.id, "thumb", True)
        ids.append(decision.id)
    return ids


def n_of(router: Router, model: str = "small") -> float:
    return float(router.beliefs()[model]["n"])


def test_a_cancelled_caller_ends_no_thread(router: Router) -> None:
    async def live() -> None:
        decision = await router.achoose("x")
        for i in range(30):
            tasks = [
                asyncio.create_task(router.achoose(f"x {i}")),
                asyncio.create_task(router.afeedback(decision.id, "rating", i / 30)),
            ]
            await asyncio.sleep(0.0005 * (i % 5))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(live())
    decision = router.choose("afterwards")
    assert router.feedback(decision.id, "thumb", True).applied


def test_forgetting_after_a_reset_brings_nothing_back(open_router: Open) -> None:
    router = open_router()
    thumbs(router, 5, user="user:1")
    router.close()  # keeps a checkpoint
    router = open_router()
    router.put_model(Model("small"), reset=True)
    thumbs(router, 2, user="user:2")
    router.forget_user("user:1")
    assert n_of(router) == 2
    router.close()
    assert n_of(open_router()) == 2


def test_forgetting_with_an_old_view_subtracts_nothing_twice(
    open_router: Open, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = open_router()
    thumbs(router, 5, user="user:1")
    router.close()
    monkeypatch.setattr(learning, "POLL_S", 30.0)  # so that it does not hear of the reset by itself
    router = open_router()
    with EventLog.open(url) as log:
        since = router.choose("now").at
        small = Model("small")
        log.write(lambda c: registration.put_model(c, "default", small, reset=since)).result()
    router.forget_user("user:1")
    assert n_of(router) == 0
    router.close()
    assert n_of(open_router()) == 0


class Odd:
    """A policy that no SPEC names."""

    spec = "odd"

    def probabilities(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        return np.ones(len(mean)) / len(mean)


@pytest.mark.parametrize(
    "settings",
    [
        {"half_life": timedelta.max},
        {"text_retention": timedelta.max},
        {"policy": Odd()},
        {"features": object()},
    ],
    ids=["half-life", "retention", "policy", "features"],
)
def test_what_the_log_could_not_read_back_is_not_written(
    open_router: Open, settings: dict[str, object]
) -> None:
    with pytest.raises(SettingsError):
        open_router(name="fresh", **settings)
    router = open_router(name="fresh")
    with pytest.raises(SettingsError):
        router.configure(**settings)  # type: ignore[arg-type] # that is the point
    router.close()
    assert open_router(name="fresh").choose("x").id


def test_an_absurd_outcome_is_refused_and_one_in_the_log_is_passed_over(
    open_router: Open, url: str
) -> None:
    router = open_router(models=[Model("gold", output_usd_per_mtok=1e9)])
    decision = router.choose("x")
    with pytest.raises(ValueError, match="cost_usd"):
        router.report(decision.id, Outcome(output_tokens=10**10))
    router.report(decision.id, Outcome(output_tokens=1))
    with EventLog.open(url) as log:
        log.write(lambda c: c.execute(sa.update(t.outcomes).values(cost_usd=1e300))).result()
    assert router.feedback(decision.id, "thumb", True).applied
    router.close()
    assert n_of(open_router(), "gold") == 1


FORK_UNDER_LOAD = """
import os, sys, threading, time
from bandit_router import Model, Router

router = Router.open(sys.argv[1], models=[Model("a"), Model("b")])
stop = threading.Event()

def load():
    while not stop.is_set():
        router.choose("busy")

threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()
time.sleep(0.3)
pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        heard = [router.feedback(router.choose("child").id, "thumb", True) for _ in range(3)]
        os._exit(0 if all(h.applied for h in heard) else 1)
    pids.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in pids]
stop.set()
for thread in threads:
    thread.join()
print(codes, sum(belief["n"] for belief in router.beliefs().values()))
router.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_fork_while_the_log_is_written_hangs_nobody(url: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK_UNDER_LOAD, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 0, 0, 0] 12.0"


def test_a_fork_keeps_the_place_of_the_log(tmp_path: object, url: str) -> None:
    script = (
        "import os, sys; from bandit_router import *; os.chdir(sys.argv[1]);"
        "r = Router.open('sqlite:///chat.db?synchronous=FULL', models=[Model('a')]);"
        "os.chdir('/'); pid = os.fork();"
        "r.choose('x');"
        "assert r._worker.log.read(lambda c: c.exec_driver_sql('PRAGMA synchronous').scalar()) == 2;"
        "pid or os._exit(0); assert os.waitpid(pid, 0)[1] == 0; r.close()"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)


def test_features_of_a_router_with_decisions_change_only_by_rebuild(open_router: Open) -> None:
    router = open_router()
    thumbs(router, 3)
    with pytest.raises(FeaturesError, match="rebuild"):
        open_router(features="hashed:buckets=16", apply=True)
    assert n_of(router) == 3
    empty = open_router(name="empty")
    empty.configure(features=HashedFeatures(buckets=16))
    assert empty.choose("x").features.shape == (32,)


def test_rebuilding_beside_traffic_fails_nobody_and_loses_nothing(open_router: Open) -> None:
    router, other = open_router(), open_router()
    heard, errors, stop = [0], [], threading.Event()

    def talk() -> None:
        while not stop.is_set():
            try:
                decision = other.choose(f"question {heard[0]}", models=["small"])
                other.feedback(decision.id, "thumb", True)
                heard[0] += 1
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=talk)
    thread.start()
    for buckets in (16, 48, 8):
        router.rebuild(f"hashed:buckets={buckets}")
    stop.set()
    thread.join()
    assert not errors
    router.rebuild()  # whatever was decided at the very last with the old features
    assert n_of(router) == n_of(other) == heard[0] > 0


def test_an_open_router_knows_the_tail_at_once(open_router: Open) -> None:
    router = open_router()
    thumbs(router, 6)
    again = open_router()  # the first one is still open, so there is no checkpoint
    assert again._worker.learner.view.beliefs.evidence["small"].n == 6


def test_a_store_is_not_replaced_within_a_generation(open_router: Open) -> None:
    store = MemoryStore()
    routers: list[Router] = []
    threads = [
        threading.Thread(target=lambda: routers.append(open_router(store=store, policy=Uniform())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for router in routers:
        thumbs(router, 2)
    assert [n_of(router) for router in routers] == [8.0] * 4


def test_a_repeated_key_charges_and_remembers_once(open_router: Open) -> None:
    router = open_router(budget_usd_per_request=0.01, policy=Uniform())
    first = router.choose("x", key="k", conversation="c")
    for _ in range(5):
        assert router.choose("x", key="k", conversation="c").id == first.id
    pacer = router._worker.decider._purse._pacer
    assert pacer is not None
    assert pacer.paid == 1
    assert router.choose("y", conversation="c").conversation_head == first.id


def test_rows_that_do_not_count_do_not_end_the_catching_up(
    open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "TAIL_LIMIT", 4)
    monkeypatch.setattr(learning, "POLL_S", 30.0)
    one, two = open_router(), open_router()
    late = [one.choose("x", models=["small"]).id for _ in range(5)]
    one.put_model(Model("small"), reset=True)
    two.beliefs()
    for decision_id in late:
        one.feedback(decision_id, "thumb", True)  # of before the reset: does not count
    thumbs(one, 9)
    assert n_of(two) == 9


@pytest.mark.parametrize("arguments", [{"seed": "x"}, {"seed": -1}, {"worker": "w"}, {"store": "x://"}])
def test_a_refused_opening_leaves_no_thread(open_router: Open, arguments: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError, BanditRouterError)):
        open_router(**arguments)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bandit-router")]
    assert open_router(seed=np.int64(3), worker=np.int64(1)).choose("x").id


def test_an_outcome_said_again_after_a_price_change_is_the_same(router: Router) -> None:
    decision = router.choose("x", models=["small"])
    outcome = Outcome(input_tokens=10, output_tokens=10)
    first = router.report(decision.id, outcome)
    router.put_model(Model("small", output_usd_per_mtok=600.0))
    again = router.report(decision.id, outcome)
    assert (again.duplicate, again.cost_usd) == (True, first.cost_usd)


@pytest.mark.parametrize(
    "options",
    [
        {"preference": "cheap"},
        {"preference": {"price_weight": 1}},
        {"preference": 0},
        {"models": 5},
        {"tags": [1]},
    ],
    ids=str,
)
def test_odd_options_are_named(router: Router, options: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        router.choose("x", **options)  # type: ignore[arg-type] # that is the point


def test_messages_that_json_has_no_word_for(router: Router) -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    odd = {"role": "user", "content": "x", "raw": b"bytes", "at": timedelta(1)}
    decision = router.choose([odd], key="k")
    assert router.choose([odd], key="k").id == decision.id
    router.rebuild("hashed:buckets=8")
    with pytest.raises(ValueError, match="JSON"):
        router.choose([{"role": "user", "content": "x", "deep": deep}])


def test_the_cost_unit_is_fixed_when_first_set(open_router: Open) -> None:
    router = open_router(cost_unit_usd=0.5)
    for unit in (0.25, None):
        if unit is None:
            router.configure(cost_unit_usd=None)
        else:
            with pytest.raises(SettingsError, match=r"fixed at 0\.5"):
                router.configure(cost_unit_usd=unit)
        assert router.settings.cost_unit_usd == 0.5


def test_an_expired_text_is_not_shown_and_soon_erased(open_router: Open, url: str) -> None:
    router = open_router(text_retention=timedelta(milliseconds=20))
    decision = router.choose("a secret")
    gone = threading.Event()
    gone.wait(0.05)
    assert router.decision(decision.id).prompt is None
    with EventLog.open(url) as log:
        count = sa.select(sa.func.count()).select_from(t.texts)
        for _ in range(500):
            if log.read(lambda c: c.execute(count).scalar()) == 0:
                return
            gone.wait(0.02)
    pytest.fail("the text was not erased")


def test_a_story_says_what_is_applied(router: Router) -> None:
    decision = router.choose("x")
    router.feedback(decision.id, "thumb", True)
    (said,) = router.decision(decision.id).feedback
    assert said.feedback.applied


@pytest.mark.parametrize("store", [None, 5, object()])
def test_what_is_no_store_is_refused(open_router: Open, store: object) -> None:
    with pytest.raises(TypeError, match="store"):
        open_router(store=store)


@pytest.mark.parametrize("flag", ["durable", "apply", "create"])
def test_flags_are_true_or_false(open_router: Open, flag: str) -> None:
    with pytest.raises(TypeError, match=flag):
        open_router(**{flag: "no"})


def test_looking_makes_no_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    with pytest.raises(LogUnavailableError, match=r"no file .*missing\.db"):
        Router.open(f"sqlite:///{missing}", create=False)
    assert not missing.exists()


def test_what_the_log_wins_over_is_named(open_router: Open, caplog: pytest.LogCaptureFixture) -> None:
    open_router().close()
    open_router(floor=0.01, models=[Model("small", output_usd_per_mtok=9.0)], policy=Uniform())
    assert "wins over model small, policy" in caplog.text
    with pytest.raises(SettingsError, match="colour"):
        open_router(colour="red")


def test_a_path_instead_of_a_url_gets_a_hint() -> None:
    with pytest.raises(SettingsError, match=r"a URL such as sqlite:///chat\.db"):
        Router.open("chat.db")


def test_a_delta_that_stumbled_half_way_counts_once(
    open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = open_router()
    decision = router.choose("x", models=["small"])
    learn, stumbled = Beliefs.learn, []

    def stumble(self: Beliefs, model: str, observation: Observation) -> None:
        learn(self, model, observation)
        if not stumbled:
            stumbled.append(model)
            raise FloatingPointError("on purpose, after the sums have changed")

    monkeypatch.setattr(Beliefs, "learn", stumble)
    monkeypatch.setattr(learning, "PAUSE_S", 0.05)
    assert not router.feedback(decision.id, "thumb", True).applied
    assert stumbled
    assert n_of(router) == 1
