"""Runs and verdicts as pictures: inline SVG, drawn without pyplot and its global state."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy import stats

from bandit_router.values import Array
from simulations.metrics import cumulative_regret, hull, hull_value, mean_interval
from simulations.runs import Run, best_fixed_rewards
from simulations.tables import Table

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b4a9c", "#8c6d31")
# Okabe and Ito (2008), apart also for the colour-blind; its yellow is too light for a line.
DASHES = ("solid", "dashed", "dotted", "dashdot")
GREY, INK = "#9a9a9a", "#333333"
POINTS = 160  # of a line, enough for the eye
STYLE: dict[Any, Any] = {  # Any: matplotlib spells out all its keys as literals
    "svg.fonttype": "none",
    "svg.hashsalt": "bandit-router",
    "text.parse_math": False,  # a model's name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": "#bbbbbb",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
}


def colour(at: int) -> str:
    """Return the colour of the policy or model at that place in its legend."""
    return COLOURS[at % len(COLOURS)]


def dash(at: int) -> str:
    """Return its line style: another one each time that the colours begin again."""
    return DASHES[at // len(COLOURS) % len(DASHES)]


def reward_picture(groups: Mapping[str, Sequence[Run]]) -> str:
    """Draw the moving mean of the reward over rounds, a line and a 95 % band over seeds per policy.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        Runs by policy, one per seed.
    """
    n = _rounds(groups)
    window = max(1, n // 6)
    with mpl.rc_context(STYLE):
        figure, axes = _figure(6.2, 3.3)
        for at, runs in enumerate(groups.values()):
            _band(axes, np.array([moving_mean(run.reward[:n], window) for run in runs]), at, window)
        _mark_changes(axes, groups, n)
        axes.set(xlabel="round", ylabel=f"reward, mean of {window:,} rounds")
        return _svg(figure, "Reward over rounds, by policy")


def regret_picture(groups: Mapping[str, Sequence[Run]], table: Table) -> str:
    """Draw how far each policy is behind the best fixed model, summed over rounds."""
    n = _rounds(groups)
    with mpl.rc_context(STYLE):
        figure, axes = _figure(6.2, 3.3)
        axes.axhline(0.0, color=GREY, linewidth=1)
        for at, runs in enumerate(groups.values()):
            _band(axes, np.array([_regret(run, table)[:n] for run in runs]), at, 1)
        _mark_changes(axes, groups, n)
        axes.set(xlabel="round", ylabel="regret against best fixed (lower is better)")
        return _svg(figure, "Cumulative regret against the best fixed model, by policy")


def share_picture(groups: Mapping[str, Sequence[Run]], models: Sequence[str]) -> str:
    """Draw which part of the rounds went to each of `models` over time, a small picture per policy.

    Models that are not listed are the grey rest.
    """
    n = _rounds(groups)
    window = max(1, n // 20)
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 0.4 + 1.7 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (policy, runs) in zip(grid.flat, groups.items(), strict=False):
            _shares(axes, runs, models, n, window)
            _mark_changes(axes, groups, n)
            axes.set_title(shorten(policy, 34), fontsize=9.5, color=INK, loc="left")
        for axes in list(grid.flat)[len(groups) :]:
            axes.set_axis_off()
        for axes in list(grid.flat)[len(groups) - columns : len(groups)]:
            axes.tick_params(labelbottom=True)  # also above an empty place
        figure.supxlabel("round", fontsize=9.5, color=INK)
        return _svg(figure, "Share of models over rounds, by policy")


def plane_picture(groups: Mapping[str, Sequence[Run]], table: Table, budget_usd: float | None) -> str:
    """Draw mean cost against mean quality: single models, the zero router's hull, and the policies."""
    cost, quality = 1000 * table.cost_usd.mean(axis=0), table.quality.mean(axis=0)
    corners = hull(cost, quality)
    with mpl.rc_context(STYLE):
        figure, axes = _figure(6.2, 4.0)
        # A mixture is straight only where the axis is: many points between the corners.
        at = np.union1d(np.linspace(corners[0, 0], cost.max(), POINTS), corners[:, 0])
        at = np.union1d(at, np.geomspace(max(corners[0, 0], 1e-9), max(cost.max(), 1e-9), POINTS)[1:-1])
        axes.plot(at, hull_value(corners, at), color=GREY, linewidth=1.2)
        axes.plot(cost, quality, "o", color=GREY, markersize=4.5)
        _name_models(axes, table.names, cost, quality, corners)
        for place, runs in enumerate(groups.values()):
            _cross(axes, runs, place)
        if budget_usd is not None:
            axes.axvline(1000 * budget_usd, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        if cost.min() > 0 and cost.max() > 20 * cost.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.12)
        axes.set(xlabel="mean cost [USD per 1,000 requests]", ylabel="mean quality")
        return _svg(figure, "Mean cost against mean quality: single models, their hull, policies")


def interval_picture(values: Mapping[str, tuple[float, float, float]], label: str) -> str:
    """Draw a mean and its interval for each name, from the top down."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(6.2, 0.8 + 0.38 * len(values))
        for at, (mean, low, high) in enumerate(values.values()):
            axes.plot([low, high], [at, at], color=colour(at), linewidth=1.7)
            axes.plot(mean, at, "o", color=colour(at), markersize=7, markeredgecolor="white")
        _name_rows(axes, list(values))
        axes.set(xlabel=label)
        return _svg(figure, f"Intervals: {label}")


def stacked_picture(shares: Mapping[str, Sequence[float]]) -> str:
    """Draw the parts that add up to a whole for each name, from the top down."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(6.2, 0.8 + 0.38 * len(shares))
        for at, parts in enumerate(shares.values()):
            starts = np.concatenate([[0.0], np.cumsum(parts)[:-1]])
            axes.barh(at, parts, left=starts, height=0.6, color=[colour(k) for k in range(len(parts))])
        _name_rows(axes, list(shares))
        axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        return _svg(figure, "Shares of models, by policy")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [shorten(name, 30) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def moving_mean(values: Array, window: int) -> Array:
    """Return the mean of each `window` neighbours, of shape (n - window + 1,)."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    return np.asarray((sums[window:] - sums[:-window]) / window, dtype=np.float64)


def shorten(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _rounds(groups: Mapping[str, Sequence[Run]]) -> int:
    return min(len(run.chosen) for runs in groups.values() for run in runs)


def _mark_changes(axes: Axes, groups: Mapping[str, Sequence[Run]], n: int) -> None:
    """A line where the world changes."""
    run = next(iter(groups.values()))[0]
    for phase in run.phases[1:]:
        if phase.start < n:
            axes.axvline(phase.start, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _regret(run: Run, table: Table) -> Array:
    return cumulative_regret(run.reward, best_fixed_rewards(run, table))


def _band(axes: Axes, lines: Array, at: int, start: int) -> None:
    """A mean line over seeds with its 95 % interval, thinned out."""
    picked = np.unique(np.linspace(0, lines.shape[1] - 1, POINTS).astype(int))
    lines, x = lines[:, picked], picked + start
    mean, count = lines.mean(axis=0), len(lines)
    axes.plot(x, mean, color=colour(at), linestyle=dash(at), linewidth=1.7)
    if count > 1:
        half = stats.t.ppf(0.975, count - 1) * lines.std(axis=0, ddof=1) / np.sqrt(count)
        axes.fill_between(x, mean - half, mean + half, color=colour(at), alpha=0.13, linewidth=0)


def _shares(axes: Axes, runs: Sequence[Run], models: Sequence[str], n: int, window: int) -> None:
    names = runs[0].models
    parts = [_share(runs, names.index(model), n, window) for model in models]
    rest = np.clip(1.0 - np.sum(parts, axis=0), 0.0, 1.0)
    picked = np.unique(np.linspace(0, len(rest) - 1, POINTS).astype(int))
    stacked = np.array([*parts, rest])[:, picked]
    colours = [*(colour(at) for at in range(len(models))), "#dddddd"]
    axes.stackplot(picked + window, stacked, colors=colours, linewidth=0)
    axes.set(ylim=(0, 1), xlim=(window, window + len(rest) - 1 or 2))
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])


def _share(runs: Sequence[Run], model: int, n: int, window: int) -> Array:
    hits = np.mean([run.chosen[:n] == model for run in runs], axis=0)
    return moving_mean(hits, window)


def _name_models(axes: Axes, names: Sequence[str], cost: Array, quality: Array, corners: Array) -> None:
    """Names for all of a few models, or for the corners of the hull."""
    on_hull = {(x, y) for x, y in corners}
    for name, x, y in zip(names, cost, quality, strict=True):
        if len(names) <= 8 or (x, y) in on_hull:
            below = (x, y) not in on_hull
            axes.annotate(
                shorten(name, 28),
                (x, y),
                xytext=(0, -12 if below else 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color="#666666",
            )


def _cross(axes: Axes, runs: Sequence[Run], at: int) -> None:
    """A policy's point, with its 95 % intervals over seeds."""
    x, x_low, _ = mean_interval([1000 * run.cost_usd.mean() for run in runs])
    y, y_low, _ = mean_interval([run.quality.mean() for run in runs])
    x_error, y_error = (None, None) if len(runs) == 1 else (x - x_low, y - y_low)
    marker = "osD^"[at // len(COLOURS) % 4]
    axes.errorbar(
        x,
        y,
        xerr=x_error,
        yerr=y_error,
        fmt=marker,
        color=colour(at),
        markersize=7,
        elinewidth=1.3,
        markeredgecolor="white",
    )


def _svg(figure: Figure, label: str) -> str:
    """The picture as an element to put into a page: no header, no ids that repeat."""
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The reader's browser draws the text; that our own font lacks a letter does not matter.
        warnings.filterwarnings("ignore", message="Glyph")
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r'<g id="\w+_\d+">', "<g>", text[text.index("<svg") :])
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
