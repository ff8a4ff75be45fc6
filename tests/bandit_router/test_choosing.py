"""From promises to probabilities: who may serve, with which probability, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.budget import DollarPrice
from bandit_router.choosing import Offer, eligible, good_enough, reason_for, weigh
from bandit_router.errors import NoEligibleModelError
from bandit_router.events import Candidate, Model
from bandit_router.pacing import COVERED, EXPLORING, Pacer
from bandit_router.policies import EpsilonGreedy, Greedy, Policy, ThompsonSampling, Uniform, draw
from bandit_router.preference import Preference
from bandit_router.prompt import Prompt
from bandit_router.request import Request

MODELS = (Model("small", context_tokens=100), Model("large"), Model("other", context_tokens=1_000))


def offer(
    *, mean: tuple[float, ...] = (0.5, 0.9, 0.7), cost: tuple[float, ...] = (1.0, 9.0, 3.0)
) -> Offer:
    promised, usd = np.array(mean), np.array(cost)
    return Offer(
        models=MODELS[: len(mean)],
        mean=promised,
        std=np.full(len(mean), 0.1),
        cost_usd=usd,
        worst_usd=2 * usd,
        latency_s=np.arange(len(mean), dtype=float),
        utility=promised - 0.01 * usd,
    )


def request(text: str = "Hi", **arguments: object) -> Request:
    return Request(prompt=Prompt(text=text), **arguments)  # type: ignore[arg-type]  # mixed values


def names(asked: Request) -> list[str]:
    return [m.name for m, left in zip(MODELS, eligible(offer(), asked), strict=True) if left]


def test_all_may_serve_a_short_request() -> None:
    assert names(request()) == ["small", "large", "other"]


def test_what_leaves_all_is_what_a_subset_of_all_leaves() -> None:
    everything = offer()
    listed = frozenset(model.name for model in everything.models)
    for text in ("Hi", "x" * 2_000, "x" * 200_000):
        plain, long_way = request(text), request(text, models=listed)
        assert eligible(everything, plain).tolist() == eligible(everything, long_way).tolist()
    assert everything.only(np.ones(len(listed), dtype=bool)) is everything


def test_a_subset_a_cap_and_a_window_leave_fewer() -> None:
    assert names(request(models=frozenset({"small", "large", "unknown"}))) == ["small", "large"]
    assert names(request(max_cost_usd=6.0)) == ["small", "other"]  # of the worst case
    assert names(request("x" * 2_000)) == ["large", "other"]
    assert names(request(max_tokens=500)) == ["large", "other"]
    assert names(request("x" * 2_000, models=frozenset({"small", "other"}), max_cost_usd=6.0)) == [
        "other"
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(models=frozenset({"unknown"})), "3 active, 0 of them asked for"),
        (request(max_cost_usd=1.0), "3 of them asked for.*0 within the cap"),
        (
            request(models=frozenset({"large"}), max_cost_usd=17.0),
            "1 of them asked for.*0 within the cap",
        ),
    ],
)
def test_nothing_left_says_why(asked: Request, message: str) -> None:
    with pytest.raises(NoEligibleModelError, match=message):
        eligible(offer(), asked)


def test_only_some_offers() -> None:
    some = offer().only(np.array([True, False, True]))
    assert [model.name for model in some.models] == ["small", "other"]
    assert some.candidates(np.array([0.25, 0.75])) == (
        Candidate(model="small", probability=0.25, mean=0.5, std=0.1, cost_usd=1.0, latency_s=0.0),
        Candidate(model="other", probability=0.75, mean=0.7, std=0.1, cost_usd=3.0, latency_s=2.0),
    )
    assert all(type(value) is float for value in (some.candidates(np.ones(2))[0].probability,))


def test_utility_decides_and_the_floor_is_laid_over_it() -> None:
    p = weigh(Greedy(), offer(), floor=0.03, pacer=None)
    np.testing.assert_allclose(p, [0.01, 0.98, 0.01])
    dear = weigh(Greedy(), offer(cost=(1.0, 60.0, 3.0)), floor=0.0, pacer=None)
    assert dear.tolist() == [0.0, 0.0, 1.0]


def test_one_model_is_certain() -> None:
    assert weigh(Uniform(), offer(mean=(0.5,), cost=(1.0,)), floor=0.5, pacer=None).tolist() == [1.0]


@given(
    st.sampled_from([Greedy(), Uniform(), ThompsonSampling(), EpsilonGreedy()]),
    st.floats(0, 1),
    st.floats(0.01, 100),
    st.floats(0, 1e4),
)
def test_a_budget_keeps_probabilities(policy: Policy, floor: float, budget: float, spent: float) -> None:
    """They sum to one; the floor is kept where the budget can pay it, and never costs much of it."""
    pacer, offered = Pacer(budget, 3), offer()
    pacer.record(Greedy(), offered.utility, offered.std, offered.cost_usd)
    pacer.spend(spent)
    p = weigh(policy, offered, floor=floor, pacer=pacer)
    shares = pacer.affordable(np.full(3, floor / 3), offered.cost_usd)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert (p >= shares * (1 - 1e-12)).all()
    assert shares @ offered.cost_usd <= EXPLORING * budget * (1 + 1e-9)
    beyond = offered.cost_usd > max(pacer.purse_usd, COVERED * budget, offered.cost_usd.min())
    assert (p[beyond] == 0).all()


def test_reasons() -> None:
    assert reason_for(offer(mean=(0.5,), cost=(1.0,)), 0, None) == "only"
    assert [reason_for(offer(), k, None) for k in range(3)] == ["explore", "exploit", "explore"]
    tied = offer(mean=(0.5, 0.5), cost=(1.0, 1.0))
    assert [reason_for(tied, k, None) for k in range(2)] == ["exploit", "exploit"]


def test_the_reason_under_a_budget_is_by_the_price_of_a_dollar() -> None:
    pacer = Pacer(0.1, 3)
    pacer.price = DollarPrice(low=10.0, high=10.0)
    dear = offer(mean=(0.5, 0.9, 0.1), cost=(0.0, 1.0, 0.0))
    assert [reason_for(dear, k, pacer) for k in range(3)] == ["exploit", "explore", "explore"]


ALL = np.ones(3, dtype=bool)


def test_a_quality_floor_leaves_what_is_nearly_as_good_as_the_best() -> None:
    assert good_enough(offer(), ALL, Preference(), None).tolist() == [True, True, True]
    assert good_enough(offer(), ALL, Preference(max_quality_drop=0.25), None).tolist() == [
        False,
        True,
        True,
    ]


def test_a_quality_floor_is_measured_from_the_best_that_may_serve() -> None:
    left = np.array([True, False, True])
    assert good_enough(offer(), left, Preference(max_quality_drop=0.25), None).tolist() == left.tolist()


def test_a_quality_floor_wins_over_a_budget_until_the_purse_can_pay_none_that_it_leaves() -> None:
    pacer, strict = Pacer(1.0, 3), Preference(max_quality_drop=0.0)
    sure = replace(offer(), std=np.zeros(3))
    assert good_enough(sure, ALL, strict, pacer).tolist() == [False, True, False]
    pacer.spend(5.0)  # 6 dollars are left, and the best costs 9
    assert good_enough(sure, ALL, strict, pacer).tolist() == [True, True, True]


def test_models_below_a_quality_floor_are_never_drawn_with_a_budget_either() -> None:
    pacer, sure = Pacer(4.0, 3), replace(offer(), std=np.zeros(3))
    for _ in range(50):
        left = good_enough(sure, ALL, Preference(max_quality_drop=0.25), pacer)
        pacer.record(ThompsonSampling(), sure.worth(left), sure.std, sure.cost_usd)
        p = weigh(ThompsonSampling(), sure.only(left), floor=0.1, pacer=pacer)
        pacer.spend(float(p @ sure.cost_usd[left]))
        assert left.tolist() == [False, True, True]
        assert p.sum() == pytest.approx(1.0, abs=1e-12)
    # Two models of 9 and 3 dollars, mixed to 4; the first few requests are paid from the advance.
    assert pacer.spent_usd / pacer.paid == pytest.approx(4.0, rel=0.05)


def test_a_budget_below_a_quality_floor_is_kept_all_the_same() -> None:
    """The one model that is good enough costs nine budgets: it serves as often as the purse can pay it."""
    pacer, sure = Pacer(1.0, 3), replace(offer(cost=(0.1, 9.0, 3.0)), std=np.zeros(3))
    rng, served = np.random.default_rng(0), 0
    for _ in range(1_000):
        left = good_enough(sure, ALL, Preference(max_quality_drop=0.0), pacer)
        pacer.record(Greedy(), sure.worth(left), sure.std, sure.cost_usd)
        p = np.zeros(3)
        p[left] = weigh(Greedy(), sure.only(left), floor=0.0, pacer=pacer)
        k = draw(p, rng.random())
        pacer.spend(float(sure.cost_usd[k]))
        served += k == 1
    # At most the advance of ten budgets more than a thousand.
    assert 900 <= pacer.spent_usd <= 1_010
    assert served >= 40
