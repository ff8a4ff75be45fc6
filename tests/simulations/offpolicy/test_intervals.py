"""Intervals hold the truth as often as they claim."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from bandit_router.values import Array
from simulations.offpolicy import intervals

LOGS, N = 400, 300
# Fewer than this many of 400 cover at 95 % once in ten thousand.
FEWEST = int(stats.binom.ppf(1e-4, LOGS, 0.95))
P, PI = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
TRUTH = np.array([0.2, 0.5, 0.8])


def draw(rng: np.random.Generator, n: int = N) -> tuple[Array, Array]:
    arm = rng.choice(3, size=n, p=P)
    return (PI / P)[arm], (rng.random(n) < TRUTH[arm]).astype(np.float64)


@pytest.mark.parametrize(
    "interval",
    [
        lambda w, r: intervals.student(w * r),
        lambda w, r: intervals.clustered(w * r, np.arange(len(w))),
        lambda w, r: intervals.bernstein(w * r, 3.0),
        intervals.sequence,
    ],
    ids=["student", "clustered", "bernstein", "sequence"],
)
def test_coverage(interval: Callable[[Array, Array], intervals.Interval]) -> None:
    rng, value = np.random.default_rng(1), float(PI @ TRUTH)
    told = [interval(*draw(rng)) for _ in range(LOGS)]
    assert sum(low <= value <= high for low, high in told) >= FEWEST
    assert np.mean([high - low for low, high in told]) < 0.6


def test_coverage_of_the_bootstrap() -> None:
    rng, value = np.random.default_rng(2), float(PI @ TRUTH)
    told = [intervals.bootstrap(np.multiply(*draw(rng, 150)), seed=i) for i in range(100)]
    assert sum(low <= value <= high for low, high in told) >= stats.binom.ppf(1e-4, 100, 0.94)


def test_a_sequence_holds_at_every_row_at_once_though_the_world_changes() -> None:
    rng, missed = np.random.default_rng(3), 0
    drift = np.linspace(-0.2, 0.2, 400)
    value = (PI @ TRUTH + drift).cumsum() / np.arange(1, 401)
    looks = range(20, 401, 20)
    for _ in range(60):
        arm = rng.choice(3, size=400, p=P)
        ratio, reward = (PI / P)[arm], (rng.random(400) < TRUTH[arm] + drift).astype(np.float64)
        ends = [intervals.sequence(ratio[:n], reward[:n]) for n in looks]
        missed += any(
            not low <= value[n - 1] <= high for n, (low, high) in zip(looks, ends, strict=True)
        )
    assert missed <= stats.binom.ppf(1 - 1e-4, 60, 0.05)


def test_bernstein_by_hand() -> None:
    low, high = intervals.bernstein(np.array([0.0, 1.0]), 1.0)
    # V = 1/2, log(80) = 4.382: sqrt(4.382 / 2) + 7 * 4.382 / 3.
    assert (high - low) / 2 == pytest.approx(np.sqrt(np.log(80) / 2) + 7 * np.log(80) / 3)
