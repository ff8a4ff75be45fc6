"""Our defaults, peers and baselines through the same orders, and how far each is from our defaults."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bandit_router import __version__
from bandit_router.errors import PeerError
from bandit_router.values import Array
from simulations.compare.dialogue import Dialogue
from simulations.metrics import mean_interval, paired_interval
from simulations.replay import Player, Scene
from simulations.runs import Run
from simulations.simulate import simulate
from simulations.tables import Table

Interval = tuple[float, float, float]

OURS = "thompson"
BASELINES = ("best-fixed", "uniform", "knn:k=50", "ridge")
FULL_INFORMATION = ("best-fixed", "ridge")  # they see what they did not choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A peer that may be started, and the settings that it is to be tried at.

    Attributes
    ----------
    name : str
    command : tuple of str
        That starts it.
    settings : tuple of str
    """

    name: str
    command: tuple[str, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one policy did, and how far it is from our defaults on the same orders.

    Attributes
    ----------
    policy : str
        Our SPEC, or ``peer:setting``.
    price_weight : float
    orders : int
        How many, each a pair.
    reward, last_third : tuple of float
        Mean reward of the whole stream and of its last third: mean, low, high (95 %).
    behind, behind_last : tuple of float
        The same less what our defaults got, paired by order; negative where it is worse.
    """

    policy: str
    price_weight: float
    orders: int
    reward: Interval
    last_third: Interval
    behind: Interval
    behind_last: Interval

    @property
    def verdict(self) -> str:
        """Say "below" or "above" our defaults where the interval of the whole stream leaves out 0."""
        _, low, high = self.behind
        return "below" if high < 0 else "above" if low > 0 else "-"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """All that was found on one table.

    Attributes
    ----------
    table : Table
    runs : tuple of Run
    versions : dict of str to str
        Of the peers, as they say them.
    missing : dict of str to str
        Peers or settings that cannot be compared, and why.
    """

    table: Table
    runs: tuple[Run, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def standings(self) -> list[Standing]:
        """One per price weight and policy."""
        return standings(self.runs)

    def document(self) -> dict[str, Any]:  # Any: JSON
        """Return all numbers as plain JSON; what is not finite is None."""
        return {
            "table": self.table.name,
            "pool": self.table.pool,
            "models": list(self.table.names),
            "n": max(len(run.chosen) for run in self.runs),
            "bandit_router": __version__,
            "peers": dict(self.versions),
            "missing": dict(self.missing),
            "rows": [_plain(standing) for standing in self.standings],
            "orders": [_order(run) for run in self.runs],
        }


def compare(
    table: Table,
    contenders: Sequence[Contender],
    *,
    specs: Sequence[str] = (OURS, *BASELINES),
    price_weights: Sequence[float] = (0.0,),
    seeds: int = 10,
    rows: int | None = None,
    said: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Let our policies, baselines and peers live through the same orders of a table.

    A peer that fails is named with its reason; what it reached before does not count.

    Parameters
    ----------
    table : Table
    contenders : sequence of Contender
    specs : sequence of str
        Policies of `simulate`; the first is what all are compared with.
    price_weights, seeds, rows
        As `simulate`.
    said : callable
        Told what is done next.
    """
    said(f"{table.name}: {', '.join(specs)}")
    settings: dict[str, Any] = {  # Any: options of simulate, passed on
        "price_weights": price_weights if table.has_cost else (0.0,),
        "seeds": seeds,
        "rows": rows,
    }
    runs = simulate(table, specs, **settings)
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for contender in contenders:
        for setting in contender.settings:
            spec = f"{contender.name}:{setting}"
            said(f"{table.name}: {spec}")
            try:
                with Dialogue(contender.name, contender.command) as dialogue:
                    runs += simulate(table, [spec], maker=_maker(dialogue, setting), **settings)
                    versions[contender.name] = dialogue.version
            except PeerError as error:
                missing[spec] = str(error)
    return Comparison(table=table, runs=tuple(runs), versions=versions, missing=missing)


def standings(runs: Sequence[Run]) -> list[Standing]:
    """Return how each policy stands to the first one, per price weight, paired by order."""
    found = []
    for weight in dict.fromkeys(run.price_weight for run in runs):
        mine = [run for run in runs if run.price_weight == weight]
        ours = _by_seed(mine, mine[0].policy)
        for policy in dict.fromkeys(run.policy for run in mine):
            found.append(_standing(policy, weight, _by_seed(mine, policy), ours))
    return found


def write_json(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write all numbers of all tables, also order by order.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    tables = [comparison.document() for comparison in comparisons]
    path.write_text(json.dumps({"tables": tables}, indent=1, allow_nan=False) + "\n", "utf-8")


def last_third(run: Run) -> float:
    """Return the mean reward of the last third of its rounds."""
    return float(run.reward[-math.ceil(len(run.reward) / 3) :].mean())


def _maker(dialogue: Dialogue, setting: str) -> Callable[..., Player]:
    def make(spec: str, scene: Scene) -> Player:
        return dialogue.player(setting, scene)

    return make


def _by_seed(runs: Sequence[Run], policy: str) -> dict[int, Run]:
    return {run.seed: run for run in runs if run.policy == policy}


def _standing(
    policy: str, price_weight: float, theirs: Mapping[int, Run], ours: Mapping[int, Run]
) -> Standing:
    seeds = [seed for seed in ours if seed in theirs]
    reward, reference = (_means(runs, seeds) for runs in (theirs, ours))
    last, last_reference = (_lasts(runs, seeds) for runs in (theirs, ours))
    return Standing(
        policy=policy,
        price_weight=price_weight,
        orders=len(seeds),
        reward=mean_interval(reward),
        last_third=mean_interval(last),
        behind=paired_interval(reward, reference),
        behind_last=paired_interval(last, last_reference),
    )


def _means(runs: Mapping[int, Run], seeds: Sequence[int]) -> Array:
    return np.array([runs[seed].reward.mean() for seed in seeds])


def _lasts(runs: Mapping[int, Run], seeds: Sequence[int]) -> Array:
    return np.array([last_third(runs[seed]) for seed in seeds])


def _plain(standing: Standing) -> dict[str, Any]:  # Any: JSON
    def interval(values: Interval) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in values]

    return {
        "policy": standing.policy,
        "price_weight": standing.price_weight,
        "orders": standing.orders,
        "reward": interval(standing.reward),
        "last_third": interval(standing.last_third),
        "behind": interval(standing.behind),
        "behind_last": interval(standing.behind_last),
        "verdict": standing.verdict,
    }


def _order(run: Run) -> dict[str, Any]:  # Any: JSON
    return {
        "policy": run.policy,
        "price_weight": run.price_weight,
        "seed": run.seed,
        "mean_reward": float(run.reward.mean()),
        "mean_reward_last_third": last_third(run),
        "mean_quality": float(run.quality.mean()),
        "mean_cost_usd": float(run.cost_usd.mean()),
    }
