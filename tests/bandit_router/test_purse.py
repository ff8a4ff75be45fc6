"""One budget for all workers: what others spend is heard of from the log."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bandit_router import Greedy, Model, Outcome, Router, ThompsonSampling
from bandit_router.pacing import ADVANCE, Pacer

Open = Callable[..., Router]
CHEAP, DEAR = Model("cheap", output_usd_per_mtok=1.0), Model("dear", output_usd_per_mtok=100.0)
BUDGET = 0.01


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def pacer_of(router: Router) -> Pacer:
    router.choose("x")
    pacer = router._worker.decider._purse._pacer
    assert pacer is not None
    return pacer


def heard(router: Router, requests: int, *, patience_s: float = 20.0) -> Pacer:
    """Wait until a router has heard of so many requests beside those that it makes to look."""
    deadline, own = time.monotonic() + patience_s, 0
    while True:
        pacer, own = pacer_of(router), own + 1
        if pacer.paid - own >= requests:
            return pacer
        assert time.monotonic() < deadline, (pacer, requests, own)
        time.sleep(0.05)


def serve(router: Router, requests: int, *, tokens: int = 300) -> float:
    """Let it decide, and tell what it cost."""
    spent = 0.0
    for _ in range(requests):
        decision = router.choose("x")
        spent += (CHEAP if decision.model == "cheap" else DEAR).cost_usd(1, tokens)
        router.report(decision.id, Outcome(input_tokens=1, output_tokens=tokens))
    return spent


def test_what_one_worker_spends_another_hears_of(open_router: Open) -> None:
    settings = {"models": [CHEAP, DEAR], "budget_usd_per_request": BUDGET, "policy": Greedy()}
    one = open_router(**settings, seed=1, worker=1)
    other = open_router(seed=1, worker=2)
    before = pacer_of(other).paid
    spent = serve(one, 40)
    pacer = heard(other, before - 1 + 40)
    # Beside the forty, it charged itself each look at what it predicts: never a dear one in a row.
    assert pacer.spent_usd >= 0.9 * spent


def test_the_mean_over_two_workers_is_the_budget(open_router: Open) -> None:
    """What was owed before both began is made good once, not by each of them."""
    settings = {"models": [CHEAP, DEAR], "budget_usd_per_request": BUDGET, "policy": Greedy()}
    first = open_router(**settings, seed=1, worker=1)
    for _ in range(30):
        for name, reward in (("cheap", 0.4), ("dear", 0.9)):
            decision = first.choose("x", models=[name])
            first.report(decision.id, Outcome(input_tokens=1, output_tokens=300))
            first.feedback(decision.id, "rating", reward)
    first.close()
    workers = [open_router(seed=1, worker=2), open_router(seed=1, worker=3)]
    for _ in range(8):
        for router in workers:
            serve(router, 20)
        time.sleep(0.25)  # until each has heard of the other
    for router in workers:
        pacer = pacer_of(router)
        assert pacer.paid == pytest.approx(381, abs=25)
        assert pacer.spent_usd <= BUDGET * (pacer.paid + 2 * ADVANCE) + 0.3


def test_a_price_cut_is_acted_on_by_the_next_request(open_router: Open) -> None:
    """The window of the pacer is at the new prices as soon as they are known; nothing has to move on first."""
    policy = ThompsonSampling()  # what nobody knows is worth its price now and then
    router = open_router(models=[CHEAP, DEAR], budget_usd_per_request=BUDGET, policy=policy)
    serve(router, 40)
    before = pacer_of(router)
    assert before.price.mean > 0.0
    router.put_model(Model("dear", output_usd_per_mtok=10.0))
    after = pacer_of(router)
    assert after is before
    assert after.price.mean == 0.0  # all can be had now


def test_a_dear_newcomer_is_not_tried_before_its_share_is_saved(open_router: Open) -> None:
    router = open_router(models=[CHEAP], budget_usd_per_request=BUDGET, policy=Greedy())
    for _ in range(5):
        router.feedback(router.choose("x").id, "rating", 0.5)
    pacer_of(router)
    router.put_model(DEAR)
    decisions = [router.choose("x") for _ in range(10)]
    assert {decision.model for decision in decisions} == {"cheap"}
    assert {candidate.model for candidate in decisions[-1].candidates} == {"cheap"}
    assert router.choose("x", models=["dear"]).model == "dear"  # whoever asks for it has it
