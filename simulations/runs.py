"""What a policy chose along one order of a table, and the numbers that say how well it did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router.values import Array
from simulations.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One policy's life through one order of a table: what it chose and what came of it.

    Attributes
    ----------
    policy : str
        Its SPEC.
    seed : int
        Of the order; the same seed is the same order for every policy.
    price_weight : float
        What one cost unit is worth in reward.
    budget_usd : float, optional
        The long-run mean that it had to keep [USD per request].
    models : tuple of str
        The models' names; `chosen` counts in them.
    chosen, order : ndarray of int of shape (n,)
        The model and the table's row of each round.
    quality, cost_usd, reward : ndarray of shape (n,)
        Of what was chosen; the cost in [USD].
    """

    policy: str
    seed: int
    price_weight: float
    budget_usd: float | None
    models: tuple[str, ...]
    chosen: NDArray[np.int64]
    order: NDArray[np.int64]
    quality: Array
    cost_usd: Array
    reward: Array

    def __post_init__(self) -> None:
        for name in ("chosen", "order"):
            object.__setattr__(self, name, _frozen(getattr(self, name), np.dtype(np.int64)))
        for name in ("quality", "cost_usd", "reward"):
            object.__setattr__(self, name, _frozen(getattr(self, name), np.dtype(np.float64)))
        for name in ("order", "quality", "cost_usd", "reward"):
            if getattr(self, name).shape != (len(self.chosen),):
                raise ValueError(
                    f"{name}: expected shape ({len(self.chosen)},), got {getattr(self, name).shape}"
                )
        if not len(self.chosen):
            raise ValueError("expected at least one round, got none")

    @property
    def share(self) -> dict[str, float]:
        """Which part of the rounds each model served."""
        counts = np.bincount(self.chosen, minlength=len(self.models))
        return {model: float(n / len(self.chosen)) for model, n in zip(self.models, counts, strict=True)}


def _frozen(values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:  # Any: whatever becomes an array
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False
    return array


def best_fixed(run: Run, table: Table) -> int:
    """Return which single model would have been best on the run's rows, in hindsight.

    The highest mean reward; with a budget, among the models whose mean cost on these rows is within
    it, and the cheapest if none is.
    """
    reward = table.reward(run.price_weight)[run.order].mean(axis=0)
    cost = table.cost_usd[run.order].mean(axis=0)
    if run.budget_usd is None:
        return int(reward.argmax())
    within = cost <= run.budget_usd
    return int(np.where(within, reward, -np.inf).argmax() if within.any() else cost.argmin())


def oracle(table: Table, price_weight: float) -> NDArray[np.int64]:
    """Return the model of the highest reward for each row, of shape (n,); ties go to the cheapest.

    It knows every outcome before it is drawn, so that it is mostly luck: nobody can reach it.
    """
    reward = table.reward(price_weight)
    top = reward == reward.max(axis=1, keepdims=True)
    return np.asarray(np.where(top, table.cost_usd, np.inf).argmin(axis=1), dtype=np.int64)


def summary(run: Run, table: Table) -> dict[str, Any]:
    """Return the numbers of a run: one row of ``simulate --json``.

    Regrets are sums over the run's rounds, of the best fixed model (`best_fixed`) and of the
    per-prompt `oracle`, less what the run got.

    Parameters
    ----------
    run : Run
    table : Table
        The one it walked; its cost unit is the one of `run.reward`.
    """
    if run.models != table.names:
        raise ValueError(f"models: expected those of the table, {table.names}, got {run.models}")
    reward = table.reward(run.price_weight)[run.order]
    last = run.reward[-math.ceil(len(run.reward) / 3) :]
    return {
        "policy": run.policy,
        "seed": run.seed,
        "price_weight": run.price_weight,
        "budget_usd": run.budget_usd,
        "mean_reward": float(run.reward.mean()),
        "mean_reward_last_third": float(last.mean()),
        "mean_quality": float(run.quality.mean()),
        "mean_cost_usd": float(run.cost_usd.mean()),
        "total_cost_usd": float(run.cost_usd.sum()),
        "regret_vs_best_fixed": float((reward[:, best_fixed(run, table)] - run.reward).sum()),
        "regret_vs_oracle": float((reward.max(axis=1) - run.reward).sum()),
        "share": run.share,
        "n": len(run.chosen),
    }


def document(table: Table, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what ``simulate --json`` writes: table, pool, n (rounds) and a row per run, as plain JSON.

    Besides: the models, the rows of the table, how many rows of the file were dropped, and the cost
    unit [USD]. A number that is not finite is None.
    """
    return {
        "table": table.name,
        "pool": table.pool,
        "n": max((len(run.chosen) for run in runs), default=0),
        "models": list(table.names),
        "table_rows": len(table),
        "dropped": table.dropped,
        "cost_unit_usd": table.cost_unit_usd,
        "rows": [_plain(summary(run, table)) for run in runs],
    }


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """NaN and infinity are no JSON."""
    finite = {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
    return {name: finite.get(name) for name in row}
