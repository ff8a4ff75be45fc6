"""RouteLLM's protocol: a weak and a strong model, and what a router recovers of the gap between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_router.errors import SettingsError
from bandit_router.values import Array
from simulations.catalogue import check_models
from simulations.protocols.pairs import ShareCurve, apgr, cpt, share_curve
from simulations.protocols.results import Line, Result, check_table, line, mean_curve
from simulations.protocols.teaching import Taught, split, teach
from simulations.replay import Rows, Scene
from simulations.simulate import Progress
from simulations.tables import Table

RANDOM = "random"
TARGETS = (0.2, 0.5, 0.8)  # of CPT


def pair_of(table: Table, weak: str | None = None, strong: str | None = None) -> Table:
    """Return the table of a weak and a strong model, in this order.

    Parameters
    ----------
    table : Table
    weak : str, optional
        By default the cheapest of the others, or where costs are not known the worst.
    strong : str, optional
        By default the best, ties to the cheapest.

    Raises
    ------
    TableError
        No such model, or the table has a single one.
    SettingsError
        The strong model is not better than the weak one.
    """
    check_table(table, "routellm", costs=False)
    check_models([name for name in (weak, strong) if name is not None] or table.names, table.names)
    quality, cost = table.quality.mean(axis=0), table.cost_usd.mean(axis=0)
    if strong is None:
        others = [k for k, name in enumerate(table.names) if name != weak]
        strong = table.names[min(others, key=lambda k: (-quality[k], cost[k]))]
    if weak is None:
        others = [k for k, name in enumerate(table.names) if name != strong]
        weak = table.names[min(others, key=lambda k: (cost[k], quality[k]))]
    pair = table.with_pool([weak, strong])
    _check_gap(pair)
    return pair


def _check_gap(pair: Table) -> None:
    weak, strong = pair.quality.mean(axis=0)
    if not strong > weak:
        raise SettingsError(
            f"--strong {pair.names[1]} with {strong:.4f} is not better than --weak {pair.names[0]} "
            f"with {weak:.4f}: there is no gap to recover"
        )


def routellm(
    scene: Scene,
    specs: Sequence[str],
    *,
    seeds: int,
    labels: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Let routers of a pair learn from some rows, and see what they recover on the others.

    A router's score of a prompt is the quality it foretells of the strong model less that of the weak
    one. ``random`` scores by chance, ``oracle`` by what came of both.

    Parameters
    ----------
    scene : Scene
        Of the table of `pair_of`.
    specs : sequence of str
        As `teach`; or "random".
    seeds, labels, progress
        As `teach`.
    """
    table = scene.table
    curves = {RANDOM: [_random(scene, seed, labels) for seed in range(seeds)]}
    for taught in teach(
        scene, [spec for spec in specs if spec != RANDOM], seeds=seeds, labels=labels, progress=progress
    ):
        curves.setdefault(taught.spec, []).append(_curve(table, taught.held, _score(taught)))
    curves["oracle"] = [_oracle(scene, seed, labels) for seed in range(seeds)]
    seen, held = split(scene, 0, labels)
    weak, strong = table.quality.mean(axis=0).tolist()
    return Result(
        protocol="routellm",
        table=table,
        facts={
            "weak": table.names[0],
            "strong": table.names[1],
            "weak_quality": weak,
            "strong_quality": strong,
            "seeds": seeds,
            "labels": len(seen),
            "held": len(held),
        },
        lines=tuple(_line(router, found) for router, found in curves.items()),
        curves={
            router: mean_curve([np.column_stack([c.share, c.recovered]) for c in found])
            for router, found in curves.items()
        },
    )


def _line(router: str, curves: Sequence[ShareCurve]) -> Line:
    numbers = [
        {"apgr": apgr(c)} | {f"cpt_{100 * target:.0f}": cpt(c, target) for target in TARGETS}
        for c in curves
    ]
    return line(router, numbers)


def _score(taught: Taught) -> Array:
    score: Array = taught.quality[:, 1] - taught.quality[:, 0]
    return score


def _curve(table: Table, held: Rows, score: Array) -> ShareCurve:
    return share_curve(score, table.quality[held, 0], table.quality[held, 1])


def _random(scene: Scene, seed: int, labels: int | None) -> ShareCurve:
    _, held = split(scene, seed, labels)
    return _curve(scene.table, held, np.random.default_rng((seed, 1)).random(len(held)))


def _oracle(scene: Scene, seed: int, labels: int | None) -> ShareCurve:
    _, held = split(scene, seed, labels)
    return _curve(scene.table, held, scene.table.quality[held, 1] - scene.table.quality[held, 0])
