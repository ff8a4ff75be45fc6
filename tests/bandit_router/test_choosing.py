"""From promises to probabilities: who may serve, with which probability, and why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.budget import DollarPrice
from bandit_router.choosing import Offer, eligible, reason_for, weigh
from bandit_router.errors import NoEligibleModelError
from bandit_router.events import Candidate, Model
from bandit_router.pacing import COVERED, EXPLORING, Pacer
from bandit_router.policies import EpsilonGreedy, Greedy, Policy, ThompsonSampling, Uniform
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
