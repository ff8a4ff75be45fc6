"""The fold: whatever happens, live beliefs are what a plain recomputation from the events gives."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bandit_router import Model, Outcome, Router, Uniform
from bandit_router.drift import Drift
from bandit_router.events import new_id
from bandit_router.evidence import Evidence
from bandit_router.store import Snapshot

MODELS = ("small", "large", "other")
USERS = ("user:1", "user:2", "judge:a")
HALF_LIFE_S = 30.0  # of a shorter one all priors would be chosen anew all the time
WEIGHT = {"thumb": 1.0, "rating": 1.0, "judge": 0.5}


@dataclass
class Word:
    """One word as it was said."""

    id: str
    name: str
    source: str
    value: float | None
    at: float
    order: int
    retracted: bool = False


@dataclass
class Told:
    """A decision as the plain model knows it."""

    x: np.ndarray[Any, Any]
    at: float
    user: str
    served: str
    words: list[Word] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)  # of all models, shared by all decisions

    def share(self) -> float:
        """What is left of it after the changes of its model since."""
        later = [d.factor for d in self.drifts if d.model == self.served and d.at > self.at]
        return math.prod(later)

    def reward(self) -> tuple[float, float] | None:
        latest: dict[tuple[str, str], Word] = {}
        for word in sorted(self.words, key=lambda word: (word.at, word.order)):
            latest[word.name, word.source] = word
        active = [w for w in latest.values() if not w.retracted and w.value is not None]
        total = sum(WEIGHT[w.name] for w in active)
        if not active:
            return None
        return sum(WEIGHT[w.name] * w.value for w in active if w.value is not None) / total, min(
            total, 1.0
        )


def sums_of(router: Router) -> dict[str, Evidence]:
    """What the store holds, once everything that was acknowledged is in it."""
    router.beliefs()
    worker = router._worker
    generation = worker.learner.view.registration.generation
    snapshot = worker.store.read(worker.learner.book, generation=generation, after=None)
    assert isinstance(snapshot, Snapshot)
    return dict(snapshot.evidence)


def assert_equal_sums(found: dict[str, Evidence], told: list[Told], half_life: float | None) -> None:
    """Compare with direct sums, to 1e-9 of the largest entry."""
    for model in MODELS:
        evidence = found.get(model)
        own = [(t, r) for t in told if t.served == model and (r := t.reward()) is not None]
        if evidence is None:
            assert not own
            continue
        A = np.zeros((evidence.dim, evidence.dim))
        b, c, n = np.zeros(evidence.dim), 0.0, 0.0
        for t, (value, weight) in own:
            g = (
                weight
                * t.share()
                * (1.0 if half_life is None else 2.0 ** (t.at / half_life - evidence.epoch))
            )
            A += g * np.outer(t.x, t.x)
            b, c, n = b + g * value * t.x, c + g * value**2, n + g
        # What was added and taken away again leaves rounding of the size of what it was.
        scale = max(
            (np.abs(A).max(), abs(c), 1.0 if half_life is None else _scale(told, evidence, half_life))
        )
        assert np.abs(evidence.A - A).max() <= 1e-9 * scale
        assert np.abs(evidence.b - b).max() <= 1e-9 * scale
        assert abs(evidence.c - c) <= 1e-9 * scale
        assert abs(evidence.n - n) <= 1e-9 * scale


def _scale(told: list[Told], evidence: Evidence, half_life: float) -> float:
    return max((2.0 ** (t.at / half_life - evidence.epoch) for t in told), default=1.0)


class Loop(RuleBasedStateMachine):
    """Two routers on one log, and a plain model of what they were told."""

    half_life: float | None = None
    store = "memory://"

    @initialize()
    def begin(self) -> None:
        self.url, self.name = self.place(), f"fold-{new_id()}"
        self.routers = [self.open(), self.open()]
        self.told: dict[str, Told] = {}
        self.drifts: list[Drift] = []
        self.order = 0

    def place(self) -> str:
        self.folder = tempfile.mkdtemp(prefix="fold-")
        return f"sqlite:///{Path(self.folder) / 'log.db'}"

    def open(self) -> Router:
        half_life = None if self.half_life is None else timedelta(seconds=self.half_life)
        models = [Model(name) for name in MODELS]
        arguments = {"policy": Uniform(), "half_life": half_life}
        return Router.open(self.url, store=self.store, name=self.name, models=models, **arguments)

    @rule(which=st.integers(0, 1), user=st.sampled_from(USERS), text=st.text(max_size=12))
    def choose(self, which: int, user: str, text: str) -> None:
        decision = self.routers[which].choose(text, user=user)
        self.told[decision.id] = Told(
            x=decision.features,
            at=decision.at,
            user=user,
            served=decision.model,
            drifts=self.drifts,
        )

    @precondition(lambda self: self.told)
    @rule(
        data=st.data(),
        which=st.integers(0, 1),
        name=st.sampled_from(sorted(WEIGHT)),
        source=st.sampled_from(USERS),
        value=st.one_of(st.none(), st.floats(0, 1)),
        late=st.floats(-100, 100),
        twice=st.booleans(),
    )
    def say(
        self, data: Any, which: int, name: str, source: str, value: Any, late: float, twice: bool
    ) -> None:
        decision_id = data.draw(st.sampled_from(sorted(self.told)))
        told = self.told[decision_id]
        value = value > 0.5 if name == "thumb" and value is not None else value
        at = round(told.at + late, 6)
        for _ in range(1 + twice):
            heard = self.routers[which].feedback(decision_id, name, value, source=source, at=at)
            assert heard.applied
            self.hear(told, heard.id, name, source, value, at)

    def hear(self, told: Told, id_: str, name: str, source: str, value: Any, at: float) -> None:
        known = next((word for word in told.words if word.id == id_), None)
        if known is not None:  # a duplicate: said again later, it holds from then on
            known.at = max(known.at, at)
            return
        self.order += 1
        number = None if value is None else float(value)
        told.words.append(Word(id_, name, source, number, at, self.order))

    @precondition(lambda self: any(t.words for t in self.told.values()))
    @rule(data=st.data(), which=st.integers(0, 1))
    def retract(self, data: Any, which: int) -> None:
        words = [word for told in self.told.values() for word in told.words]
        word = data.draw(st.sampled_from(sorted(words, key=lambda word: word.order)))
        self.routers[which].retract(word.id)
        word.retracted = True

    @precondition(lambda self: self.told)
    @rule(data=st.data(), which=st.integers(0, 1), model=st.sampled_from(MODELS))
    def report(self, data: Any, which: int, model: str) -> None:
        decision_id = data.draw(st.sampled_from(sorted(self.told)))
        self.routers[which].report(decision_id, Outcome(model=model, output_tokens=5))
        self.told[decision_id].served = model

    @rule(which=st.integers(0, 1), user=st.sampled_from(USERS[:2]))
    def forget(self, which: int, user: str) -> None:
        self.routers[which].forget_user(user)
        self.told = {id_: told for id_, told in self.told.items() if told.user != user}
        for told in self.told.values():
            told.words = [word for word in told.words if word.source != user]

    @precondition(lambda self: self.told)
    @rule(
        data=st.data(),
        which=st.integers(0, 1),
        model=st.sampled_from(MODELS),
        factor=st.floats(0.01, 1.0),
    )
    def drift(self, data: Any, which: int, model: str, factor: float) -> None:
        """A model has changed: now, or just after some decision."""
        moments = [None, *sorted(told.at + 1e-6 for told in self.told.values())]
        at = data.draw(st.sampled_from(moments))
        if all(drift.model != model or round(at or 0.0, 6) != drift.at for drift in self.drifts):
            self.drifts.append(self.routers[which].record_drift(model, factor=factor, at=at))

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.routers[which].close()
        self.routers[which] = self.open()

    @rule(which=st.integers(0, 1))
    def rebuild(self, which: int) -> None:
        self.routers[which].rebuild()

    @invariant()
    def both_equal_the_plain_model(self) -> None:
        for router in getattr(self, "routers", ()):
            assert_equal_sums(sums_of(router), list(self.told.values()), self.half_life)

    def teardown(self) -> None:
        for router in getattr(self, "routers", ()):
            router.close()
        shutil.rmtree(getattr(self, "folder", "nowhere"), ignore_errors=True)


class FadingLoop(Loop):
    """The same, with a half-life so short that everything fades while it is told."""

    half_life = HALF_LIFE_S


_SIZE = settings(
    max_examples=6, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLoop = Loop.TestCase
TestLoop.settings = _SIZE
TestFadingLoop = FadingLoop.TestCase
TestFadingLoop.settings = _SIZE


@pytest.mark.parametrize("half_life_s", [None, HALF_LIFE_S], ids=["never", "fading"])
def test_on_servers_too_whatever_redis_forgets(
    postgres_url: str, redis_url: str, half_life_s: float | None
) -> None:
    class OnServers(Loop):
        """The same on PostgreSQL and Redis."""

        half_life, store = half_life_s, redis_url

        def place(self) -> str:
            return postgres_url

        @rule()
        def flush(self) -> None:
            with redis.Redis.from_url(redis_url) as client:
                client.flushdb()

    size = settings(_SIZE, max_examples=3, stateful_step_count=15)
    run_state_machine_as_test(OnServers, settings=size)


@pytest.mark.parametrize("half_life", [None, timedelta(seconds=HALF_LIFE_S)], ids=["never", "fading"])
def test_a_long_stream_equals_its_rebuild(url: str, half_life: timedelta | None) -> None:
    """Duplicates, revisions, revocations, retractions, late and out of order; a second process agrees."""
    rng = np.random.default_rng(11)
    models = [Model(name) for name in MODELS]
    with (
        Router.open(url, models=models, policy=Uniform(), half_life=half_life, durable=False) as router,
        Router.open(url) as other,
    ):
        decisions, words = [], []
        for i in range(100):
            decisions.append(router.choose(f"question number {i}", user=f"user:{i % 7}"))
            about = decisions[rng.integers(len(decisions))]
            name = ("thumb", "rating", "judge")[rng.integers(3)]
            value: Any = bool(rng.random() < 0.5) if name == "thumb" else float(rng.random())
            value = None if rng.random() < 0.1 else value
            at = about.at + rng.normal(0, 50)
            source = f"rater:{rng.integers(3)}"
            for _ in range(1 + (rng.random() < 0.2)):
                words.append(router.feedback(about.id, name, value, source=source, at=max(at, 0.0)))
            if rng.random() < 0.1:
                router.retract(words[rng.integers(len(words))].id)
            if rng.random() < 0.1:
                router.report(about.id, Outcome(model=MODELS[rng.integers(3)]))
        live, second = sums_of(router), sums_of(other)
        x, at = decisions[0].features, decisions[-1].at
        mean, variance = _predictions(router, x, at)
        router.rebuild()
        rebuilt = sums_of(router)
        for model in MODELS:
            for twin in (live[model], second[model]):
                reference = rebuilt[model]
                shift = 2.0 ** (reference.epoch - twin.epoch)
                scale = max(np.abs(twin.A).max(), 1.0)
                assert np.abs(twin.A - shift * reference.A).max() <= 1e-9 * scale
                assert np.abs(twin.b - shift * reference.b).max() <= 1e-9 * scale
        again = _predictions(router, x, at)
        assert np.abs(mean - again[0]).max() < 1e-6
        assert np.abs(variance - again[1]).max() < 1e-6


def _predictions(router: Router, x: Any, at: float) -> tuple[Any, Any]:
    beliefs = router._worker.learner.view.beliefs
    fit = beliefs.fit(at=at)
    order = np.argsort(beliefs.models)
    return (fit.weights @ x)[order], (fit.covariance @ x @ x)[order] * fit.prior.noise
