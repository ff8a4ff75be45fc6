"""RouterBench's protocol: cost-quality curves of routers against the zero router, the oracle and a cascade."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bandit_router.values import Array
from simulations.metrics import aiq, hull
from simulations.protocols.results import Line, Result, check_table, line, mean_curve
from simulations.protocols.routes import cascade, mean_points, willing_choices, willingness_grid
from simulations.protocols.teaching import Taught, split, teach
from simulations.replay import Rows, Scene
from simulations.runs import oracle
from simulations.simulate import Progress
from simulations.tables import Table

ERRORS = (0.0, 0.1, 0.2, 0.4)  # how often the cascade's judge is wrong
ENOUGH = 0.95  # quantile of the qualities that the cascade's judge asks for, as in the authors' program
CAPS = 20


def routerbench(
    scene: Scene,
    specs: Sequence[str],
    *,
    seeds: int,
    labels: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Let routers learn from some rows, and trace what they reach on the others at every willingness to pay.

    Every line is measured on the same held rows, seed by seed. AIQ goes from a router's cheapest point
    to the mean cost of the dearest model, in both readings.

    Parameters
    ----------
    scene : Scene
    specs : sequence of str
        As `teach`.
    seeds, labels, progress
        As `teach`.

    References
    ----------
    Hu et al. (2024), RouterBench: A Benchmark for Multi-LLM Routing System.
    """
    table = scene.table
    check_table(table, "routerbench", costs=True)
    splits = [split(scene, seed, labels) for seed in range(seeds)]
    curves = {"zero": [_singles(table, held) for _, held in splits]}
    for error in ERRORS:
        name = f"cascade, judge errs {error:.0%}"
        curves[name] = [_cascade(table, seen, held, error) for seen, held in splits]
    for taught in teach(scene, specs, seeds=seeds, labels=labels, progress=progress):
        curves.setdefault(taught.spec, []).append(_swept(table, taught))
    numbers = {router: list(_numbers(found, curves["zero"])) for router, found in curves.items()}
    return Result(
        protocol="routerbench",
        table=table,
        facts={"seeds": seeds, "labels": len(splits[0][0]), "held": len(splits[0][1])},
        lines=(
            *_fixed_lines(table, [held for _, held in splits]),
            *(line(router, found) for router, found in numbers.items()),
        ),
        curves={router: mean_curve(found) for router, found in curves.items()},
    )


def _numbers(curves: Sequence[Array], zero: Sequence[Array]) -> Iterator[dict[str, float]]:
    """The numbers of a router, a seed at a time; the zero router's points are the single models'."""
    for points, singles in zip(curves, zero, strict=True):
        c_max = float(singles[:, 0].max())
        best = hull(points[:, 0], points[:, 1])[-1]
        yield {
            "quality": float(best[1]),
            "cost_usd": float(best[0]),
            "aiq_paper": _aiq(points, c_max),
            "aiq_code": aiq(points[:, 0], points[:, 1], c_max=c_max, reading="code"),
            "above_zero": _aiq(points, c_max) - _aiq(singles, c_max),
        }


def _aiq(points: Array, c_max: float) -> float:
    return aiq(points[:, 0], points[:, 1], c_max=max(c_max, float(points[:, 0].min())))


def _fixed_lines(table: Table, helds: Sequence[Rows]) -> Iterator[Line]:
    """Lines of what has one point: each model, and the oracle."""
    best = oracle(table, 0.0)
    for k, name in enumerate(table.names):
        yield line(name, [_point(table, held, np.full(len(held), k)) for held in helds])
    yield line("oracle", [_point(table, held, best[held]) for held in helds])


def _point(table: Table, held: Rows, chosen: Rows) -> dict[str, float]:
    cost, quality = mean_points(chosen[None, :], table.quality[held], table.cost_usd[held])[0]
    return {"quality": float(quality), "cost_usd": float(cost)}


def _singles(table: Table, held: Rows) -> Array:
    return np.column_stack([table.cost_usd[held].mean(axis=0), table.quality[held].mean(axis=0)])


def _swept(table: Table, taught: Taught) -> Array:
    grid = willingness_grid(table.cost_unit_usd)
    choices = willing_choices(taught.quality, taught.cost_usd, grid)
    return mean_points(choices, table.quality[taught.held], table.cost_usd[taught.held])


def _cascade(table: Table, seen: Rows, held: Rows, error: float) -> Array:
    """A cascade from the cheapest model to the dearest, as they were on the rows seen, at rising caps."""
    by_cost = np.argsort(table.cost_usd[seen].mean(axis=0))
    enough = float(np.quantile(table.quality[seen], ENOUGH))
    quality, cost = table.quality[held][:, by_cost], table.cost_usd[held][:, by_cost]
    points = [
        cascade(quality, cost, threshold=enough, error=error, cap_usd=cap)
        for cap in _caps(table.cost_usd[seen].sum(axis=1))
    ]
    return np.array(points)


def _caps(most: Array) -> Array:
    top = max(float(most.max()), np.finfo(np.float64).tiny)
    return np.array([0.0, *np.geomspace(top / 1e5, top, CAPS), np.inf])
