"""Surprises: silent where nothing changes, quick where something does."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.drift import FADING, WINDOW, Surprises, fading, surprise


def alarms(values: np.ndarray) -> list[int]:
    surprises = Surprises()
    return [i for i, z in enumerate(values) if surprises.add(float(z))]


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_nothing_is_found_where_nothing_changes(p: float) -> None:
    """Five lives of 1,000 coins, seeded; in a thousand such lives there are about ten alarms."""
    for seed in range(5):
        coins = np.random.default_rng(seed).random(1000) < p
        assert alarms((coins - p) / np.sqrt(p * (1 - p))) == []


@pytest.mark.parametrize("move", [-1.0, 1.0])
def test_a_change_is_found_and_when_it_was(move: float) -> None:
    for seed in range(10):
        values = np.random.default_rng(seed).standard_normal(600)
        values[400:] += move
        surprises = Surprises()
        found = [(i, since) for i, z in enumerate(values) if (since := surprises.add(float(z)))]
        at, since = found[0]
        # A mean of one standard deviation takes about 25 surprises to be five standard errors.
        assert 400 < at < 400 + 80, seed
        assert abs(at + 1 - since - 400) < 50, seed


def test_all_is_forgotten_after_a_change() -> None:
    assert alarms(np.full(45, -3.0)) == [14, 29, 44]


def test_no_single_surprise_is_a_change() -> None:
    assert alarms(np.array([*np.zeros(50), -1e9, *np.zeros(50)])) == []


def test_the_window_is_bounded() -> None:
    surprises = Surprises()
    for i in range(2 * WINDOW):
        assert surprises.add((-1.0) ** i) == 0
    assert len(surprises._values) == WINDOW


def test_a_surprise_is_in_standard_deviations() -> None:
    assert surprise(1.0, 0.4, 0.0, noise=0.09) == pytest.approx(2.0)
    assert surprise(1.0, 0.4, 0.0, noise=0.09, weight=0.25) == pytest.approx(1.0)
    assert fading(FADING) == 0.5
