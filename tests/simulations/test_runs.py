"""The numbers of a run, worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.events import Model
from simulations.runs import Run, best_fixed, document, oracle, summary
from simulations.tables import Table

TABLE = Table(
    name="t",
    prompt_ids=("a", "b", "c", "d"),
    prompts=("a", "b", "c", "d"),
    models=(Model("small"), Model("large")),
    quality=np.array([[0.5, 0.5], [0.0, 1.0], [1.0, 0.5], [0.2, 1.0]]),
    cost_usd=np.array([[1.0, 4.0], [1.0, 4.0], [1.0, 4.0], [1.0, 8.0]]),
)


def walk(chosen: list[int], order: list[int], **fields: Any) -> Run:
    weight = fields.get("price_weight", 0.0)
    pick = (np.array(order), np.array(chosen))
    values: dict[str, Any] = {
        "policy": "greedy",
        "seed": 0,
        "price_weight": weight,
        "budget_usd": None,
        "models": TABLE.names,
        "chosen": chosen,
        "order": order,
        "quality": TABLE.quality[pick],
        "cost_usd": TABLE.cost_usd[pick],
        "reward": TABLE.reward(weight)[pick],
    }
    return Run(**(values | fields))


def test_summary_by_hand() -> None:
    row = summary(walk([0, 1, 0, 0], [2, 1, 0, 3]), TABLE)
    assert row == {
        "policy": "greedy",
        "seed": 0,
        "price_weight": 0.0,
        "budget_usd": None,
        "mean_reward": pytest.approx((1.0 + 1.0 + 0.5 + 0.2) / 4),
        "mean_reward_last_third": pytest.approx((0.5 + 0.2) / 2),
        "mean_quality": pytest.approx(2.7 / 4),
        "mean_cost_usd": pytest.approx(7 / 4),
        "total_cost_usd": pytest.approx(7.0),
        "regret_vs_best_fixed": pytest.approx(3.0 - 2.7),
        "regret_vs_oracle": pytest.approx(3.5 - 2.7),
        "share": {"small": 0.75, "large": 0.25},
        "n": 4,
    }


def test_price_turns_the_best_model() -> None:
    # The unit is 5; with weight 1 small gets 1.7/4 - .2, large 3/4 - 1.
    assert best_fixed(walk([0], [0]), TABLE) == 0
    run = walk([0, 0, 0, 0], [0, 1, 2, 3], price_weight=1.0)
    assert best_fixed(run, TABLE) == 0
    assert summary(run, TABLE)["regret_vs_best_fixed"] == pytest.approx(0.0)
    assert summary(run, TABLE)["mean_reward"] == pytest.approx(0.425 - 0.2)


@pytest.mark.parametrize(("budget", "best"), [(None, 1), (5.0, 1), (4.9, 0), (0.5, 0)])
def test_a_budget_forbids_the_dear_model(budget: float | None, best: int) -> None:
    assert best_fixed(walk([0] * 4, [0, 1, 2, 3], budget_usd=budget), TABLE) == best


def test_the_best_model_is_the_one_on_the_runs_rows() -> None:
    assert best_fixed(walk([0, 0], [2, 0]), TABLE) == 0


def test_oracle_breaks_ties_by_cost() -> None:
    np.testing.assert_array_equal(oracle(TABLE, 0.0), [0, 1, 0, 1])
    np.testing.assert_array_equal(oracle(TABLE, 1.0), [0, 1, 0, 0])


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.floats(0, 3), st.integers(0, 9))
def test_nobody_beats_the_oracle(chosen: list[int], weight: float, seed: int) -> None:
    order = np.random.default_rng(seed).integers(0, 4, len(chosen)).tolist()
    row = summary(walk(chosen, order, price_weight=weight), TABLE)
    assert row["regret_vs_oracle"] >= -1e-9
    assert row["regret_vs_oracle"] >= row["regret_vs_best_fixed"] - 1e-9
    assert sum(row["share"].values()) == pytest.approx(1.0)


def test_a_run_checks_itself() -> None:
    run = walk([0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"order: expected shape \(2,\), got \(1,\)"):
        replace(run, order=np.array([0]))
    with pytest.raises(ValueError, match="at least one round"):
        replace(run, **dict.fromkeys(("chosen", "order", "quality", "cost_usd", "reward"), np.array([])))
    with pytest.raises(ValueError, match="models: expected those of the table"):
        summary(walk([0], [0], models=("x", "y")), TABLE)
    assert not run.chosen.flags.writeable


def test_document_is_plain_json() -> None:
    broken = walk([0, 1], [0, 1], reward=[np.nan, 1.0])
    whole = document(TABLE, [walk([0, 1], [0, 1]), broken])
    text = json.dumps(whole, allow_nan=False)
    assert json.loads(text) == whole
    assert (whole["table"], whole["pool"], whole["n"], whole["dropped"]) == ("t", None, 2, 0)
    assert whole["cost_unit_usd"] == 5.0
    assert whole["rows"][1]["mean_reward"] is None
    assert whole["rows"][0]["mean_reward"] == 0.75
