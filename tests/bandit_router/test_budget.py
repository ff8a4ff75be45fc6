"""The price of a dollar, against the linear programme that it solves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from bandit_router.budget import FREE, LEAST, MOST, DollarPrice, allowance, dollar_price
from bandit_router.values import Array


def played(price: DollarPrice, utility: Array, cost: Array) -> tuple[float, float]:
    """Mean utility and cost of the best of every row, at the two prices mixed."""
    sums = np.zeros(2)
    for charged, share in ((price.low, price.share), (price.high, 1 - price.share)):
        best = np.argmax(utility - charged * cost, axis=1)
        rows = np.arange(len(utility))
        sums += share * np.array([utility[rows, best].mean(), cost[rows, best].mean()])
    return float(sums[0]), float(sums[1])


def best_within(utility: Array, cost: Array, budget: float) -> float:
    """Most mean utility within the mean cost: one distribution over models for each row."""
    n, models = utility.shape
    answer = linprog(
        -utility.ravel() / n,
        A_ub=cost.reshape(1, -1) / n,
        b_ub=[budget],
        A_eq=np.kron(np.eye(n), np.ones(models)),
        b_eq=np.ones(n),
    )
    assert answer.success
    return -float(answer.fun)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 4), st.floats(0.02, 0.98))
@settings(max_examples=60)
def test_it_solves_the_linear_programme(seed: int, n: int, models: int, place: float) -> None:
    """The same mean utility, at exactly the budget, anywhere between the cheapest and the free choice."""
    generator = np.random.default_rng(seed)
    utility = generator.uniform(0, 1, (n, models))
    cost = generator.uniform(0.001, 1, (n, models)) * np.geomspace(1, 30, models)
    least, most = cost.min(axis=1).mean(), cost[np.arange(n), utility.argmax(axis=1)].mean()
    budget = least + place * (most - least)
    price = dollar_price(utility, cost, budget)
    got, spent = played(price, utility, cost)
    assert spent <= budget * (1 + 1e-9)
    assert got == pytest.approx(best_within(utility, cost, budget), abs=1e-6)
    if price is not FREE:
        assert spent == pytest.approx(budget, rel=1e-9)


def test_by_hand() -> None:
    utility, cost = np.array([[0.5, 0.9], [0.5, 0.6]]), np.array([[1.0, 3.0], [1.0, 3.0]])
    # The dearer model is worth .2 a dollar to the first row and .05 to the second.
    half = dollar_price(utility, cost, 2.0)
    assert 0.05 - 1e-9 <= half.high <= 0.2 + 1e-9
    assert played(half, utility, cost) == pytest.approx((0.7, 2.0))
    quarter = dollar_price(utility, cost, 1.5)
    assert (quarter.low, quarter.high, quarter.share) == pytest.approx((0.2, 0.2, 0.5))


def test_what_is_within_the_budget_is_free() -> None:
    assert dollar_price(np.array([[0.5, 0.9]]), np.array([[1.0, 3.0]]), 3.0) == FREE
    assert played(FREE, np.array([[0.5, 0.9]]), np.array([[1.0, 3.0]])) == (0.9, 3.0)


def test_where_even_the_cheapest_costs_more_it_is_taken() -> None:
    utility, cost = np.array([[0.1, 0.9], [0.2, 0.3]]), np.array([[1.0, 1.1], [2.0, 5.0]])
    price = dollar_price(utility, cost, 0.01)
    assert price.low == price.high
    assert played(price, utility, cost) == pytest.approx((0.15, 1.5))


def test_excluded_models_are_never_taken() -> None:
    utility = np.array([[-math.inf, 0.9], [0.5, -math.inf], [0.5, 0.9]])
    cost = np.array([[0.0, 3.0], [1.0, 3.0], [1.0, 3.0]])
    price = dollar_price(utility, cost, 2.0)
    got, spent = played(price, utility, cost)
    assert math.isfinite(got)
    assert spent == pytest.approx(2.0)


def test_equal_models_are_mixed_without_a_price_between_them() -> None:
    price = dollar_price(np.array([[0.5, 0.5 + 1e-12]]), np.array([[1.0, 2.0]]), 1.5)
    assert played(price, np.array([[0.5, 0.5 + 1e-12]]), np.array([[1.0, 2.0]]))[1] == pytest.approx(1.5)


def test_allowance_makes_good_what_was_over_or_underspent() -> None:
    assert allowance(1.0, 0.0, 0, horizon=100) == 1.0
    assert allowance(1.0, 1_000.0, 1_000, horizon=100) == 1.0
    assert allowance(1.0, 1_010.0, 1_000, horizon=100) == pytest.approx(0.9)
    assert allowance(1.0, 970.0, 1_000, horizon=100) == pytest.approx(1.3)
    assert allowance(1.0, 0.0, 10**6, horizon=100) == MOST
    assert allowance(1.0, 10.0**6, 1_000, horizon=100) == pytest.approx(LEAST)
