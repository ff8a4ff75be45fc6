"""What a dollar and a second are worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.preference import OPTIMISM, Preference, within_cap, within_drop

MEAN, COST, LATENCY = np.array([0.7, 0.9]), np.array([0.001, 0.010]), np.array([1.0, 3.0])


def test_utility_by_hand() -> None:
    preference = Preference(price_weight=0.3, latency_weight=0.05)
    utility = preference.utility(MEAN, COST, LATENCY, cost_unit_usd=0.01)
    np.testing.assert_allclose(utility, [0.7 - 0.03 - 0.05, 0.9 - 0.3 - 0.15])


def test_without_weights_it_is_the_mean() -> None:
    np.testing.assert_array_equal(Preference().utility(MEAN, COST, LATENCY, cost_unit_usd=0.01), MEAN)


@pytest.mark.parametrize("unit", [None, 0.0])
def test_without_a_unit_cost_does_not_count(unit: float | None) -> None:
    utility = Preference(price_weight=5.0, latency_weight=0.1).utility(
        MEAN, COST, LATENCY, cost_unit_usd=unit
    )
    np.testing.assert_allclose(utility, [0.6, 0.6])


def test_inputs_stay() -> None:
    inputs = [a.copy() for a in (MEAN, COST, LATENCY)]
    Preference(price_weight=1.0, latency_weight=1.0).utility(*inputs, cost_unit_usd=1.0)
    np.testing.assert_array_equal(inputs, [MEAN, COST, LATENCY])


def test_a_cap_leaves_what_costs_no_more() -> None:
    assert within_cap(COST, None).tolist() == [True, True]
    assert within_cap(COST, 0.001).tolist() == [True, False]
    assert within_cap(np.array([math.nan, 0.0]), 0.0).tolist() == [False, True]


@pytest.mark.parametrize("name", ["price_weight", "latency_weight"])
@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (-0.1, ValueError),
        (math.nan, ValueError),
        (1e13, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_weights_are_checked(name: str, bad: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        Preference(**{name: bad})  # type: ignore[arg-type]  # that is what is tested


def test_weights_become_floats() -> None:
    said = "Preference(price_weight=1.0, latency_weight=0.0, max_quality_drop=1.0)"
    assert repr(Preference(price_weight=1, max_quality_drop=1)) == said


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        *((-0.01, ValueError), (1.01, ValueError), (math.nan, ValueError), (math.inf, ValueError)),
        *((True, TypeError), ("0.1", TypeError), ([0.1], TypeError)),
    ],
)
def test_a_quality_drop_is_checked(bad: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="max_quality_drop: expected"):
        Preference(max_quality_drop=bad)  # type: ignore[arg-type]  # that is what is tested


def test_a_quality_floor_by_hand() -> None:
    mean, sure = np.array([0.70, 0.79, 0.80]), np.zeros(3)
    assert within_drop(mean, sure, None).all()
    assert within_drop(mean, sure, 0.0).tolist() == [False, False, True]
    assert within_drop(mean, sure, 0.02).tolist() == [False, True, True]
    assert within_drop(mean, sure, 1.0).all()
    hoped = mean + np.array([0.09, 0.0, 0.0])
    wide = np.array([0.09, 0.0, 0.0]) / OPTIMISM
    np.testing.assert_array_equal(within_drop(mean, wide, 0.011), hoped >= 0.789)


def test_an_unknown_model_is_not_left_out_and_leaves_others_out_only_until_it_is_known() -> None:
    """The width of a model that was tried n times is about 0.3 / sqrt(n)."""
    for mean in (0.4, 0.7):
        means = np.array([0.70, 0.71, mean])
        left = [
            within_drop(means, np.array([0.01, 0.01, 0.3 / math.sqrt(n)]), 0.02) for n in range(1, 400)
        ]
        assert left[0].tolist()[2]
        assert sum(not some[:2].any() for some in left) <= 60
        assert left[-1].tolist() == [True, True, mean == 0.7]


@given(
    st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 1)), min_size=1, max_size=6),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_laws_of_a_quality_floor(models: list[tuple[float, float]], drop: float, more: float) -> None:
    """One model stays, more drop leaves no fewer, and the order of models does not matter."""
    mean, std = np.array(models).T
    left = within_drop(mean, std, drop)
    assert left[(mean + OPTIMISM * std).argmax()]
    assert not (left & ~within_drop(mean, std, drop + more)).any()
    np.testing.assert_array_equal(within_drop(mean[::-1], std[::-1], drop), left[::-1])
