"""Sums of evidence: they commute, cancel, fade, travel without loss, and let in only what is finite."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_router.errors import FormatError
from bandit_router.evidence import Evidence, Observation, evidence_from_bytes, evidence_to_bytes
from bandit_router.values import Array

DIM = 3
YEAR = 365.25 * 86_400.0
HALF_LIVES = st.sampled_from([None, 1.0, 60.0, 86_400.0, 30 * 86_400.0, 10 * YEAR])
NOT_FINITE = [math.nan, math.inf, -math.inf]


@st.composite
def observations(draw: st.DrawFn, half_life: float | None = None) -> Observation:
    """An observation within 200 half-lives after 2026, so that landmarks move several times."""
    x = draw(st.lists(st.floats(-3, 3), min_size=DIM - 1, max_size=DIM - 1))
    span = 200 * (YEAR if half_life is None else half_life)
    return Observation.of(
        [1.0, *x],
        draw(st.floats(0, 1)),
        weight=draw(st.floats(0.01, 1)),
        at=1.77e9 + draw(st.floats(0, 1)) * span,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[float | None, list[Observation]]:
    half_life = draw(HALF_LIVES)
    return half_life, draw(st.lists(observations(half_life), min_size=1, max_size=12))


def summed(many: Sequence[Observation], half_life: float | None = None) -> Evidence:
    evidence = Evidence(DIM, half_life=half_life)
    for observation in many:
        evidence.add(observation)
    return evidence


def as_of(evidence: Evidence, at: float) -> Array:
    sums = np.concatenate([evidence.A.ravel(), evidence.b, [evidence.c, evidence.n]])
    return sums * evidence.fading(at)


def assert_same(left: Evidence, right: Evidence, *, peak: Evidence | None = None) -> None:
    """The same sums, to 1e-9 of the largest entry; where there was cancelling, of all that came."""
    peak = right if peak is None else peak
    at = max(left.landmark, right.landmark, peak.landmark)
    largest = max(float(np.abs(as_of(peak, at)).max()), 1e-12)
    np.testing.assert_allclose(as_of(left, at), as_of(right, at), rtol=0, atol=1e-9 * largest)


def test_sums_by_hand() -> None:
    evidence = Evidence(2)
    evidence.add(Observation.of([1.0, 2.0], 0.5, weight=0.5))
    evidence.add(Observation.of([1.0, -1.0], 1.0))
    np.testing.assert_array_equal(evidence.A, [[1.5, 0.0], [0.0, 3.0]])
    np.testing.assert_array_equal(evidence.b, [1.25, -0.5])
    assert (evidence.c, evidence.n, evidence.dim) == (1.125, 1.5, 2)
    assert repr(evidence) == "<Evidence dim=2 n=1.5 half_life=None>"


def test_fading_by_hand() -> None:
    evidence = Evidence(1, half_life=10.0)
    evidence.add(Observation.of([1.0], 1.0, at=100.0))
    evidence.add(Observation.of([1.0], 1.0, at=120.0))
    # As of 120 s, the first is two half-lives old.
    assert evidence.n * evidence.fading(120.0) == pytest.approx(1.25, abs=1e-12)
    assert evidence.n * evidence.fading(130.0) == pytest.approx(0.625, abs=1e-12)


@given(histories(), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_sums(
    history: tuple[float | None, list[Observation]], random: object
) -> None:
    half_life, many = history
    shuffled = list(many)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it as random.Random
    assert_same(summed(shuffled, half_life), summed(many, half_life))


@given(histories(), st.lists(st.integers(0, 3), min_size=12, max_size=12), st.permutations(range(4)))
def test_any_split_over_merges_gives_the_same_sums(
    history: tuple[float | None, list[Observation]], places: list[int], order: list[int]
) -> None:
    half_life, many = history
    merged = Evidence(DIM, half_life=half_life)
    for part in order:
        merged.merge(summed([o for o, p in zip(many, places, strict=False) if p == part], half_life))
    assert_same(merged, summed(many, half_life))


@given(histories())
def test_many_at_once_equal_one_by_one(history: tuple[float | None, list[Observation]]) -> None:
    half_life, many = history
    once = Evidence(DIM, half_life=half_life)
    once.add_many(
        np.array([o.x for o in many]),
        np.array([o.weight for o in many]),
        np.array([o.weighted_reward / o.weight for o in many]),
        np.array([o.at for o in many]),
    )
    assert_same(once, summed(many, half_life))


@given(histories(), st.data())
def test_an_observation_and_its_retraction_cancel(
    history: tuple[float | None, list[Observation]], data: st.DataObject
) -> None:
    half_life, kept = history
    gone = data.draw(st.lists(observations(half_life), min_size=1, max_size=6))
    steps = data.draw(st.permutations([*kept, *gone, *(-o for o in gone)]))
    peak = summed([*kept, *gone], half_life)
    assert_same(summed(steps, half_life), summed(kept, half_life), peak=peak)


@given(histories(), st.data())
def test_a_revision_is_the_old_subtracted_and_the_new_added(
    history: tuple[float | None, list[Observation]], data: st.DataObject
) -> None:
    half_life, kept = history
    old = data.draw(observations(half_life))
    new = Observation.of(old.x, data.draw(st.floats(0, 1)), weight=0.5, at=old.at)
    revised = summed([*kept, old, new - old], half_life)
    assert_same(revised, summed([*kept, new], half_life), peak=summed([*kept, old], half_life))


def test_a_revision_that_comes_before_what_it_revises_fades_too() -> None:
    """Its weight is nothing, its reward is not."""
    old, new = (Observation.of([1.0, 0.0, 0.0], reward, at=100.0) for reward in (0.0, 1.0))
    evidence = summed([new - old], 10.0)
    assert evidence.n == 0
    assert (evidence.b * evidence.fading(130.0)).tolist() == pytest.approx([1 / 8, 0, 0])
    evidence.add(old)
    assert_same(evidence, summed([new], 10.0))


@given(histories(), st.data())
def test_subtracting_a_merge_undoes_it(
    history: tuple[float | None, list[Observation]], data: st.DataObject
) -> None:
    half_life, kept = history
    other = summed(data.draw(st.lists(observations(half_life), max_size=6)), half_life)
    evidence = summed(kept, half_life)
    evidence.merge(other)
    peak = evidence.copy()
    evidence.merge(other, sign=-1.0)
    assert_same(evidence, summed(kept, half_life), peak=peak)


@given(histories())
def test_a_copy_is_its_own(history: tuple[float | None, list[Observation]]) -> None:
    half_life, many = history
    evidence = summed(many, half_life)
    before, twin = evidence.to_bytes(), evidence.copy()
    assert_same(twin, evidence)
    twin.add(many[0])
    assert evidence.to_bytes() == before


@pytest.mark.parametrize("half_life", [1.0, 60.0, YEAR])
def test_what_is_a_thousand_half_lives_old_weighs_nothing(half_life: float) -> None:
    late, early = 1.77e9, 1.77e9 - 5_000 * half_life
    fresh = Observation.of([1.0, 0.0, 0.0], 1.0, at=late)
    old = Observation.of([1.0, 2.0, 2.0], 1.0, at=early)
    for many in ([old, fresh], [fresh, old]):
        assert_same(summed(many, half_life), summed([fresh], half_life))
    assert summed([fresh], half_life).fading(early) <= 2.0**1000  # and no overflow


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("place", ["x", "reward", "weight", "at"])
def test_what_is_not_finite_is_no_observation(place: str, bad: float) -> None:
    given = {"x": [1.0, 2.0], "reward": 0.5, "weight": 1.0, "at": 0.0}
    given[place] = [1.0, bad] if place == "x" else bad
    x, reward = given.pop("x"), given.pop("reward")
    with pytest.raises(ValueError, match=rf"{place}: .*finite"):
        Observation.of(x, reward, **given)  # type: ignore[arg-type]  # a dict of mixed values


@pytest.mark.parametrize(
    ("x", "reward", "weight", "at", "message"),
    [
        ([], 0.5, 1.0, 0.0, "at least one"),
        ([[1.0]], 0.5, 1.0, 0.0, "shape"),
        ([1.0, 1.1e6], 0.5, 1.0, 0.0, "1e.06"),
        ([1.0], 1.1e6, 1.0, 0.0, "1e6"),
        ([1.0], 0.5, -0.1, 0.0, "weight from 0"),
        ([1.0], 0.5, 1.1e6, 0.0, "1e6"),
        ([1.0], 0.5, 1.0, 1e13, "since 1970"),
        ("text", 0.5, 1.0, 0.0, "vector"),
    ],
)
def test_what_would_drown_the_sums_is_no_observation(
    x: object, reward: float, weight: float, at: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Observation.of(x, reward, weight=weight, at=at)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("place", ["x", "at", "weight", "weighted_reward", "weighted_square"])
def test_what_is_not_finite_never_reaches_the_sums(place: str, bad: float) -> None:
    """Also where an observation was made past its door."""
    evidence = summed([Observation.of([1.0, 0.5, 0.5], 1.0)], 60.0)
    before = evidence.to_bytes()
    good = Observation.of([1.0, 1.0, 1.0], 0.5)
    change = {place: np.array([1.0, bad, 0.0]) if place == "x" else bad}
    with pytest.raises(ValueError, match="finite"):
        evidence.add(replace(good, **change))  # type: ignore[arg-type]  # a dict of mixed values
    assert evidence.to_bytes() == before


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("place", range(4))
def test_what_is_not_finite_never_reaches_the_sums_in_bulk(place: int, bad: float) -> None:
    evidence = Evidence(2, half_life=60.0)
    before = evidence.to_bytes()
    columns = [np.ones((2, 2)), np.ones(2), np.ones(2), np.ones(2)]
    columns[place].flat[-1] = bad
    with pytest.raises(ValueError, match="finite"):
        evidence.add_many(*columns)
    assert evidence.to_bytes() == before


def test_other_lengths_are_refused() -> None:
    evidence = Evidence(2)
    before = evidence.to_bytes()
    with pytest.raises(ValueError, match=r"expected shape \(2,\), got \(3,\)"):
        evidence.add(Observation.of([1.0, 2.0, 3.0], 0.5))
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        evidence.add_many(np.ones((4, 3)), np.ones(4), np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match="4 weights"):
        evidence.add_many(np.ones((4, 2)), np.ones(1), np.ones(4), np.ones(4))
    for other in (Evidence(3), Evidence(2, half_life=60.0)):
        with pytest.raises(ValueError, match="evidence like"):
            evidence.merge(other)
    evidence.add_many(np.ones((0, 2)), np.ones(0), np.ones(0), np.ones(0))
    assert evidence.to_bytes() == before


@pytest.mark.parametrize("half_life", [0.0, -1.0, *NOT_FINITE])
def test_a_half_life_is_a_positive_number(half_life: float) -> None:
    with pytest.raises(ValueError, match="half_life"):
        Evidence(2, half_life=half_life)


@given(histories())
def test_bytes_give_the_same_sums_to_the_bit(history: tuple[float | None, list[Observation]]) -> None:
    half_life, many = history
    evidence = summed(many, half_life)
    again = Evidence.from_bytes(evidence.to_bytes())
    assert again.to_bytes() == evidence.to_bytes()
    assert (again.epoch, again.half_life, again.c, again.n) == (
        *(evidence.epoch, evidence.half_life),
        *(evidence.c, evidence.n),
    )
    np.testing.assert_array_equal(again.A, evidence.A)
    np.testing.assert_array_equal(again.b, evidence.b)
    for one in (again, evidence):
        one.add(many[0])
    assert again.to_bytes() == evidence.to_bytes()


@given(st.dictionaries(st.text(max_size=20), histories(), max_size=3))
def test_bytes_of_many_models_give_all_back(
    models: dict[str, tuple[float | None, list[Observation]]],
) -> None:
    evidence = {name: summed(many, half_life) for name, (half_life, many) in models.items()}
    data = evidence_to_bytes(evidence)
    again = evidence_from_bytes(data)
    assert list(again) == list(evidence)
    assert evidence_to_bytes(again) == data


ONE = summed([Observation.of([1.0, 0.5, -0.5], 0.7, at=1.77e9)], 60.0).to_bytes()
MANY = evidence_to_bytes({"small": Evidence.from_bytes(ONE), "große": Evidence.from_bytes(ONE)})


def read(data: bytes) -> None:
    """Read bytes that may be anything: either they are evidence, or they are a FormatError."""
    for reader in (Evidence.from_bytes, evidence_from_bytes):
        with contextlib.suppress(FormatError):
            reader(data)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_a_format_error_and_nothing_else(data: bytes) -> None:
    read(data)
    read(b"BREV\x01\x00" + data)
    read(b"BRES\x01\x00" + data)


@settings(max_examples=200)
@given(st.sampled_from([ONE, MANY]), st.data())
def test_damaged_bytes_are_a_format_error_and_nothing_else(valid: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(valid)))
    removed = data.draw(st.integers(0, 12))
    read(valid[:at] + data.draw(st.binary(max_size=12)) + valid[at + removed :])


@pytest.mark.parametrize("valid", [ONE, MANY])
def test_truncated_and_longer_bytes_are_refused(valid: bytes) -> None:
    reader = Evidence.from_bytes if valid is ONE else evidence_from_bytes
    for length in range(len(valid)):
        with pytest.raises(FormatError):
            reader(valid[:length])
    with pytest.raises(FormatError):
        reader(valid + b"\0")
    with pytest.raises(FormatError, match="version"):
        reader(valid[:4] + struct.pack("<H", 2) + valid[6:])


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_bytes_of_sums_that_are_not_finite_are_refused(bad: float) -> None:
    for at in range(len(ONE) - 8, len(ONE) - 8 * 11, -8):  # c, n, b and the triangle
        with pytest.raises(FormatError):
            Evidence.from_bytes(ONE[:at] + struct.pack("<d", bad) + ONE[at + 8 :])


def test_a_huge_dimension_allocates_nothing() -> None:
    for dim in (2**16, 2**32 - 1):
        with pytest.raises(FormatError, match="do not hold"):
            Evidence.from_bytes(ONE[:6] + struct.pack("<I", dim) + ONE[10:])


def test_scaled_sums_count_less() -> None:
    evidence = Evidence(2)
    evidence.add(Observation.of([1.0, 2.0], 0.5))
    evidence.scale(0.25)
    assert (evidence.n, evidence.c) == (0.25, 0.0625)
    assert evidence.b.tolist() == [0.125, 0.25]
    assert evidence.A.tolist() == [[0.25, 0.5], [0.5, 1.0]]
    with pytest.raises(ValueError, match="from 0 to 1"):
        evidence.scale(-1.0)
