"""Drift: a mean that moves is found, with when and how far; noise is not."""

from __future__ import annotations

import numpy as np
import pytest

from feedback.drift import find_change

PLACES = np.repeat(np.arange(24.0), 100)


def test_noise_is_no_drift() -> None:
    """One test in a million may fail by chance: 100 worlds of 64 means fail with probability 1e-4."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert find_change(PLACES, rng.normal(size=(2_400, 64))) is None


@pytest.mark.parametrize(("place", "effect"), [(3.0, 1.0), (12.0, 0.5), (20.0, -2.0)])
def test_a_move_is_found_where_it_was(place: float, effect: float) -> None:
    values = np.random.default_rng(1).normal(size=(2_400, 8)) * 7 + 1e3
    values[place <= PLACES, 5] += 7 * effect
    change = find_change(PLACES, values)
    assert change is not None
    assert change.column == 5
    assert abs(change.place - place) <= 1
    assert change.effect == pytest.approx(abs(effect), abs=0.15)


def test_constants() -> None:
    values = np.zeros((2_400, 2))
    assert find_change(PLACES, values) is None
    values[1_200:, 1] = 1.0
    change = find_change(PLACES, values)
    assert change is not None
    assert (change.column, change.place, change.effect) == (1, 12.0, 2.0)


def test_too_little_to_tell() -> None:
    for n in (0, 1, 199):
        assert find_change(PLACES[:n], np.arange(n, dtype=np.float64)[:, None]) is None
    assert find_change(PLACES, np.empty((2_400, 0))) is None
    assert find_change(np.zeros(500), np.arange(500.0)[:, None]) is None
