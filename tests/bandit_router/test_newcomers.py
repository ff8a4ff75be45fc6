"""What nobody knows yet may cost a small share of the budget, and what is cheap or known is let through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_router.newcomers import DOUBT, PROVEN, SHARE, Newcomers

NAMES = ("old", "new")
KNOWN = {"old": 100.0, "new": 0.0}
BUDGET = 2.0


def met(known: dict[str, float] = KNOWN) -> Newcomers:
    """One old model, then a new one."""
    newcomers = Newcomers()
    newcomers.meet(NAMES[:1], known.__getitem__)
    newcomers.meet(NAMES, known.__getitem__)
    return newcomers


def may_try(newcomers: Newcomers, cost_usd: float, known: dict[str, float] = KNOWN) -> bool:
    costs = np.array([50.0, cost_usd])
    left = newcomers.payable(NAMES, costs, known.__getitem__, budget_usd=BUDGET)
    assert left[0]  # whatever it costs, it is known
    return bool(left[1])


def test_a_dear_newcomer_waits_until_its_share_is_saved() -> None:
    newcomers = met()
    assert not may_try(newcomers, 4.0)
    for _ in range(round(DOUBT * 4.0 / (SHARE * BUDGET))):
        newcomers.charge("old", 1.0)
    assert may_try(newcomers, 4.0)
    assert not may_try(newcomers, 4.1)
    newcomers.charge("new", 4.0)
    assert not may_try(newcomers, 2.1)  # the bill of the first may be as much as it was doubted
    newcomers.settle("new", 4.0, 16.0)
    assert not may_try(newcomers, 4.1)  # 4 of the 20 that were saved are left
    assert may_try(newcomers, 4.0)  # and it is known what it costs


def test_what_costs_no_more_than_the_budget_is_let_through() -> None:
    assert may_try(met(), BUDGET)
    assert not may_try(met(), BUDGET + 0.01)


def test_what_is_known_is_let_through_for_good() -> None:
    newcomers = met()
    assert may_try(newcomers, 90.0, KNOWN | {"new": PROVEN})
    assert may_try(newcomers, 90.0)  # its rewards have faded


def test_models_that_came_together_are_no_newcomers() -> None:
    newcomers = Newcomers()
    newcomers.meet(NAMES, dict.fromkeys(NAMES, 0.0).__getitem__)
    assert may_try(newcomers, 90.0)
    assert repr(newcomers) == "<Newcomers requests=0 unproven=[]>"
    assert repr(met()) == "<Newcomers requests=0 unproven=['new']>"


def test_a_restart_knows_by_the_evidence_who_is_new() -> None:
    newcomers = Newcomers()
    newcomers.meet(NAMES, KNOWN.__getitem__)
    assert not may_try(newcomers, 90.0)


@pytest.mark.parametrize("workers", [1, 3])
@settings(max_examples=20)
@given(
    costs=st.lists(st.floats(0.1, 40.0), min_size=1, max_size=300),
    dearer=st.floats(0.2, DOUBT),
    restart=st.integers(1, 300),
)
def test_the_law(workers: int, costs: list[float], dearer: float, restart: int) -> None:
    """Tries above the budget cost at most their share of it, for all workers together, restarts included.

    As long as the first bill is within the doubt, and later ones are as predicted.
    """
    costs = costs * 5
    many = [met() for _ in range(workers)]
    tried = 0.0
    for i, cost in enumerate(costs):
        if i % restart == restart - 1:
            many[i % workers] = met()
        worker = many[i % workers]
        name = "new" if cost > BUDGET and may_try(worker, cost) else "old"
        worker.charge(name, cost)
        paid = cost if "new" in worker._billed else dearer * cost
        if name == "new":
            worker.settle(name, cost, paid)
            tried += paid
        assert tried <= SHARE * BUDGET * (i + 1) * (1 + 1e-9)
