"""What a dollar and a second are worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bandit_router.preference import Preference, within_cap

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
    given = [a.copy() for a in (MEAN, COST, LATENCY)]
    Preference(price_weight=1.0, latency_weight=1.0).utility(*given, cost_unit_usd=1.0)
    np.testing.assert_array_equal(given, [MEAN, COST, LATENCY])


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
    assert repr(Preference(price_weight=1)) == "Preference(price_weight=1.0, latency_weight=0.0)"
