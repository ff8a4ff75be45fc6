"""RouterArena's protocol: accuracy, cost, and the score that weighs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_router.values import Array
from simulations.protocols.arena import arena_score
from simulations.protocols.results import Result, check_table, line
from simulations.protocols.routes import mean_points, willing_choices, willingness_grid
from simulations.protocols.teaching import Taught, split, teach
from simulations.replay import Rows, Scene
from simulations.runs import oracle
from simulations.simulate import Progress
from simulations.tables import Table


def routerarena(
    scene: Scene,
    specs: Sequence[str],
    *,
    seeds: int,
    labels: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Let routers learn from some rows, and score them on the others.

    A router plays at the willingness to pay at which its own forecasts promise the highest score; what
    came of the held rows is not looked at for that. Of the platform's other metrics, those against the
    optimum and those of robustness are not computed.

    Parameters
    ----------
    scene : Scene
    specs : sequence of str
        As `teach`.
    seeds, labels, progress
        As `teach`.
    """
    table = scene.table
    check_table(table, "routerarena", costs=True)
    splits = [split(scene, seed, labels) for seed in range(seeds)]
    best = oracle(table, 0.0)
    points: dict[str, list[Array]] = {}
    for _, held in splits:
        for k, name in enumerate(table.names):
            points.setdefault(name, []).append(_point(table, held, np.full(len(held), k)))
        points.setdefault("random", []).append(_random(table, held))
    for taught in teach(scene, specs, seeds=seeds, labels=labels, progress=progress):
        points.setdefault(taught.spec, []).append(_point(table, taught.held, wisest(taught, table)))
    points["oracle"] = [_point(table, held, best[held]) for _, held in splits]
    return Result(
        protocol="routerarena",
        table=table,
        facts={"seeds": seeds, "labels": len(splits[0][0]), "held": len(splits[0][1])},
        lines=tuple(line(router, [_numbers(p) for p in found]) for router, found in points.items()),
    )


def wisest(taught: Taught, table: Table) -> Rows:
    """Return the choices at the willingness to pay that the router's own forecasts score highest."""
    choices = willing_choices(taught.quality, taught.cost_usd, willingness_grid(table.cost_unit_usd))
    promised = mean_points(choices, np.clip(taught.quality, 0.0, 1.0), taught.cost_usd)
    scores = [_score(point) for point in promised]
    chosen: Rows = choices[int(np.argmax(scores))]
    return chosen


def _numbers(point: Array) -> dict[str, float]:
    cost, quality = point.tolist()
    return {"score": _score(point), "accuracy": quality, "cost_usd": cost}


def _score(point: Array) -> float:
    cost, quality = point.tolist()
    return arena_score(quality, 1000.0 * cost)


def _point(table: Table, held: Rows, chosen: Rows) -> Array:
    point: Array = mean_points(chosen[None, :], table.quality[held], table.cost_usd[held])[0]
    return point


def _random(table: Table, held: Rows) -> Array:
    return np.array([table.cost_usd[held].mean(), table.quality[held].mean()])
