"""Retention: whatever is archived, erased or rebuilt, wherever it dies, beliefs are those of all that stays."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
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
from pyarrow import dataset
from weeks import Clock, archive, counted, talk

from bandit_router import (
    ArchivedDecisionError,
    ArchiveError,
    EventLog,
    FeaturesError,
    Model,
    Outcome,
    Router,
    Uniform,
    rebuilding,
    retention,
    rewriting,
)
from bandit_router import learner as learning
from bandit_router.asking import read_word
from bandit_router.events import new_id
from bandit_router.evidence import Evidence
from bandit_router.features import features_from_spec
from bandit_router.log import partitions
from bandit_router.log import tables as t
from bandit_router.log.archiving import read_entries
from bandit_router.log.deciding import spent_since
from bandit_router.log.engine import connect
from bandit_router.log.pending import hear
from bandit_router.predictions import Predictions, contribution
from bandit_router.prompt import Prompt
from bandit_router.retention import DAY_S
from bandit_router.rewards import METRICS
from bandit_router.store import Snapshot
from simulations.chaos.servers import PostgresServer

MODELS, USERS = ("small", "large"), ("user:1", "user:2", "user:3")
WEIGHT = {"thumb": 1.0, "rating": 1.0, "judge": 0.5}
FEATURES = ("hashed", "hashed:buckets=16")
DEATHS = ("_wait_for_writers", "export", "refold", "fold_now", "write_base", "write_checkpoint", "Range")


class Death(BaseException):
    """What nothing in the program catches."""


@dataclass
class Word:
    """One word as it was said."""

    id: str
    name: str
    source: str
    value: float | None
    at: float
    retracted: bool = False


@dataclass
class Told:
    """A decision as the plain model knows it."""

    id: str
    text: str
    at: float
    user: str
    served: str
    words: list[Word] = field(default_factory=list)
    outcome: tuple[Outcome, float] | None = None

    def reward(self) -> tuple[float, float] | None:
        latest: dict[tuple[str, str], Word] = {}
        for word in sorted(self.words, key=lambda word: word.at):
            latest[word.name, word.source] = word
        active = [w for w in latest.values() if not w.retracted and w.value is not None]
        total = sum(WEIGHT[w.name] for w in active)
        if not active:
            return None
        mean = sum(WEIGHT[w.name] * w.value for w in active if w.value is not None) / total
        return mean, min(total, 1.0)


class Weeks(RuleBasedStateMachine):
    """Two routers on one log over weeks, and a plain model of what they were told."""

    store = "memory://"

    @initialize()
    def begin(self) -> None:
        self.clock, self.patched, self.held = Clock(), pytest.MonkeyPatch(), ExitStack()
        self.patched.setattr(time, "time", self.clock)
        self.patched.setattr(rebuilding, "OTHERS_S", 0.01)
        self.place = Path(tempfile.mkdtemp(prefix="weeks-"))
        self.folder, self.url = self.place / "archive", self.log_url()
        self.name = f"weeks-{new_id()}"
        self.told: dict[str, Told] = {}
        self.closed = self.gone = ""  # ids before these are closed, and archived
        self.left: list[tuple[str, set[str]]] = []  # users that archives out of reach still hold
        self.half_life: float | None = None
        self.features = FEATURES[0]
        self.routers = [self.open(), self.open()]
        self.talk(0, 0)

    def log_url(self) -> str:
        return f"sqlite:///{self.place / 'log.db'}"

    def open(self) -> Router:
        models = [Model(name) for name in MODELS]
        return Router.open(
            self.url, store=self.store, name=self.name, models=models, policy=Uniform(), seed=7
        )

    @property
    def away(self) -> bool:
        return (self.place / "away").exists()

    # -- what happens -----------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), nth=st.integers(0, 99))
    def talk(self, which: int, nth: int) -> None:
        """Three weeks of traffic."""
        for i in range(nth, nth + 5):
            self.choose(which, USERS[i % 3], f"question {i % 7}")
            last = len(self.told) - 1
            self.say(last, 1 - which, sorted(WEIGHT)[i % 3], USERS[(i + i % 2) % 3], i % 4 / 3)
            self.report(last, which, MODELS[i % 2], 1 + i % 5)
            self.wait(4.0)

    @rule(days=st.sampled_from([0.01, 1.0, 5.0, 8.0]))
    def wait(self, days: float) -> None:
        self.clock.wait(days)

    @rule(which=st.integers(0, 1), user=st.sampled_from(USERS), text=st.text(max_size=9))
    def choose(self, which: int, user: str, text: str) -> None:
        self.clock.now += 1.0
        made = self.routers[which].choose(text, user=user)
        self.told[made.id] = Told(id=made.id, text=text, at=made.at, user=user, served=made.model)

    @precondition(lambda self: self.told)
    @rule(
        nth=st.integers(0, 99),
        which=st.integers(0, 1),
        name=st.sampled_from(sorted(WEIGHT)),
        source=st.sampled_from(USERS),
        value=st.one_of(st.none(), st.floats(0, 1)),
    )
    def say(self, nth: int, which: int, name: str, source: str, value: Any) -> None:
        self.clock.now += 1.0
        about = self.nth(nth)
        value = value > 0.5 if name == "thumb" and value is not None else value
        with self.refused(about):
            heard = self.routers[which].feedback(about.id, name, value, source=source)
            assert heard.applied
            number = None if value is None else float(value)
            known = next((word for word in about.words if word.id == heard.id), None)
            if known is not None:
                known.at = self.clock.now
            else:
                about.words.append(Word(heard.id, name, source, number, self.clock.now))

    @precondition(lambda self: any(not w.retracted for of in self.told.values() for w in of.words))
    @rule(nth=st.integers(0, 99), which=st.integers(0, 1))
    def retract(self, nth: int, which: int) -> None:
        words = [(of, word) for of in self.told.values() for word in of.words if not word.retracted]
        of, word = words[nth % len(words)]
        with self.refused(of):
            self.routers[which].retract(word.id)
            word.retracted = True

    @precondition(lambda self: self.told)
    @rule(
        nth=st.integers(0, 99),
        which=st.integers(0, 1),
        model=st.sampled_from(MODELS),
        n=st.integers(1, 9),
    )
    def report(self, nth: int, which: int, model: str, n: int) -> None:
        of = self.nth(nth)
        outcome = Outcome(model=model, output_tokens=n, latency_s=n / 10, cost_usd=n / 100)
        with self.refused(of):
            reported = self.routers[which].report(of.id, outcome)
            if not reported.duplicate:
                of.served, of.outcome = model, (outcome, self.clock.now)

    def nth(self, n: int) -> Told:
        return self.told[sorted(self.told)[n % len(self.told)]]

    @contextmanager
    def refused(self, about: Told) -> Iterator[None]:
        """A defined answer where the decision is archived, or about to be."""
        if about.id < max(self.closed, self.gone):
            with pytest.raises(ArchivedDecisionError, match="was archived on 2026"):
                yield
        else:
            yield

    @precondition(lambda self: not self.away)
    @rule(days=st.sampled_from([1.0, 7.0]), death=st.sampled_from([*[None] * 7, *DEATHS]))
    def archive(self, days: float, death: str | None) -> None:
        with EventLog.open(self.url) as log:
            with dying(retention, death):
                list(retention.retain(log, self.folder, older_than_s=days * DAY_S, now=self.clock.now))
                week = retention.WEEK_S
                bound = (self.clock.now - days * DAY_S - 4 * DAY_S) // week * week + 4 * DAY_S
                left = [of for of in self.told.values() if of.at < bound and of.id >= self.seen(log)]
                assert not left
            self.seen(log)

    def seen(self, log: EventLog) -> str:
        entries = log.read(read_entries)
        self.gone = max([self.gone, *(entry.before for entry in entries)])
        closing = log.read(lambda c: read_entries(c, closing=True))
        self.closed = max((entry.before for entry in closing), default="")
        return self.gone

    @rule(which=st.integers(0, 1), user=st.sampled_from(USERS))
    def forget(self, which: int, user: str) -> None:
        self.clock.now += 1.0
        archived = {of for of in self.told if of < self.gone}
        forgotten = self.routers[which].forget_user(user)
        self.erase(user, self.told.keys() - archived if self.away else set(self.told))
        if self.away and archived:
            assert forgotten.archives_pending > 0
            self.left.append((user, archived))
        else:
            assert forgotten.archives_pending == 0

    def erase(self, user: str, among: set[str]) -> None:
        for of in among & self.told.keys():
            told = self.told[of]
            told.words = [word for word in told.words if word.source != user]
            if told.user == user:
                del self.told[of]

    @rule(away=st.sampled_from([False, False, True]))
    def move(self, away: bool) -> None:
        """The archive's folder goes out of reach, or comes back."""
        there, hidden = self.folder, self.place / "away"
        if away and there.exists() and not hidden.exists():
            there.rename(hidden)
        elif not away and hidden.exists():
            hidden.rename(there)

    @precondition(lambda self: not self.away)
    @rule(death=st.sampled_from([None, "refold", "_exchange", "_strike"]))
    def finish_erasures(self, death: str | None) -> None:
        with EventLog.open(self.url) as log:
            with dying(rewriting, death):
                rewriting.erase_archived(log, now=self.clock.now)
            rewriting.erase_archived(log, now=self.clock.now)
            assert rewriting.erase_archived(log, now=self.clock.now) == rewriting.Forgotten()
        for user, among in self.left:
            self.erase(user, among)
        self.left = []

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.routers[which].close()
        self.routers[which] = self.open()

    @rule(which=st.integers(0, 1), features=st.sampled_from([None, *FEATURES]))
    def rebuild(self, which: int, features: str | None) -> None:
        changes = features not in (None, self.features)
        if self.away and changes and any(of < self.gone for of in self.told):
            with pytest.raises(FeaturesError, match="out of reach"):
                self.routers[which].rebuild(features)
            return
        self.routers[which].rebuild(features)
        self.features = features or self.features

    @rule(which=st.integers(0, 1), days=st.sampled_from([None, 20.0, 40.0]))
    def fade(self, which: int, days: float | None) -> None:
        half_life = None if days is None else timedelta(days=days)
        seconds = None if days is None else days * DAY_S
        if self.away and seconds != self.half_life and any(of < self.gone for of in self.told):
            with pytest.raises(ArchiveError, match="out of reach"):
                self.routers[which].configure(half_life=half_life)
            return
        self.routers[which].configure(half_life=half_life)
        self.half_life = seconds

    # -- what holds -------------------------------------------------------------------------------

    @invariant()
    def both_equal_the_plain_model(self) -> None:
        for router in getattr(self, "routers", ()):
            router.beliefs()
            assert_equal_sums(sums_of(router), self.told.values(), self.features, self.half_life)
            assert_equal_predictions(router, self.told.values(), self.features)

    def teardown(self) -> None:
        for router in getattr(self, "routers", ()):
            router.close()
        if hasattr(self, "patched"):
            self.patched.undo()
            self.held.close()
        shutil.rmtree(getattr(self, "place", "nowhere"), ignore_errors=True)


@contextmanager
def dying(module: Any, at: str | None) -> Iterator[None]:
    """Let a run die where it calls something for the first time, if it does."""
    if at is None:
        yield
        return

    def die(*_: object, **__: object) -> None:
        raise Death

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, at, die)
        with suppress(Death):
            yield


def sums_of(router: Router) -> dict[str, Evidence]:
    worker = router._worker
    registration = worker.learner.view.registration
    snapshot = worker.store.read(registration.book, generation=registration.generation, after=None)
    assert isinstance(snapshot, Snapshot)
    return dict(snapshot.evidence)


def assert_equal_sums(
    found: dict[str, Evidence], told: Any, features: str, half_life: float | None
) -> None:
    """Compare with direct sums, to 1e-9 of the largest entry."""
    extractor = features_from_spec(features)
    for model in MODELS:
        own = [(of, r) for of in told if of.served == model and (r := of.reward()) is not None]
        evidence = found.get(model) or Evidence(extractor.dim, half_life=half_life)
        if not own and not evidence.epoch:
            assert evidence.n == pytest.approx(0.0, abs=1e-9)
            continue
        assert evidence.dim == extractor.dim
        A = np.zeros((evidence.dim, evidence.dim))
        b, c, n, scale = np.zeros(evidence.dim), 0.0, 0.0, 1.0
        for of, (value, weight) in own:
            x = extractor.extract(Prompt(text=of.text))
            g = weight * (1.0 if half_life is None else 2.0 ** (of.at / half_life - evidence.epoch))
            A += g * np.outer(x, x)
            b, c, n = b + g * value * x, c + g * value**2, n + g
        if half_life is not None:
            scale = max((2.0 ** (of.at / half_life - evidence.epoch) for of in told), default=1.0)
        scale = max(np.abs(A).max(), scale)
        for seen, wanted in ((evidence.A, A), (evidence.b, b), (evidence.c, c), (evidence.n, n)):
            assert np.abs(seen - wanted).max() <= 1e-9 * scale


def assert_equal_predictions(router: Router, told: Any, features: str) -> None:
    plain, extractor = Predictions(), features_from_spec(features)
    for of in told:
        if of.outcome is not None:
            outcome, at = of.outcome
            prompt = Prompt(text=of.text)
            amounts = contribution(outcome, prompt.input_tokens)
            plain.add(outcome.model, amounts, at=at, x=extractor.extract(prompt))
    found = router._worker.learner.view.predictions.copy()
    found.merge(plain, sign=-1.0)
    for sums in found.sums.values():
        assert (
            np.abs(sums).max()
            <= 1e-9 * max(1.0, 2.0 ** (router._worker.plan.clock() / 604_800.0 - found.epoch)) * 100
        )


EXAMPLES = int(os.environ.get("BANDIT_ROUTER_TEST_EXAMPLES", "3"))
_SIZE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestWeeks = Weeks.TestCase
TestWeeks.settings = _SIZE


def test_on_servers_too(postgres_server: PostgresServer, redis_url: str) -> None:
    class OnServers(Weeks):
        """The same on PostgreSQL, whose weeks are partitions, and Redis."""

        store = redis_url

        def log_url(self) -> str:
            new = postgres_server.new_database(f"weeks{next(numbers)}", template="migrated")
            self.url = self.held.enter_context(new)
            self.cut()
            return self.url

        def wait(self, days: float) -> None:
            super().wait(days)
            self.cut()

        def cut(self) -> None:
            """Partitions are ready before they are needed."""
            engine = connect(self.url)
            partitions.ensure(engine, now=self.clock.now)
            engine.dispose()

    numbers = count()
    size = settings(_SIZE, max_examples=max(1, EXAMPLES // 3), stateful_step_count=15)
    run_state_machine_as_test(OnServers, settings=size)


Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def test_whole_partitions_go(postgres_url: str, open_router: Open, tmp_path: Path) -> None:
    clock = Clock()
    engine = connect(postgres_url)
    partitions.ensure(engine, now=clock.now)
    with clock.in_force():
        router = open_router(log=postgres_url)
        talk(router, clock)
        router.choose("of another week")
        before = counted(router)
        named = {p.name for p in router.log.read(partitions.read_partitions)}
        assert "decisions_20260202" in named
        done = archive(postgres_url, tmp_path / "archive", clock)
        assert [week.week for week in done] == ["2026-02-02", "2026-02-09"]
        left = {p.name for p in router.log.read(partitions.read_partitions)}
        for table in t.PARTITIONED:
            assert f"{table.name}_20260216" in left
            assert not {f"{table.name}_20260202", f"{table.name}_20260209"} & left
        router.rebuild()
        assert counted(router) == pytest.approx(before)
    engine.dispose()


def test_a_word_that_is_on_its_way_when_a_range_closes(
    postgres_url: str, open_router: Open, tmp_path: Path
) -> None:
    """Its transaction began before: the run waits for it, and archives what it wrote."""
    clock = Clock()
    with clock.in_force():
        router = open_router(log=postgres_url)
        decisions = talk(router, clock, weeks=1)
        clock.wait(8.0)
        said = threading.Event()
        with EventLog.open(postgres_url) as log:

            def slowly(connection: sa.Connection, of: str = decisions[0].id) -> None:
                word = read_word(of, "rating", 1.0, {"source": "late"}, metrics=METRICS, now=clock.now)
                hear(connection, "default", word, METRICS)
                said.set()
                time.sleep(1.0)

            late = log.write(slowly)
            assert said.wait(20)
            archive(postgres_url, tmp_path / "archive", clock)
            late.result(20)
        rows = dataset.dataset(tmp_path / "archive" / "feedback").to_table().to_pylist()
        assert "late" in {row["source"] for row in rows}
        live = counted(router)
        router.rebuild()
        assert counted(router) == pytest.approx(live)


def test_what_was_spent_and_changed_stays_known(open_router: Open, url: str, tmp_path: Path) -> None:
    clock = Clock()
    with clock.in_force():
        router = open_router(budget_usd_per_request=0.05)
        talk(router, clock)
        clock.wait(1.1)
        since = router.settings.budget_since
        assert since is not None
        before = router.log.read(lambda c: spent_since(c, "default", since))
        changed = {model: belief["last_change"] for model, belief in router.beliefs().items()}
        archive(url, tmp_path / "archive", clock)
        assert router.log.read(lambda c: spent_since(c, "default", since)) == pytest.approx(before)
        assert before[0] == 12
        # Programs that do not know what archiving leaves behind are kept away.
        assert (
            router.log.read(lambda c: c.execute(sa.select(t.compatibility.c.oldest)).scalar()) == "0005"
        )
        found = {model: belief["last_change"] for model, belief in router.beliefs().items()}
        assert found == changed
        with pytest.raises(FeaturesError, match="by rebuild"):
            router.configure(features="hashed:buckets=16")


def test_a_range_that_cannot_be_archived_is_spoken_of_again(
    open_router: Open, url: str, tmp_path: Path
) -> None:
    clock = Clock()
    with clock.in_force():
        router = open_router()
        decisions = talk(router, clock, weeks=1)
        clock.wait(8.0)

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(retention, "export", refuse)
            with pytest.raises(ArchiveError, match="No space left"):
                archive(url, tmp_path / "archive", clock)
        assert router.feedback(decisions[0].id, "rating", 1.0).applied
        with pytest.raises(ValueError, match="at least 1 day"):
            archive(url, tmp_path / "archive", clock, days=0.9)


def test_a_straggler_is_archived_by_the_next_run(open_router: Open, url: str, tmp_path: Path) -> None:
    """A decision that a journal brings in long after its week was archived."""
    clock = Clock()
    with clock.in_force():
        router = open_router()
        talk(router, clock, weeks=1)
        late = new_id(clock.now - 5 * DAY_S)
        kept = router.log.read(lambda c: c.execute(sa.select(t.decisions)).mappings().first())
        clock.wait(8.0)
        archive(url, tmp_path / "archive", clock)
        router.log.writer.insert((t.decisions, {**kept, "id": late})).result()
        assert router.feedback(late, "rating", 1.0).applied
        before = counted(router)
        assert [week.rows["decisions"] for week in archive(url, tmp_path / "archive", clock)] == [1]
        with pytest.raises(ArchivedDecisionError):
            router.feedback(late, "rating", 1.0)
        router.rebuild()
        assert counted(router) == pytest.approx(before)


def test_a_worker_that_had_not_read_a_row_yet_loses_nothing(
    open_router: Open, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with clock.in_force():
        router = open_router()
        decisions = talk(router, clock, weeks=1)
        monkeypatch.setattr(
            learning, "POLL_S", 60.0
        )  # so that it looks at the log only when it is asked
        slow = open_router()
        router.feedback(decisions[0].id, "judge", 1.0, source="judge:a")
        router.feedback(decisions[1].id, "judge", 0.0, source="judge:a")
        clock.wait(8.0)
        archive(url, tmp_path / "archive", clock)
        live = counted(router)
        assert counted(slow) == pytest.approx(live)
        router.rebuild()
        assert counted(slow) == pytest.approx(live)


def test_a_half_life_given_at_opening_reaches_what_was_archived(
    open_router: Open, url: str, tmp_path: Path
) -> None:
    clock = Clock()
    with clock.in_force():
        router = open_router()
        talk(router, clock)
        clock.wait(1.1)
        archive(url, tmp_path / "archive", clock)
        fading = open_router(half_life=timedelta(days=7), apply=True)
        n = sum(found for name, found in counted(fading).items() if name.endswith(" n"))
        assert n == pytest.approx(sum(2 ** -((22.1 - 1.75 * i) / 7) for i in range(12)))
        assert counted(router) == pytest.approx(counted(fading))
