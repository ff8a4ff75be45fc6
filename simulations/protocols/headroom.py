"""How much there is to win on a table: random, best single, routers, ridge on full information, oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bandit_router.values import Array
from simulations.metrics import cumulative_regret, mean_interval
from simulations.protocols.results import Line, Result, check_table
from simulations.protocols.teaching import crossfit
from simulations.replay import Rows, Scene
from simulations.report import Interval
from simulations.runs import Run, best_fixed, oracle
from simulations.tables import Table

POLICIES = ("thompson",)
LINEAR = "ridge, cross-validated"
MARKS = 20  # points of a regret curve


def headroom(scene: Scene, runs: Sequence[Run]) -> Result:
    """Put what routers got online beside what no router can miss, and what none can reach.

    ``random``, ``best single``, the cross-validated ridge (`crossfit`) and the ``oracle`` are of all rows
    that could be lived through: their intervals are over prompts. A router's are over orders. ``gain`` is
    the reward above the best single model's on the same rows, paired.

    Parameters
    ----------
    scene : Scene
        Of `simulations.simulate.stage`, with the price weight of the runs.
    runs : sequence of Run
        Of the routers, without a scenario.
    """
    table, rows = scene.table, scene.order
    check_table(table, "headroom", costs=False)
    reward = scene.reward[rows]
    best, models = int(reward.mean(axis=0).argmax()), len(table.models)
    chosen = reference_choices(scene)
    even = np.full(reward.shape, 1.0 / models)
    parts = {"random": even} | {name: np.eye(models)[k] for name, k in chosen.items()}
    fixed = [_line(table, rows, name, p, reward, best) for name, p in parts.items()]
    lives: dict[str, list[Run]] = {}
    for run in runs:
        lives.setdefault(run.policy, []).append(run)
    rewards = {
        name: dict(zip(rows.tolist(), scene.reward[rows, k].tolist(), strict=True))
        for name, k in chosen.items()
    }
    return Result(
        protocol="headroom",
        table=table,
        facts={
            "best_single": table.names[best],
            "price_weight": scene.price_weight,
            "seeds": len({run.seed for run in runs}),
            "rounds": max(len(run.chosen) for run in runs),
        },
        lines=(*fixed[:2], *(_lived(table, policy, some) for policy, some in lives.items()), *fixed[2:]),
        curves={
            f"regret of {policy} against {name}": _regret(some, reference)
            for policy, some in lives.items()
            for name, reference in rewards.items()
        },
    )


def reference_choices(scene: Scene) -> dict[str, Rows]:
    """Return what best single model, best linear policy and oracle choose for each row of the order."""
    rows = scene.order
    reward = scene.reward[rows]
    linear = crossfit(scene.features[rows], reward)
    return {
        "best single": np.full(len(rows), reward.mean(axis=0).argmax()),
        LINEAR: linear.argmax(axis=1),
        "oracle": oracle(scene.table, scene.price_weight)[rows],
    }


def _line(table: Table, rows: Rows, name: str, p: Array, reward: Array, best: int) -> Line:
    """What probabilities of shape (m, K) come to, in expectation: nothing is drawn."""
    got = (p * reward).sum(axis=1)
    numbers = {
        "reward": over_prompts(got),
        "gain": over_prompts(got - reward[:, best]),
        "quality": over_prompts((p * table.quality[rows]).sum(axis=1)),
    }
    if table.has_cost:
        numbers["cost_usd"] = over_prompts((p * table.cost_usd[rows]).sum(axis=1))
    if table.latency_s is not None:
        latency = np.where(p > 0, p * table.latency_s[rows], 0.0)
        numbers["latency_s"] = over_prompts(latency.sum(axis=1))
    return Line(router=name, numbers=numbers)


def over_prompts(values: Array) -> Interval:
    """Return the mean over prompts and its 95 % interval; values that are NaN are left out.

    Examples
    --------
    >>> over_prompts(np.array([0.5, np.nan, 0.5]))
    (0.5, 0.5, 0.5)
    """
    there = values[~np.isnan(values)]
    return mean_interval(there) if len(there) else (np.nan, np.nan, np.nan)


def _lived(table: Table, policy: str, runs: Sequence[Run]) -> Line:
    """A router's numbers, over its orders."""
    numbers = {
        "reward": mean_interval([run.reward.mean() for run in runs]),
        "gain": mean_interval([_gain(table, run) for run in runs]),
        "quality": mean_interval([run.quality.mean() for run in runs]),
    }
    if table.has_cost:
        numbers["cost_usd"] = mean_interval([run.cost_usd.mean() for run in runs])
    if table.latency_s is not None:
        latency = [table.latency_s[run.order, run.chosen] for run in runs]
        numbers["latency_s"] = mean_interval([np.nanmean(some) for some in latency])
    return Line(router=policy, numbers=numbers)


def _gain(table: Table, run: Run) -> float:
    reference = table.reward(run.price_weight)[run.order, best_fixed(run, table)]
    return float((run.reward - reference).mean())


def _regret(runs: Sequence[Run], rewards: Mapping[int, float]) -> Array:
    """The mean over orders of (rounds, cumulative regret), at some rounds."""
    n = min(len(run.chosen) for run in runs)
    at = np.unique(np.linspace(1, n, min(n, MARKS)).astype(int))
    curves = [
        cumulative_regret(run.reward, [rewards[row] for row in run.order.tolist()])[at - 1]
        for run in runs
    ]
    return np.column_stack([at, np.mean(curves, axis=0)])
