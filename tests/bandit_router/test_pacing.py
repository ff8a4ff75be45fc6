"""The mean cost is kept at the budget, request by request, and never paid from an empty purse."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.pacing import ADVANCE, COVERED, EVERY, EXPLORING, WINDOW, Pacer
from bandit_router.policies import EpsilonGreedy, Greedy, LinUCB, Policy, ThompsonSampling, Uniform, draw
from bandit_router.values import Array

PRICES = np.array([0.2, 1.0, 5.0])
WORTH = np.array([0.5, 0.65, 0.75])


def lived(
    pacer: Pacer, policy: Policy, n: int, *, seed: int = 0, prices: Array = PRICES, paid: float = 1.0
) -> tuple[Array, Array]:
    """Utility and cost of n requests; what is paid may be other than what was predicted."""
    generator = np.random.default_rng(seed)
    got = np.empty((2, n))
    for i in range(n):
        utility = WORTH + 0.15 * generator.standard_normal(3)
        cost = prices * generator.lognormal(0, 0.3)
        p = pacer.probabilities(policy, utility, np.full(3, 0.05), cost)
        assert p.sum() == pytest.approx(1.0, abs=1e-9)
        k = draw(p, generator.random())
        pacer.spend(cost[k])
        pacer.settle(cost[k], paid * cost[k])
        got[:, i] = utility[k], paid * cost[k]
    return got[0], got[1]


@pytest.mark.parametrize(
    ("policy", "budget"),
    [
        *((Greedy(), budget) for budget in (0.4, 1.0, 2.0)),
        (ThompsonSampling(), 1.0),
        (EpsilonGreedy(epsilon=0.05), 1.0),
    ],
)
def test_the_budget_is_kept(policy: Policy, budget: float) -> None:
    """Within 3 %: what is owed is made good over 200 of 2,000 requests."""
    _, cost = lived(Pacer(budget, 3), policy, 2_000)
    assert cost.mean() == pytest.approx(budget, rel=0.03)


def test_a_budget_beyond_need_is_not_spent() -> None:
    free, paced = Pacer(1e6, 3), Pacer(100.0, 3)
    utility, cost = lived(free, Greedy(), 500)
    same_utility, same_cost = lived(paced, Greedy(), 500)
    np.testing.assert_array_equal(utility, same_utility)
    np.testing.assert_array_equal(cost, same_cost)


def test_more_budget_buys_more_utility() -> None:
    worth = [lived(Pacer(budget, 3), Greedy(), 1_000)[0].mean() for budget in (0.3, 0.8, 1.6, 3.2)]
    assert worth == sorted(worth)
    assert worth[-1] - worth[0] > 0.05


def test_bills_that_are_higher_than_predicted_are_made_good() -> None:
    """Every call costs a third more than thought; the long-run mean is the budget all the same."""
    pacer = Pacer(1.0, 3)
    _, cost = lived(pacer, Greedy(), 3_000, paid=1.33)
    assert pacer.overrun == pytest.approx(1.33, rel=0.05)
    assert cost.mean() == pytest.approx(1.0, rel=0.05)
    assert cost[-1_500:].mean() == pytest.approx(1.0, rel=0.05)


def test_a_price_rise_is_followed_within_a_window() -> None:
    pacer = Pacer(1.0, 3)
    lived(pacer, Greedy(), 500)
    _, after = lived(pacer, Greedy(), 2_000, seed=1, prices=3 * PRICES)
    assert after.mean() == pytest.approx(1.0, rel=0.05)


def test_where_even_the_cheapest_costs_more_it_serves() -> None:
    pacer = Pacer(0.01, 3)
    p = np.array([])
    for _ in range(2 * ADVANCE):
        p = pacer.probabilities(Uniform(), WORTH, np.zeros(3), PRICES)
        pacer.spend(0.2)
    assert p.tolist() == [1.0, 0.0, 0.0]


def test_an_empty_purse_pays_only_the_cheapest() -> None:
    pacer = Pacer(1.0, 3)
    assert pacer.purse_usd == ADVANCE
    pacer.spend(ADVANCE - 3.0)
    assert pacer.purse_usd == 4.0
    p = pacer.mixed(Uniform(), WORTH, np.zeros(3), PRICES)
    np.testing.assert_allclose(p, [0.5, 0.5, 0.0])
    assert pacer.affordable(np.full(3, 0.01), PRICES).tolist()[2] == 0.0
    pacer.spend(10.0)
    favourite = pacer.mixed(Greedy(), np.array([0.0, 0.5, 0.9]), np.zeros(3), PRICES)
    assert favourite.tolist() == [0.0, 1.0, 0.0]  # about what the budget is


def test_an_empty_purse_and_a_small_budget_pay_the_cheapest() -> None:
    pacer = Pacer(0.9 * PRICES[1] / COVERED, 3)
    pacer.spend(100.0)
    assert pacer.mixed(Uniform(), WORTH, np.zeros(3), PRICES).tolist() == [1.0, 0.0, 0.0]
    p = pacer.mixed(Greedy(), np.array([0.0, 0.5, 0.9]), np.zeros(3), PRICES)
    assert p.tolist() == [1.0, 0.0, 0.0]


def test_floors_cost_a_small_part_of_the_budget_at_most() -> None:
    for budget in (0.01, 0.3, 1.0, 50.0):
        pacer = Pacer(budget, 3)
        floor = np.full(3, 0.2)
        kept = pacer.affordable(floor, PRICES)
        assert (kept <= floor).all()
        assert (kept > 0)[pacer.purse_usd >= PRICES].all()
        assert kept @ PRICES <= EXPLORING * budget * (1 + 1e-12)
    np.testing.assert_array_equal(Pacer(1e3, 3).affordable(floor, PRICES), floor)
    assert Pacer(1.0, 2).affordable(np.full(2, 0.1), np.zeros(2)).tolist() == [0.1, 0.1]


def test_what_is_not_eligible_is_not_bought() -> None:
    pacer = Pacer(1.0, 3)
    for _ in range(WINDOW + EVERY):
        pacer.record(Greedy(), np.array([0.5, -np.inf, 0.9]), np.zeros(3), PRICES)
    # A price at which the two that are eligible, mixed, cost 1: (1 - .2) / (5 - .2) of the dear one.
    eligible = [0, 2]
    p = pacer.mixed(Greedy(), np.array([0.5, 0.9]), np.zeros(2), PRICES[eligible])
    assert p @ PRICES[eligible] == pytest.approx(1.0, rel=1e-6)


def test_the_window_forgets() -> None:
    pacer = Pacer(1.0, 3)
    for _ in range(WINDOW):
        pacer.record(Greedy(), WORTH, np.zeros(3), 100 * PRICES)
    dear = pacer.price
    for _ in range(WINDOW + EVERY):
        pacer.record(Greedy(), WORTH, np.zeros(3), PRICES)
    fresh = Pacer(1.0, 3)
    fresh.record(Greedy(), WORTH, np.zeros(3), PRICES)
    assert pacer.price != dear
    assert pacer.price.low == pytest.approx(fresh.price.low, rel=1e-6)


def test_prices_that_change_are_followed_at_once() -> None:
    """The window is taken at the new prices: the same as if they had always been so."""
    changed, always = Pacer(1.0, 3), Pacer(1.0, 3)
    rng, now = np.random.default_rng(0), PRICES * [1.0, 1.0, 0.4]
    for _ in range(WINDOW + 7):
        utility, cost = WORTH + 0.15 * rng.standard_normal(3), rng.lognormal(0, 0.3)
        changed.record(Greedy(), utility, np.zeros(3), cost * PRICES)
        always.record(Greedy(), utility, np.zeros(3), cost * now)
    assert changed.price.mean != pytest.approx(always.price.mean, rel=0.1)
    changed.reprice(PRICES, now)
    always.reprice(now, now)
    assert changed.price.mean == pytest.approx(always.price.mean, rel=1e-6)


def test_what_was_free_costs_what_it_does_now() -> None:
    pacer, was = Pacer(1.0, 2), np.array([0.5, 0.0])
    pacer.reprice(was, was)  # nothing is in the window yet
    for _ in range(3 * EVERY):
        pacer.record(Greedy(), np.array([0.5, 0.9]), np.zeros(2), was)
    assert pacer.price.mean == 0.0
    now = np.array([0.5, 3.0])
    pacer.reprice(was, now)
    p = pacer.mixed(Greedy(), np.array([0.5, 0.9]), np.zeros(2), now)
    assert p @ now == pytest.approx(pacer.aim, rel=1e-6)


def test_repr() -> None:
    pacer = Pacer(1.0, 3)
    pacer.spend(0.25)
    assert repr(pacer) == "<Pacer budget_usd=1 spent_usd=0.25 paid=1>"


@pytest.mark.parametrize("policy", [ThompsonSampling(), LinUCB(alpha=1.0), Greedy()], ids=str)
def test_wide_beliefs_spend_as_the_policy_draws(policy: Policy) -> None:
    """One and the same request, for ever: the mean alone would say nothing of how often a sampler goes dear."""
    pacer, rng = Pacer(1.0, 2), np.random.default_rng(3)
    mean, std, cost = np.array([0.5, 0.9]), np.array([0.02, 0.4]), np.array([0.1, 3.0])
    for _ in range(3_000):
        p = pacer.probabilities(policy, mean, std, cost)
        pacer.spend(float(cost[draw(p, rng.random())]))
    # The spread of 3,000 draws between 0.1 and 3.0 dollars is below 0.03.
    assert pacer.spent_usd / pacer.paid == pytest.approx(1.0, abs=0.05)
