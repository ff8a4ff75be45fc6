"""Comparisons for the terminal, for machines, and as one picture."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table as TerminalTable
from rich.text import Text

from bandit_router import __version__
from bandit_router.errors import SettingsError
from bandit_router.features import HashedFeatures
from simulations.compare.comparison import Comparison, Interval, Life, Standing
from simulations.compare.environments import ANSWERING
from simulations.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERDICTS = ("below", "-", "above")
COLOURS = {"below": "#0072b2", "above": "#d55e00", "-": "#9a9a9a"}  # as pictures.py, apart for all eyes


def terminal_table(comparisons: Sequence[Comparison]) -> TerminalTable:
    """Return one line per table, price weight and policy."""
    orders = max((s.orders for c in comparisons for s in c.standings()), default=0)
    title = f"{orders} orders; differences to the first policy paired by order, 95 % intervals"
    result = TerminalTable(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("table", "price", "policy"):
        result.add_column(heading)
    for heading in ("reward", "last third", "less ours", "last third less ours", "ours is"):
        result.add_column(heading, justify="right")
    for comparison in comparisons:
        for standing in comparison.standings():
            cells = (comparison.table, f"{standing.price_weight:g}", *_cells(standing))
            result.add_row(*(Text(cell) for cell in cells))
    return result


def tally(comparisons: Sequence[Comparison]) -> dict[str, Counter[str]]:
    """Count each policy's verdicts over tables and price weights: "below" ours, "above", "-" for open."""
    counts: dict[str, Counter[str]] = {}
    for standing in (standing for comparison in comparisons for standing in comparison.standings()):
        counts.setdefault(standing.policy, Counter())[standing.verdict] += 1
    return counts


def tally_table(comparisons: Sequence[Comparison]) -> TerminalTable:
    """Return how often ours is better, worse, or neither can be said, one line per policy."""
    result = TerminalTable("policy", "ours is better", "open", "worse", box=None, pad_edge=False)
    for policy, count in tally(comparisons).items():
        result.add_row(Text(policy), *(str(count[verdict]) for verdict in VERDICTS))
    return result


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Return the same tables for a page in Markdown."""
    lines = ["| policy | ours is better | open | worse |", "|---|---|---|---|"]
    for policy, count in tally(comparisons).items():
        lines.append(f"| `{policy}` | {' | '.join(str(count[verdict]) for verdict in VERDICTS)} |")
    lines += [
        "",
        "| table | price | policy | orders | reward | last third | less ours | last third less ours | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for comparison in comparisons:
        for standing in comparison.standings():
            policy, *cells = _cells(standing)
            head = (comparison.table, f"{standing.price_weight:g}", f"`{policy}`", str(standing.orders))
            lines.append(f"| {' | '.join((*head, *cells))} |")
    return "\n".join(lines) + "\n"


def write_json(path: Path, comparisons: Mapping[str, Comparison]) -> None:
    """Write all numbers of all tables, also order by order; what is not finite is null.

    Parameters
    ----------
    path : Path
    comparisons : mapping of str to Comparison
        By `mark` of their tables.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    tables = [_plain(comparison, mark) for mark, comparison in comparisons.items()]
    document = {"bandit_router": __version__, "tables": tables}
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")


def read_json(path: Path) -> dict[str, Comparison]:
    """Return what `write_json` wrote, by mark; nothing if there is no such file.

    Raises
    ------
    SettingsError
        The file holds something else.
    """
    if not path.exists():
        return {}
    try:
        return {
            said["mark"]: Comparison(
                table=said["table"],
                pool=said["pool"],
                lives=tuple(Life(**life) for life in said["lives"]),
                versions=said["peers"],
                missing=said["missing"],
            )
            for said in json.loads(path.read_text("utf-8"))["tables"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path}: expected results of compare: {error!r}") from error


def mark(table: Table, rows: int | None) -> str:
    """Return what must stay the same for a peer's life to be worth keeping.

    The rows, models and outcomes of the table, the features, the rounds, and the program that plays peers.
    """
    told = [repr((table.names, table.prompts, rows, HashedFeatures().version)).encode()]
    told += [table.quality.tobytes(), table.cost_usd.tobytes(), ANSWERING.read_bytes()]
    return f"{zlib.crc32(b''.join(told)):08x}"


def write_picture(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Draw how far each policy is from ours: a column per table, a row per price weight.

    Parameters
    ----------
    path : Path
        Its ending says the format: png, svg, pdf.
    comparisons : sequence of Comparison

    Raises
    ------
    ImportError
        matplotlib is not installed.
    OSError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    weights = sorted({life.price_weight for c in comparisons for life in c.lives})
    policies = max(len(_of(c, w)) for c in comparisons for w in weights)
    size = (2.2 + 2.4 * len(comparisons), 0.6 + len(weights) * (0.8 + 0.2 * policies))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(weights), len(comparisons), squeeze=False, sharey="row")
    for weight, line in zip(weights, grid, strict=True):
        for comparison, axes in zip(comparisons, line, strict=True):
            _draw(axes, _of(comparison, weight))
            axes.set_title(f"{comparison.table}, price {weight:g}", fontsize=9, loc="left")
    figure.supxlabel("mean reward less ours, 95 % interval paired by order", fontsize=9)
    figure.savefig(path, dpi=130)


def _draw(axes: Axes, standings: Sequence[Standing]) -> None:
    axes.axvline(0.0, color="#333333", linewidth=1)
    for at, standing in enumerate(standings):
        mean, low, high = standing.ahead
        colour = COLOURS[standing.verdict]
        if not math.isnan(low):
            axes.plot([low, high], [at, at], color=colour, linewidth=1.5)
        axes.plot([mean], [at], "o", color=colour, markersize=4)
    axes.set_yticks(range(len(standings)), [standing.policy for standing in standings], fontsize=8)
    axes.set_ylim(len(standings) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=7)


def _of(comparison: Comparison, weight: float) -> list[Standing]:
    return [standing for standing in comparison.standings() if standing.price_weight == weight]


def _cells(standing: Standing) -> list[str]:
    ours = {"below": "better", "above": "worse", "-": "-"}[standing.verdict]
    return [
        standing.policy,
        f"{standing.reward[0]:.4f}",
        f"{standing.last_third[0]:.4f}",
        _signed(standing.ahead),
        _signed(standing.ahead_last),
        ours,
    ]


def _signed(interval: Interval) -> str:
    """A difference and half the width of its interval."""
    mean, low, _ = interval
    return f"{mean:+.4f}" + ("" if math.isnan(low) else f" ±{mean - low:.4f}")


def _plain(comparison: Comparison, mark: str) -> dict[str, Any]:  # Any: JSON
    return {
        "table": comparison.table,
        "pool": comparison.pool,
        "mark": mark,
        "peers": dict(comparison.versions),
        "missing": dict(comparison.missing),
        "rows": [_row(standing) for standing in comparison.standings()],
        "lives": [asdict(life) for life in comparison.lives],
    }


def _row(standing: Standing) -> dict[str, Any]:  # Any: JSON
    values = {each.name: getattr(standing, each.name) for each in fields(standing)}
    finite = {
        name: [number if math.isfinite(number) else None for number in value]
        for name, value in values.items()
        if isinstance(value, tuple)
    }
    return {**values, **finite, "verdict": standing.verdict}
