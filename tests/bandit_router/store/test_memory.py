"""MemoryStore beyond the contract, which `test_checks.py` runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_router.errors import SettingsError, StaleGenerationError
from bandit_router.evidence import Delta, Evidence, Observation
from bandit_router.store import Changes, MemoryStore, Snapshot, open_store
from bandit_router.store.memory import _REMEMBERED

DIM = 2


def delta(row: int, *, model: str = "small", x: list[float] | None = None) -> Delta:
    observation = Observation.of([1.0, row % 5] if x is None else x, 0.5)
    return Delta(key=2 * row + 1, model=model, observation=observation)


def opened(generation: int = 1, position: int = 0, complete: int = 0) -> MemoryStore:
    store = MemoryStore()
    store.replace(
        "r",
        Snapshot(
            generation=generation,
            position=position,
            complete=complete,
            half_life_s=None,
            evidence={"small": Evidence(DIM)},
        ),
    )
    return store


def count(store: MemoryStore) -> float:
    found = store.read("r", generation=1, after=None)
    assert isinstance(found, Snapshot)
    return sum(evidence.n for evidence in found.evidence.values())


def test_a_reader_may_be_so_far_behind_and_no_further() -> None:
    store = opened(position=7)
    store.append("r", [delta(row) for row in range(1, _REMEMBERED + 2)], generation=1, complete=0)
    found = store.read("r", generation=1, after=8)
    assert isinstance(found, Changes)
    assert len(found.deltas) == _REMEMBERED
    assert found.position == 7 + _REMEMBERED + 1
    for late in (7, 0, -1):
        assert isinstance(store.read("r", generation=1, after=late), Snapshot)


def test_a_new_generation_goes_on_from_its_snapshot() -> None:
    store = opened(position=100, complete=10)
    assert store.append("r", [delta(10), delta(11)], generation=1, complete=10) == 1
    found = store.read("r", generation=1, after=100)
    assert isinstance(found, Changes)
    assert (found.position, [d.key for d in found.deltas]) == (101, [23])


def test_keys_that_are_known_to_be_contained_are_let_go() -> None:
    store = opened()
    store.append("r", [delta(row) for row in range(1, 101)], generation=1, complete=0)
    store.append("r", [], generation=1, complete=90)
    assert len(store._books["r"].keys) == 10


def test_a_delta_that_does_not_fit_may_come_again_when_it_does() -> None:
    store = opened()
    with pytest.raises(ValueError, match="shape"):
        store.append("r", [delta(1, x=[1.0, 2.0, 3.0])], generation=1, complete=0)
    assert count(store) == 0
    assert store.append("r", [delta(1)], generation=1, complete=0) == 1


def test_errors_say_what_the_store_holds() -> None:
    with pytest.raises(StaleGenerationError, match="'r' holds nothing, not generation 1"):
        MemoryStore().append("r", [], generation=1, complete=0)
    with pytest.raises(StaleGenerationError, match="holds generation 2, not generation 1"):
        opened(2).append("r", [], generation=1, complete=0)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "again", "complete", "read", "snapshot"]), st.integers(1, 40)
        ),
        max_size=30,
    )
)
def test_a_follower_holds_what_the_store_holds(steps: list[tuple[str, int]]) -> None:
    """Whatever is appended, said twice, declared complete and read in whatever order."""
    store, follower, position, told = opened(), Evidence(DIM), 0, set[int]()
    for step, row in steps:
        if step == "append":
            told.add(row)
            store.append("r", [delta(row)], generation=1, complete=0)
        elif step == "again":
            store.append("r", [delta(r) for r in sorted(told)], generation=1, complete=0)
        elif step == "complete" and told:
            low = min(set(range(1, 42)) - told) - 1  # all rows up to here have been told
            store.append("r", [], generation=1, complete=low)
        elif step == "read":
            found = store.read("r", generation=1, after=position)
            assert isinstance(found, Changes)
            for change in found.deltas:
                follower.add(change.observation)
            position = found.position
            assert follower.n == len(told) == count(store)
        elif step == "snapshot":
            whole = store.read("r", generation=1, after=None)
            assert isinstance(whole, Snapshot)
            follower, position = whole.evidence["small"], whole.position
    assert count(store) == len(told)


def test_open_store() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    assert repr(open_store("memory://")) == "MemoryStore()"
    for url in ("", "disk://x", "memory"):
        with pytest.raises(SettingsError, match="store: expected memory://"):
            open_store("file" if url == "memory" else url)
    with pytest.raises(SettingsError) as caught:
        open_store("redis:hunter2@localhost")
    assert "hunter2" not in str(caught.value)
    assert np.isfinite(count(opened()))
