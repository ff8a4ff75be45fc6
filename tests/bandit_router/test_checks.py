"""Every implementation keeps its contract, and what breaks a clause fails the check of that clause."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from bandit_router.checks import Check, features_checks, policy_checks, store_checks
from bandit_router.errors import StaleGenerationError
from bandit_router.evidence import Delta, Evidence
from bandit_router.features import FittedFeatures, HashedFeatures, VectorFeatures
from bandit_router.policies import (
    POLICIES,
    EpsilonGreedy,
    Greedy,
    InverseGapWeighting,
    LinUCB,
    Policy,
    ThompsonSampling,
    Uniform,
)
from bandit_router.prompt import Prompt
from bandit_router.store import Changes, MemoryStore, PosteriorStore, Snapshot
from bandit_router.store.redis import RedisStore
from bandit_router.values import Array

FITTED = FittedFeatures(
    ["explain", "quantum"], np.array([1.0, 2.0]), np.array([[0.5, 0.1], [-0.2, 0.8]], np.float32)
)

_POLICIES: dict[str, Callable[[], Policy]] = {
    "greedy": Greedy,
    "uniform": Uniform,
    "linucb": LinUCB,
    "linucb-0": lambda: LinUCB(alpha=0.0),
    "egreedy": EpsilonGreedy,
    "igw": InverseGapWeighting,
    "igw-0": lambda: InverseGapWeighting(gamma=0.0),
    "igw-1e12": lambda: InverseGapWeighting(gamma=1e12),
    "thompson": ThompsonSampling,
    "thompson-0": lambda: ThompsonSampling(width=0.0),
    "thompson-30": lambda: ThompsonSampling(width=30.0),
}


def _every_check() -> Iterator[Any]:  # Any: pytest does not name the type of a parameter set
    for name, make in _POLICIES.items():
        yield from _named(name, policy_checks(make))
    yield from _named("hashed", features_checks(HashedFeatures))
    yield from _named("hashed-1", features_checks(lambda: HashedFeatures(1)))
    yield from _named("fitted", features_checks(lambda: FITTED))
    yield from _named("vectors", features_checks(lambda: VectorFeatures(3), texts=False))


def _named(name: str, checks: Iterator[Check]) -> Iterator[Any]:  # Any: as above
    for check in checks:
        yield pytest.param(check, id=f"{name}-{check}")


@pytest.mark.parametrize("check", list(_every_check()))
def test_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("name", [str(check) for check in store_checks(MemoryStore)])
@pytest.mark.parametrize("kind", ["memory", "redis", "redis_cluster"])
def test_contract_of_stores(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    make: Callable[[], PosteriorStore] = MemoryStore
    if kind != "memory":
        url = request.getfixturevalue(f"{kind}_url")
        make = partial(RedisStore.from_url, f"{url}?timeout=30", snapshot_every=50)
    (check,) = [check for check in store_checks(make) if check.name == name]
    check()


def test_every_policy_of_ours_is_checked() -> None:
    assert {type(make()) for make in _POLICIES.values()} == set(POLICIES.values())


def _fails(checks: Iterator[Check], name: str) -> None:
    (check,) = [check for check in checks if check.name == name]
    with pytest.raises(AssertionError, match="expected"):
        check()


@dataclass(frozen=True)
class Broken:
    """A policy that does what it is told."""

    answer: Callable[[Array, Array], Array]
    spec: str = "greedy"

    def probabilities(self, mean: Array, std: Array) -> Array:
        return self.answer(mean, std)


def _halved(mean: Array, std: Array) -> Array:
    return np.full(len(mean), 0.5 / len(mean))


def _negative(mean: Array, std: Array) -> Array:
    p = np.full(len(mean), 1.0 / len(mean))
    p[0] -= 2.0 / len(mean)
    p[-1] += 2.0 / len(mean)
    return p


def _softmax(mean: Array, std: Array) -> Array:
    with np.errstate(all="ignore"):
        p = np.exp(mean)
        return np.asarray(p / p.sum())


def _sorting(mean: Array, std: Array) -> Array:
    mean.sort()
    return Greedy().probabilities(mean, std)


def _first(mean: Array, std: Array) -> Array:
    return np.eye(len(mean))[0]


def _worst(mean: Array, std: Array) -> Array:
    return Greedy().probabilities(-mean, std)


def _unsure(mean: Array, std: Array) -> Array:
    return np.full(len(mean), 1.0 / (len(mean) + 1e-12))


class _Moody:
    def __init__(self) -> None:
        self.generator = np.random.default_rng(1)

    def __call__(self, mean: Array, std: Array) -> Array:
        return self.generator.dirichlet(np.ones(len(mean)))


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (_halved, "sums_to_one"),
        (_negative, "sums_to_one"),
        (_softmax, "survives_extremes"),
        (_sorting, "leaves_inputs_alone"),
        (_first, "follows_a_permutation"),
        (_worst, "rises_with_the_mean"),
        (_unsure, "is_certain_of_one"),
        (_Moody(), "repeats_itself"),
        (_first, "reads_its_spec"),
        (_negative, "keeps_the_floor"),
    ],
)
def test_broken_policy_fails(answer: Callable[[Array, Array], Array], name: str) -> None:
    _fails(policy_checks(lambda: Broken(answer)), name)


class _Store:
    """A store that leaves all to MemoryStore; what breaks a clause overrides a method."""

    shared = True

    def __init__(self) -> None:
        self.inner = MemoryStore()

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        return self.inner.append(router, deltas, generation=generation, complete=complete, after=after)

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        return self.inner.read(router, generation=generation, after=after)

    def replace(self, router: str, snapshot: Snapshot) -> None:
        self.inner.replace(router, snapshot)

    def wait(self, router: str, *, after: int, timeout_s: float) -> bool:
        return self.inner.wait(router, after=after, timeout_s=timeout_s)

    def close(self) -> None:
        self.inner.close()


class _Inventive(_Store):
    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        found = self.inner.read(router, generation=generation, after=after)
        return Changes(position=0, deltas=()) if found is None else found


class _Repetitive(_Store):
    """Counts a key again."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh = 0

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        self.fresh += len(deltas)
        renamed = [replace(delta, key=10**9 + self.fresh + i) for i, delta in enumerate(deltas)]
        return self.inner.append(router, renamed, generation=generation, complete=0, after=after)


class _Negligent(_Store):
    """Forgets its keys without the rows that `complete` says are contained."""

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        new = self.inner.append(router, deltas, generation=generation, complete=complete, after=after)
        if complete:
            self.inner._books[router].complete = 0
        return new


class _Overcautious(_Store):
    """Takes `complete` to hold one row more."""

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        return self.inner.append(
            router, deltas, generation=generation, complete=complete + 1, after=after
        )


class _Racing(_Store):
    """Looks whether a key is known before it takes the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[int] = set()
        self.fresh = itertools.count(10**9)
        self.meeting = threading.Barrier(8)

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        new = [delta for delta in deltas if delta.key not in self.keys]
        self.meeting.wait(30)  # let all writers look
        self.keys |= {delta.key for delta in new}
        fresh = [replace(delta, key=next(self.fresh)) for delta in new]
        return self.inner.append(router, fresh, generation=generation, complete=0, after=after)


class _Dropping(_Store):
    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        kept = [delta for delta in deltas if delta.key % 14 != 1]
        self.inner.append(router, kept, generation=generation, complete=complete, after=after)
        return len(deltas)


class _Unforgiving(_Store):
    """Takes no contribution that is not positive."""

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        positive = [delta for delta in deltas if delta.observation.weight > 0]
        return self.inner.append(router, positive, generation=generation, complete=complete, after=after)


class _Shared(_Store):
    """One book for all routers."""

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        return self.inner.append("all", deltas, generation=generation, complete=complete, after=after)

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        return self.inner.read("all", generation=generation, after=after)

    def replace(self, router: str, snapshot: Snapshot) -> None:
        with suppress(StaleGenerationError):
            self.inner.replace("all", snapshot)


class _Piecemeal(_Store):
    """Appends one by one, and goes on only when who checks has looked in between."""

    def __init__(self) -> None:
        super().__init__()
        self.checker = threading.get_ident()
        self.halfway = False
        self.seen = threading.Event()
        self.turn = threading.Lock()  # two halves could make a whole

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        halfway = self.halfway  # before it reads
        found = self.inner.read(router, generation=generation, after=after)
        if halfway and threading.get_ident() == self.checker:
            self.seen.set()
        return found

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        new = 0
        with self.turn:
            for delta in deltas:
                new += self.inner.append(
                    router, [delta], generation=generation, complete=complete, after=after
                )
                if delta.key == 3:
                    self.halfway = True
                    self.seen.wait(30)
        return new


class _Forgetful(_Store):
    """Says that nothing is new."""

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        found = self.inner.read(router, generation=generation, after=after)
        return replace(found, deltas=found.deltas[1:]) if isinstance(found, Changes) else found


class _Trusting(_Store):
    """Takes any position for one of its own."""

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        found = self.inner.read(router, generation=generation, after=after)
        if isinstance(found, Snapshot) and after is not None and found.generation == generation:
            return Changes(position=found.position, deltas=())
        return found


class _Lenient(_Store):
    """Takes deltas and snapshots of any generation."""

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        held = self.inner.read(router, generation=generation, after=None)
        assert isinstance(held, Snapshot)
        return self.inner.append(
            router, deltas, generation=held.generation, complete=complete, after=after
        )

    def replace(self, router: str, snapshot: Snapshot) -> None:
        self.inner._books.pop(router, None)
        self.inner.replace(router, snapshot)


class _Clinging(_Store):
    """Goes on with the deltas of the old generation."""

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        found = self.inner.read(router, generation=generation, after=after)
        if isinstance(found, Snapshot) and after is not None:
            return Changes(position=found.position, deltas=())
        return found


class _Generous(_Store):
    """Hands out its own sums."""

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        found = self.inner.read(router, generation=generation, after=after)
        own = self.inner._books[router].evidence
        return replace(found, evidence=own) if isinstance(found, Snapshot) else found


class _Secretive(_Store):
    """Does not say what it contains beyond `complete`."""

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        found = self.inner.read(router, generation=generation, after=after)
        return replace(found, beyond=frozenset()) if isinstance(found, Snapshot) else found


class _Amnesiac(_Store):
    """Does not take over what a snapshot contains beyond `complete`."""

    def replace(self, router: str, snapshot: Snapshot) -> None:
        self.inner.replace(router, replace(snapshot, beyond=frozenset()))


class _Gullible(_Store):
    """Believes in `complete`, whatever it goes by."""

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        return self.inner.append(router, deltas, generation=generation, complete=complete)


class _Deaf(_Store):
    """Wakes nobody."""

    def wait(self, router: str, *, after: int, timeout_s: float) -> bool:
        return False


class _Nervous(_Store):
    """Wakes everybody, always."""

    def wait(self, router: str, *, after: int, timeout_s: float) -> bool:
        return True


class _Timeless(_Store):
    """Lets nothing fade."""

    def replace(self, router: str, snapshot: Snapshot) -> None:
        self.inner.replace(router, replace(snapshot, half_life_s=None))


@pytest.mark.parametrize(
    ("store", "name"),
    [
        (_Inventive, "is_empty_at_first"),
        (_Dropping, "adds_up_in_any_order"),
        (_Unforgiving, "cancels_what_is_retracted"),
        (_Repetitive, "counts_a_key_once"),
        (_Negligent, "counts_a_key_once"),
        (_Overcautious, "counts_what_is_beyond_complete"),
        (_Secretive, "says_what_is_beyond_complete"),
        (_Amnesiac, "says_what_is_beyond_complete"),
        (_Gullible, "moves_complete_only_from_known_ground"),
        (_Racing, "counts_a_key_once_among_writers"),
        (_Dropping, "loses_nothing_of_eight_writers"),
        (_Shared, "keeps_routers_apart"),
        (_Piecemeal, "shows_all_of_an_append_or_nothing"),
        (_Piecemeal, "is_whole_at_any_moment"),
        (_Deaf, "wakes_a_waiter"),
        (_Nervous, "wakes_a_waiter"),
        (_Forgetful, "changes_agree_with_snapshots"),
        (_Trusting, "gives_a_late_reader_a_snapshot"),
        (_Lenient, "refuses_a_stale_append"),
        (_Lenient, "refuses_a_stale_replace"),
        (_Clinging, "begins_a_new_generation_for_all"),
        (_Generous, "hands_out_copies"),
        (_Timeless, "keeps_the_half_life"),
    ],
)
def test_broken_store_fails(store: Callable[[], PosteriorStore], name: str) -> None:
    _fails(store_checks(store), name)


@dataclass(frozen=True)
class _Features:
    """Features of a text that do what they are told."""

    answer: Callable[[str], Array] = field(default=lambda text: np.array([1.0, len(text) % 7]))
    spec: str = "hashed"
    version: str = "broken-1"
    dim: int = 2
    seal: bool = True

    def extract(self, prompt: Prompt) -> Array:
        x = self.answer(prompt.text)
        x.flags.writeable = not self.seal
        return x

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        return np.array([self.extract(prompt) for prompt in prompts][::-1]).reshape(len(prompts), 2)

    def ready(self, vector: object) -> Array:
        x = np.asarray(vector, dtype=float)
        if x.shape[-1:] != (2,):
            raise ValueError("wrong")
        return x


class _Counting:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, text: str) -> Array:
        self.asked += 1
        return np.array([1.0, self.asked])


@pytest.mark.parametrize(
    ("features", "name"),
    [
        (_Features(version=""), "has_a_version"),
        (_Features(version="x" * 65), "has_a_version"),
        (_Features(), "reads_its_spec"),
        (_Features(spec="fitted:other"), "reads_its_spec"),
        (_Features(), "takes_a_ready_vector"),
        (_Features(), "refuses_a_wrong_shape"),
        (_Features(), "refuses_what_is_not_finite"),
        (_Features(lambda text: np.array([1.0, 1e3 * len(text)])), "bounds_its_features"),
        (_Features(lambda text: np.array([1.0, np.nan])), "bounds_its_features"),
        (_Features(lambda text: np.array([0.0, 1.0])), "bounds_its_features"),
        (_Features(lambda text: np.ones(1 + (text != ""))), "bounds_its_features"),
        (_Features(seal=False), "bounds_its_features"),
        (_Features(_Counting()), "repeats_itself"),
        (_Features(), "reads_many_as_one_by_one"),
    ],
)
def test_broken_features_fail(features: _Features, name: str) -> None:
    _fails(features_checks(lambda: features), name)


def test_a_check_names_its_clause() -> None:
    names = [str(check) for check in store_checks(MemoryStore)]
    assert len(names) == len(set(names)) == 20
    assert all(name.isidentifier() for name in names)


def test_stores_may_be_shared_between_checks() -> None:
    store = MemoryStore()
    for check in store_checks(lambda: store):
        check()
    assert Evidence(1).n == 0
