"""A router calibrated on what it foretells, of a table or of its log; and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import SettingsError
from bandit_router.values import Array
from simulations.catalogue import check_models
from simulations.metrics import mean_interval
from simulations.protocols.calibrating import Calibration, Target, worth
from simulations.protocols.results import plain
from simulations.protocols.teaching import teach
from simulations.replay import Rows, Scene
from simulations.report import Interval
from simulations.rounds import Rounds
from simulations.simulate import Progress
from simulations.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What a calibration found, and what came of it where that is known.

    Attributes
    ----------
    weak, strong : str
    asked : dict of str to float
        ``share`` or ``quality_drop``.
    price_weight, score, share, drop : tuple of float
        As `Calibration`: the mean over orders and its 95 % interval; of a log there is one order.
    cost_unit_usd : float
        The dollars that the price weight is per [USD].
    requests : int
        Those calibrated on, per order.
    tried : dict of str to Interval
        On rows that were neither learnt from nor calibrated on: ``share``, ``drop``, and ``saved``, the
        part of the strong model's cost that is not spent.
    """

    weak: str
    strong: str
    asked: dict[str, float]
    price_weight: Interval
    score: Interval
    share: Interval
    drop: Interval
    cost_unit_usd: float
    requests: int
    tried: dict[str, Interval] = field(default_factory=dict)


def calibrate_on_table(
    scene: Scene,
    spec: str,
    target: Target,
    *,
    seeds: int,
    labels: int | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Teach a router of a pair, calibrate it on half of the rows held back, and try it on the other half.

    Parameters
    ----------
    scene : Scene
        Of the table of a pair, the weak model first.
    spec : str
        Whose forecasts.
    target : Target
    seeds, labels, progress
        As `teach`.
    """
    found, tried = [], []
    for taught in teach(scene, [spec], seeds=seeds, labels=labels, progress=progress):
        half = len(taught.held) // 2
        if not half:
            raise SettingsError(
                f"{scene.table.name}: one row held back is too few to calibrate and to try"
            )
        unit = scene.table.cost_unit_usd
        found.append(target.of(taught.quality[:half], taught.cost_usd[:half], cost_unit_usd=unit))
        limit = worth(taught.quality[half:], taught.cost_usd[half:], cost_unit_usd=unit)
        tried.append(_tried(scene.table, taught.held[half:], limit > found[-1].price_weight))
    return _calibrated(scene.table.names, target, found, scene.table.cost_unit_usd, half, tried)


def _tried(table: Table, rows: Rows, strong: NDArray[np.bool_]) -> dict[str, float]:
    """What came of asking the strong model for some of the rows."""
    k = strong.astype(np.intp)
    paid, whole = table.cost_usd[rows, k].sum(), table.cost_usd[rows, 1].sum()
    lost = table.quality[rows, 1] - table.quality[rows, k]
    return {
        "share": float(strong.mean()),
        "drop": float(lost.mean()),
        "saved": float(1.0 - paid / whole) if whole > 0 else 0.0,
    }


def calibrate_on_log(
    rounds: Rounds,
    target: Target,
    *,
    weak: str | None = None,
    strong: str | None = None,
    cost_unit_usd: float | None = None,
) -> Calibrated:
    """Calibrate on what a router promised for the requests of its log.

    A promise is the belief at that time; where models changed since, give a late part of the log only.

    Parameters
    ----------
    rounds : Rounds
    target : Target
    weak, strong : str, optional
        By default the cheapest and the best by the promises.
    cost_unit_usd : float, optional
        The router's [USD]; by default the mean cost of the strong model, to be set with the weight.

    Raises
    ------
    SettingsError
        No such model, a single one, or no request for which both had a promise and a cost.
    """
    names = pair_of_log(rounds, weak, strong)
    at = [rounds.models.index(name) for name in names]
    quality, cost = (np.asarray(v[:, at], dtype=np.float64) for v in (rounds.mean, rounds.cost_usd))
    whole = np.isfinite(quality + cost).all(axis=1)
    if not whole.any():
        raise SettingsError(f"no request has a promise and a cost of both {names[0]} and {names[1]}")
    quality, cost = quality[whole], cost[whole]
    unit = float(cost[:, 1].mean()) if cost_unit_usd is None else cost_unit_usd
    if not unit > 0:
        raise SettingsError(f"{names[1]} costs nothing: no price weight can tell the models apart")
    return _calibrated(names, target, [target.of(quality, cost, cost_unit_usd=unit)], unit, len(quality))


def pair_of_log(rounds: Rounds, weak: str | None, strong: str | None) -> tuple[str, str]:
    """Return a weak and a strong model of a log: by default the cheapest and the best by the promises."""
    check_models([name for name in (weak, strong) if name is not None] or rounds.models, rounds.models)
    if len(rounds.models) < 2:
        raise SettingsError(f"calibrating needs two models, the log has {rounds.models[0]!r} only")
    promised = [
        (_mean(rounds.mean[:, k]), _mean(rounds.cost_usd[:, k])) for k in range(len(rounds.models))
    ]
    places = dict(zip(rounds.models, promised, strict=True))
    if strong is None:
        strong = max((name for name in places if name != weak), key=lambda name: places[name][0])
    if weak is None:
        weak = min((name for name in places if name != strong), key=lambda name: places[name][1])
    return weak, strong


def _mean(values: Array) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else 0.0


def _calibrated(
    names: Sequence[str],
    target: Target,
    found: Sequence[Calibration],
    unit: float,
    requests: int,
    tried: Sequence[dict[str, float]] = (),
) -> Calibrated:
    weak, strong = names
    return Calibrated(
        weak=weak,
        strong=strong,
        asked=target.asked,
        price_weight=mean_interval([c.price_weight for c in found]),
        score=mean_interval([c.score for c in found]),
        share=mean_interval([c.share for c in found]),
        drop=mean_interval([c.drop for c in found]),
        cost_unit_usd=unit,
        requests=requests,
        tried={name: mean_interval([t[name] for t in tried]) for name in (tried[0] if tried else ())},
    )


def document(found: Calibrated) -> dict[str, Any]:
    """Return what ``calibrate --json`` writes: the value, where it goes, and what it comes to."""
    return {
        "weak": found.weak,
        "strong": found.strong,
        "asked": found.asked,
        "price_weight": found.price_weight[0],
        "cost_unit_usd": found.cost_unit_usd,
        "score_threshold": found.score[0],
        "requests": found.requests,
        "settings": settings_of(found),
        "foretold": {
            name: plain(value)
            for name, value in (
                ("price_weight", found.price_weight),
                ("share", found.share),
                ("drop", found.drop),
            )
        },
        "tried": {name: plain(value) for name, value in found.tried.items()},
    }


def settings_of(found: Calibrated) -> dict[str, Any]:
    """Return the entries of the config's table ``settings``."""
    weight = float(f"{found.price_weight[0]:.6g}")
    return {"preference": {"price_weight": weight}, "cost_unit_usd": float(f"{found.cost_unit_usd:.6g}")}
