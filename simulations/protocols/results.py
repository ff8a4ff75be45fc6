"""What a protocol found: a line of numbers per router, each with an interval; as JSON and for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as TerminalTable
from rich.text import Text

from bandit_router.errors import TableError
from bandit_router.values import Array
from simulations.metrics import mean_interval
from simulations.report import Interval, with_half
from simulations.tables import Table

DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One router's numbers, each as (mean, low, high), 95 %; NaN bounds where nothing says how sure it is."""

    router: str
    numbers: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What a protocol found on a table.

    Attributes
    ----------
    protocol : str
    table : Table
    facts : mapping
        What holds for all lines, as plain JSON: seeds, rows, which models.
    lines : tuple of Line
    curves : mapping of str to ndarray of shape (m, 2)
        By router, the means over seeds: (cost, quality), or (share of strong calls, gap recovered).
    """

    protocol: str
    table: Table
    facts: Mapping[str, Any]  # Any: JSON
    lines: tuple[Line, ...]
    curves: Mapping[str, Array] = field(default_factory=dict)


def line(router: str, seeds: Sequence[Mapping[str, float]]) -> Line:
    """Return a line of numbers that came once a seed.

    Examples
    --------
    >>> line("knn", [{"apgr": 0.5}, {"apgr": 0.5}]).numbers
    {'apgr': (0.5, 0.5, 0.5)}
    """
    return Line(
        router=router,
        numbers={name: mean_interval([numbers[name] for numbers in seeds]) for name in seeds[0]},
    )


def check_table(table: Table, protocol: str, *, costs: bool) -> None:
    """Refuse a table that a protocol cannot be played on.

    Raises
    ------
    TableError
        It has a single model, or no costs where they are needed.
    """
    if len(table.models) < 2:
        raise TableError(
            f"{table.name}: {protocol} needs at least two models, got {table.names[0]!r} only"
        )
    if costs and not table.has_cost:
        raise TableError(
            f"{table.name}: {protocol} needs the costs of all its models: columns 'cost_usd__<model>', "
            "or tokens and the prices in models.json"
        )


def document(result: Result) -> dict[str, Any]:
    """Return what ``evaluate --json`` writes: protocol, table, facts, a row per router, curves."""
    return {
        "protocol": result.protocol,
        "table": result.table.name,
        "pool": result.table.pool,
        "table_rows": len(result.table),
        "dropped": result.table.dropped,
        "models": list(result.table.names),
        **result.facts,
        "rows": [
            {"router": line.router, **{name: plain(value) for name, value in line.numbers.items()}}
            for line in result.lines
        ],
        "curves": {router: points.tolist() for router, points in result.curves.items()},
    }


def plain(interval: Interval) -> dict[str, float | None]:
    """Return a mean and its bounds as JSON; what is not finite is None."""
    names = ("mean", "low", "high")
    return {n: v if math.isfinite(v) else None for n, v in zip(names, interval, strict=True)}


def write_json(path: Path, found: Mapping[str, Any]) -> None:
    """Write plain JSON.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    path.write_text(json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")


def terminal_table(result: Result) -> TerminalTable:
    """Return the numbers as a rich table, a line per router."""
    shown = TerminalTable(title=_caption(result), title_justify="left", box=None, pad_edge=False)
    names = list(dict.fromkeys(name for line in result.lines for name in line.numbers))
    shown.add_column("router")
    for name in names:
        shown.add_column(_heading(name), justify="right")
    for row in result.lines:
        shown.add_row(Text(row.router), *(Text(_cell(name, row.numbers.get(name))) for name in names))
    return shown


def _heading(name: str) -> str:
    return name.replace("cost_usd", "$/1000").replace("_", " ")


def _cell(name: str, interval: Interval | None) -> str:
    if interval is None or math.isnan(interval[0]):
        return "-"
    if name == "cost_usd":
        return f"{1000 * interval[0]:.4g}"
    return with_half(interval, DIGITS)


def _caption(result: Result) -> str:
    facts = ", ".join(f"{name.replace('_', ' ')} {_said(value)}" for name, value in result.facts.items())
    return f"{result.table.name}: {result.protocol}; {len(result.table)} rows; {facts}"


def _said(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def mean_curve(curves: Sequence[Array]) -> Array:
    """Return the mean over seeds of curves with as many points each, of shape (m, 2)."""
    mean: Array = np.mean(curves, axis=0)
    return mean
