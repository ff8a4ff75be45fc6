"""Runs as tables and pages: for the terminal, for people, for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table as TerminalTable
from rich.text import Text

from bandit_router import __version__
from simulations.metrics import hull, hull_value, mean_interval
from simulations.runs import Run, document, summary
from simulations.streams import Phase
from simulations.tables import Table

Interval = tuple[float, float, float]

TEMPLATE = "report.html"
STATIC = ("fixed", "best-fixed", "zero", "uniform", "oracle")  # policies that do not learn
PHASE_COLUMNS: dict[str, Literal["left", "right"]] = {
    "rounds": "left",
    "phase": "left",
    "policy": "left",
    "reward": "right",
    "quality": "right",
    "$/1000": "right",
    "regret": "right",
    "models": "left",
}
SHOWN_MODELS = 7  # that get a colour of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one policy came to over all its seeds: each number as (mean, low, high), 95 %.

    Attributes
    ----------
    above_zero : tuple of float, optional
        Quality above the zero router at the same mean cost; None without costs.
    share : dict of str to float
        Mean part of the rounds of each model.
    """

    policy: str
    price_weight: float
    budget_usd: float | None
    seeds: int
    reward: Interval
    last_third: Interval
    quality: Interval
    cost_usd: Interval
    total_cost_usd: Interval
    regret_vs_best_fixed: Interval
    regret_vs_oracle: Interval
    above_zero: Interval | None
    share: dict[str, float]


def lines(table: Table, runs: Sequence[Run]) -> list[Line]:
    """Return one line per policy, price weight and budget, in the order in which they came."""
    return [_line(table, group) for group in _groups(runs).values()]


def terminal_table(table: Table, runs: Sequence[Run]) -> TerminalTable:
    """Return the results as a rich table, one line per policy, price weight and budget."""
    result = TerminalTable(title=_caption(table, runs), title_justify="left", box=None, pad_edge=False)
    result.add_column("policy")
    for heading in ("price", "budget $/1000", "reward", "last third", "quality", "$/1000", "regret"):
        result.add_column(heading, justify="right")
    result.add_column("models")
    for line in lines(table, runs):
        result.add_row(*(Text(cell) for cell in _cells(line)))
    return result


def phases_table(table: Table, runs: Sequence[Run]) -> TerminalTable | None:
    """Return a line per policy and phase or mark of a world that changes; None where it does not."""
    streams = [run.stream for run in runs if run.stream is not None]
    if not streams:
        return None
    result = TerminalTable(title="phases", title_justify="left", box=None, pad_edge=False)
    for heading, justify in PHASE_COLUMNS.items():
        result.add_column(heading, justify=justify)
    phases = [*enumerate(streams[0].phases), *enumerate(streams[0].marks)]
    for at, phase in phases:
        for (weight, _, policy), group in _groups(runs).items():
            which = "phases" if phase in streams[0].phases else "marks"
            rows = [summary(run, table)[which][at] for run in group]
            name = f"{policy} at price {weight:g}" if weight else policy
            result.add_row(*(Text(cell) for cell in _phase_cells(name, phase, rows)))
    return result


def _phase_cells(policy: str, phase: Phase, rows: Sequence[dict[str, Any]]) -> list[str]:  # Any: numbers
    """A line of the table of phases."""
    share = {m: float(np.mean([row["share"][m] for row in rows])) for m in rows[0]["share"]}

    def interval(name: str) -> Interval:
        return mean_interval([row[name] for row in rows])

    return [
        f"{phase.start}-{phase.end - 1}",
        phase.name,
        policy,
        with_half(interval("mean_reward"), 4),
        f"{interval('mean_quality')[0]:.4f}",
        f"{1000 * interval('mean_cost_usd')[0]:.4g}",
        with_half(interval("regret_vs_best_fixed"), 1),
        top_shares(share),
    ]


def write_json(path: str | Path, table: Table, runs: Sequence[Run]) -> None:
    """Write what ``simulate --json`` promises (`document`).

    Raises
    ------
    OSError
        The file cannot be written.
    """
    text = json.dumps(document(table, runs), indent=1, allow_nan=False, ensure_ascii=False)
    Path(path).write_text(text + "\n", "utf-8")


def write_html(path: str | Path, table: Table, runs: Sequence[Run]) -> None:
    """Write one page that needs nothing else: what was run, pictures, all numbers.

    Raises
    ------
    OSError
        The file cannot be written.
    ImportError
        matplotlib or jinja2 is not installed.
    """
    write_page(path, lambda: _page(table, runs))


def write_page(path: str | Path, page: Callable[[], str]) -> None:
    """Write a page that is made with matplotlib and jinja2, or say how to get them."""
    try:
        text = page()
    except ImportError as error:
        raise ImportError(
            f"reports need the extra: pip install 'bandit-router[simulate]' ({error})"
        ) from error
    Path(path).write_text(text, "utf-8")


def _groups(runs: Sequence[Run]) -> dict[tuple[float, float | None, str], list[Run]]:
    """Runs that differ in their seeds only."""
    groups: dict[tuple[float, float | None, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.price_weight, run.budget_usd, run.policy), []).append(run)
    return groups


def _line(table: Table, runs: Sequence[Run]) -> Line:
    rows = [summary(run, table) for run in runs]

    def interval(name: str) -> Interval:
        return mean_interval([row[name] for row in rows])

    first = runs[0]
    return Line(
        policy=first.policy,
        price_weight=first.price_weight,
        budget_usd=first.budget_usd,
        seeds=len(runs),
        reward=interval("mean_reward"),
        last_third=interval("mean_reward_last_third"),
        quality=interval("mean_quality"),
        cost_usd=interval("mean_cost_usd"),
        total_cost_usd=interval("total_cost_usd"),
        regret_vs_best_fixed=interval("regret_vs_best_fixed"),
        regret_vs_oracle=interval("regret_vs_oracle"),
        above_zero=mean_interval([_above_zero(table, run) for run in runs]) if table.has_cost else None,
        share={model: float(np.mean([row["share"][model] for row in rows])) for model in first.models},
    )


def _above_zero(table: Table, run: Run) -> float:
    """Quality above what mixing single models reaches for the same money, on the run's own rows."""
    above = [_phase_above_zero(table, run, phase) * (phase.end - phase.start) for phase in run.phases]
    return sum(above) / len(run.chosen)


def _phase_above_zero(table: Table, run: Run, phase: Phase) -> float:
    rows = run.order[phase.rounds]
    cost = run.table(table).cost_usd[rows].mean(axis=0)
    quality = run.table(table).quality[rows].mean(axis=0)
    if run.stream is not None:
        there = run.stream.available[phase.rounds].all(axis=0)
        cost, quality = cost[there], quality[there]
    spent = max(float(run.cost_usd[phase.rounds].mean()), float(cost.min()))
    return float(run.quality[phase.rounds].mean() - hull_value(hull(cost, quality), spent))


def _cells(line: Line) -> list[str]:
    """A line of the terminal table."""
    return [
        line.policy,
        f"{line.price_weight:g}",
        "-" if line.budget_usd is None else f"{1000 * line.budget_usd:.4g}",
        with_half(line.reward, 4),
        f"{line.last_third[0]:.4f}",
        f"{line.quality[0]:.4f}",
        f"{1000 * line.cost_usd[0]:.4g}",
        with_half(line.regret_vs_best_fixed, 1),
        top_shares(line.share),
    ]


def with_half(interval: Interval, digits: int) -> str:
    """Return a mean and half the width of its interval.

    Examples
    --------
    >>> with_half((0.5, 0.4, 0.6), 2), with_half((0.5, math.nan, math.nan), 2)
    ('0.50 ±0.10', '0.50')
    """
    mean, low, _ = interval
    return _fixed(mean, digits) + ("" if math.isnan(low) else f" ±{_fixed(mean - low, digits)}")


def _fixed(number: float, digits: int) -> str:
    return f"{number:z.{digits}f}"  # z: never -0.0


def top_shares(share: dict[str, float], limit: int = 3) -> str:
    """Return the models that served most, and how much.

    Examples
    --------
    >>> top_shares({"small": 0.25, "large": 0.75, "other": 0.0})
    'large 75%, small 25%'
    """
    top = sorted(share.items(), key=lambda item: -item[1])[:limit]
    return ", ".join(f"{model} {part:.0%}" for model, part in top if part >= 0.005)


def _caption(table: Table, runs: Sequence[Run]) -> str:
    seeds = len({run.seed for run in runs})
    dropped = f", {table.dropped} rows dropped" if table.dropped else ""
    rounds = max((len(run.chosen) for run in runs), default=0)
    orders = f"{seeds} orders, 95 % intervals over them" if seeds > 1 else "1 order"
    rows = f"{len(table)} rows{dropped}, {rounds} rounds each"
    return f"{table.name}: {rows}, {len(table.models)} models, {orders}; regret against the best fixed model"


def _page(table: Table, runs: Sequence[Run]) -> str:
    return rendered(
        TEMPLATE,
        table=table,
        seeds=sorted({run.seed for run in runs}),
        rounds=max(len(run.chosen) for run in runs),
        caption=_caption(table, runs),
        sections=_sections(table, runs),
        phases=_changes(runs),
    )


def rendered(template: str, **shown: Any) -> str:  # Any: what the template shows
    """Return one page that needs nothing else, of a template beside ``page.html``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["top"] = top_shares
    environment.globals["fixed"] = _fixed
    return environment.get_template(template).render(version=__version__, **shown)


def _changes(runs: Sequence[Run]) -> tuple[Phase, ...]:
    """The phases of the longest run in a world that changes."""
    changing = [run for run in runs if run.stream is not None]
    return max((run.phases for run in changing), key=len, default=())


def _sections(table: Table, runs: Sequence[Run]) -> list[dict[str, Any]]:  # Any: what the template shows
    weights = dict.fromkeys(run.price_weight for run in runs)
    return [
        {
            "price_weight": weight,
            "best": _best_single(table, weight),
            "blocks": _blocks(table, runs, weight),
        }
        for weight in weights
    ]


def _best_single(table: Table, price_weight: float) -> dict[str, Any]:  # Any: what the template shows
    mean = table.reward(price_weight).mean(axis=0)
    return {"model": table.names[int(mean.argmax())], "reward": float(mean.max())}


def _blocks(
    table: Table, runs: Sequence[Run], price_weight: float
) -> list[dict[str, Any]]:  # Any: as above
    mine = [run for run in runs if run.price_weight == price_weight]
    budgets = dict.fromkeys(run.budget_usd for run in mine)
    return [_block(table, [run for run in mine if run.budget_usd == b], b) for b in budgets]


def _block(
    table: Table, runs: Sequence[Run], budget_usd: float | None
) -> dict[str, Any]:  # Any: as above
    from markupsafe import Markup

    from simulations import pictures

    groups = {policy: group for (_, _, policy), group in _groups(runs).items()}
    learning = {p: g for p, g in groups.items() if p.split(":")[0] not in STATIC}
    shown = _shown_models(table, list(learning.values()))
    standing = all(run.stream is None for run in runs)
    plane = pictures.plane_picture(groups, table, budget_usd) if standing and table.has_cost else ""
    shares = pictures.share_picture(learning, shown) if learning else ""
    return {
        "budget_usd": budget_usd,
        "lines": lines(table, runs),
        "policies": [(p, pictures.colour(at), pictures.dash(at)) for at, p in enumerate(groups)],
        "models": [(model, pictures.colour(at)) for at, model in enumerate(shown)],
        "rest": len(table.models) - len(shown),
        # Markup: matplotlib has escaped the texts in its pictures.
        "reward": Markup(pictures.reward_picture(groups)),
        "regret": Markup(pictures.regret_picture(groups, table)),
        "plane": Markup(plane),
        "shares": Markup(shares),
    }


def _shown_models(table: Table, groups: Sequence[Sequence[Run]]) -> list[str]:
    """The models that served most, in the table's order."""
    total = dict.fromkeys(table.names, 0.0)
    for group in groups:
        for run in group:
            for model, part in run.share.items():
                total[model] += part
    top = sorted(total, key=lambda model: -total[model])[:SHOWN_MODELS]
    return [model for model in table.names if model in top]
