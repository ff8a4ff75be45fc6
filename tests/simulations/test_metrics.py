"""Hulls, AIQ, regret and intervals, worked out by hand and held to their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.metrics import (
    aiq,
    cumulative_regret,
    hull,
    hull_value,
    mean_interval,
    paired_interval,
)

POINTS = st.lists(
    st.tuples(st.integers(0, 50).map(float), st.integers(0, 50).map(lambda q: q / 50)),
    min_size=1,
    max_size=12,
)


def test_hull_by_hand() -> None:
    cost, quality = [4, 1, 2, 3, 5, 1], [0.8, 0.5, 0.6, 0.9, 0.95, 0.4]
    # 2 lies under 1-3, 4 under 3-5, and the second model at cost 1 under the first.
    np.testing.assert_array_equal(hull(cost, quality), [[1, 0.5], [3, 0.9], [5, 0.95]])


def test_hull_of_one_and_of_a_cheap_best() -> None:
    np.testing.assert_array_equal(hull([2.0], [0.3]), [[2.0, 0.3]])
    np.testing.assert_array_equal(hull([2.0, 9.0], [0.8, 0.3]), [[2.0, 0.8]])
    for bad in ([], [math.nan]):
        with pytest.raises(ValueError, match="at least one point"):
            hull(bad, bad)


@given(POINTS)
def test_hull_is_above_all_concave_and_rises(points: list[tuple[float, float]]) -> None:
    cost, quality = np.array(points).T
    corners = hull(cost, quality)
    assert (hull_value(corners, cost) >= quality - 1e-12).all()
    steps = np.diff(corners, axis=0)
    assert (steps > 0).all()
    slopes = steps[:, 1] / steps[:, 0]
    assert (np.diff(slopes) < 1e-12).all()
    assert {tuple(corner) for corner in corners} <= set(points)


def test_hull_value() -> None:
    value = hull_value([[1, 0.5], [3, 0.9]], [0.99, 1, 1.5, 3, 99])
    np.testing.assert_allclose(value, [np.nan, 0.5, 0.6, 0.9, 0.9])


def test_aiq_by_hand() -> None:
    # Between 1 and 3 the mean height is .7; flat at .9 from 3 to 5.
    assert aiq([1, 3], [0.5, 0.9]) == pytest.approx(0.7)
    assert aiq([1, 3], [0.5, 0.9], c_max=5) == pytest.approx((1.4 + 1.8) / 4)
    assert aiq([1, 3], [0.5, 0.9], c_max=5, reading="code") == pytest.approx((1.4 + 1.8) / 5)
    assert aiq([1, 3], [0.5, 0.9], c_max=2) == pytest.approx(0.6)
    # A point that is dearer and worse widens the range, the hull stays flat.
    assert aiq([1, 3, 5], [0.5, 0.9, 0.1]) == pytest.approx((1.4 + 1.8) / 4)
    assert aiq([2], [0.8]) == 0.8
    assert aiq([2], [0.8], reading="code") == 0.0


def test_aiq_refuses() -> None:
    with pytest.raises(ValueError, match="at least the cheapest cost 1, got"):
        aiq([1], [0.5], c_max=0.5)
    with pytest.raises(ValueError, match="'paper' or 'code'"):
        aiq([1], [0.5], reading="book")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="expected a positive number, got 0"):
        aiq([0], [0.5], reading="code")


@given(POINTS)
def test_aiq_lies_between_the_qualities(points: list[tuple[float, float]]) -> None:
    cost, quality = np.array(points).T
    corners = hull(cost, quality)
    assert corners[0, 1] - 1e-9 <= aiq(cost, quality) <= quality.max() + 1e-9


def test_regret() -> None:
    np.testing.assert_allclose(cumulative_regret([1, 0, 1], [1, 1, 0]), [0, 1, 0])


def test_mean_interval_by_hand() -> None:
    # n = 4, mean 3, std 2 (ddof 1 of 1, 2, 4, 5 is sqrt(10/3)); t(.975, 3) = 3.182446.
    mean, low, high = mean_interval([1, 2, 4, 5])
    half = 3.182446305284263 * math.sqrt(10 / 3) / 2
    assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half))


def test_one_seed_has_no_interval() -> None:
    mean, low, high = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)
    with pytest.raises(ValueError, match="n >= 1"):
        mean_interval([])


def test_mean_interval_covers_as_it_says() -> None:
    rng = np.random.default_rng(0)
    bounds = [mean_interval(rng.normal(0.0, 1.0, 5)) for _ in range(2000)]
    covered = np.mean([low <= 0.0 <= high for _, low, high in bounds])
    # Binomial(2000, .95): standard deviation .0049; five of them are out by 6e-7.
    assert abs(covered - 0.95) < 0.025


def test_paired_interval_forgets_what_is_shared() -> None:
    luck = np.random.default_rng(0).normal(0.0, 10.0, 6)
    mean, low, high = paired_interval(luck + 0.1, luck)
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="expected pairs"):
        paired_interval([1, 2], [1])
