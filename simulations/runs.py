"""What a policy chose along one order of a table, and the numbers that say how well it did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router.values import Array
from simulations.streams import Phase, Stream
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
    stream : Stream, optional
        Where the world changed, what every model would have answered; `order` counts in its rounds then.
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
    stream: Stream | None = None

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

    def table(self, table: Table) -> Table:
        """Return what it lived through: its stream's table if the world changed, else the one given."""
        return table if self.stream is None else self.stream.table

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All its rounds, cut where the world changed."""
        if self.stream is None:
            return (Phase(name="all", start=0, end=len(self.chosen)),)
        return self.stream.phases


def _frozen(values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:  # Any: whatever becomes an array
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False
    return array


def best_fixed(run: Run, table: Table, phase: Phase | None = None) -> int:
    """Return which single model would have been best on the run's rows, in hindsight.

    The highest mean reward; with a budget, among the models whose mean cost on these rows is within
    it, and the cheapest if none is.

    Parameters
    ----------
    run : Run
    table : Table
    phase : Phase, optional
        Only of these rounds; of the models that could be asked in all of them.
    """
    rounds = slice(None) if phase is None else phase.rounds
    rows = run.order[rounds]
    reward = run.table(table).reward(run.price_weight)[rows].mean(axis=0)
    cost = run.table(table).cost_usd[rows].mean(axis=0)
    if run.stream is not None:
        there = run.stream.available[rounds].all(axis=0)
        reward, cost = np.where(there, reward, -np.inf), np.where(there, cost, np.inf)
    if run.budget_usd is None:
        return int(reward.argmax())
    within = cost <= run.budget_usd
    return int(np.where(within, reward, -np.inf).argmax() if within.any() else cost.argmin())


def best_fixed_rewards(run: Run, table: Table) -> Array:
    """Return what the best fixed model of each phase (`best_fixed`) got in each round, of shape (n,)."""
    reward = run.table(table).reward(run.price_weight)[run.order]
    parts = [reward[phase.rounds, best_fixed(run, table, phase)] for phase in run.phases]
    return np.concatenate(parts)


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
    per-prompt `oracle`, less what the run got. Where the world changes, the best fixed model is that of
    each phase, and ``phases`` and ``marks`` have numbers of their own.

    Parameters
    ----------
    run : Run
    table : Table
        The one it walked; its cost unit is the one of `run.reward`.
    """
    if run.models != table.names:
        raise ValueError(f"models: expected those of the table, {table.names}, got {run.models}")
    reward = run.table(table).reward(run.price_weight)[run.order]
    if run.stream is not None:
        reward = np.where(run.stream.available, reward, -np.inf)
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
        "regret_vs_best_fixed": float((best_fixed_rewards(run, table) - run.reward).sum()),
        "regret_vs_oracle": float((reward.max(axis=1) - run.reward).sum()),
        "share": run.share,
        "n": len(run.chosen),
        **({} if run.stream is None else _told_apart(run, table)),
    }


def _told_apart(run: Run, table: Table) -> dict[str, Any]:
    assert run.stream is not None
    return {
        "phases": [phase_summary(run, table, phase) for phase in run.stream.phases],
        "marks": [phase_summary(run, table, phase) for phase in run.stream.marks],
    }


def phase_summary(run: Run, table: Table, phase: Phase) -> dict[str, Any]:
    """Return the numbers of some rounds of a run; regret is against the model that was best in them."""
    rounds = phase.rounds
    best = best_fixed(run, table, phase)
    reference = run.table(table).reward(run.price_weight)[run.order][rounds, best]
    counts = np.bincount(run.chosen[rounds], minlength=len(run.models))
    paid = np.bincount(run.chosen[rounds], weights=run.cost_usd[rounds], minlength=len(run.models))
    n = phase.end - phase.start
    return {
        "name": phase.name,
        "from": phase.start,
        "to": phase.end,
        "mean_reward": float(run.reward[rounds].mean()),
        "mean_quality": float(run.quality[rounds].mean()),
        "mean_cost_usd": float(run.cost_usd[rounds].mean()),
        "regret_vs_best_fixed": float((reference - run.reward[rounds]).sum()),
        "share": dict(zip(run.models, (counts / n).tolist(), strict=True)),
        "cost_usd": dict(zip(run.models, paid.tolist(), strict=True)),
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
