"""``bandit-router simulate``: policies live through a full-information table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import click

from bandit_router.commands.options import console
from bandit_router.commands.tables import (
    EXISTING,
    WRITTEN,
    TableOptions,
    asked_features,
    asked_prior,
    asked_table,
    in_folder,
    progress_bar,
    say_left_out,
    with_table,
)
from bandit_router.errors import BanditRouterError, SettingsError
from bandit_router.policies import DEFAULT_FLOOR

if TYPE_CHECKING:
    from simulations.streams import World

DEFAULT_POLICIES = ("thompson", "linucb", "uniform", "best-fixed", "zero")
SMALL = 50_000  # rounds below which starting more processes takes longer than it saves


class _Options(TableOptions):
    policies: tuple[str, ...]
    price_weights: tuple[float, ...]
    budget: float | None
    feedback: Literal["score", "thumbs"]
    max_quality_drop: float | None
    scenario: Path | None
    jobs: int | None
    html: Path | None


@click.command()
@with_table
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=DEFAULT_POLICIES,
    show_default=True,
    metavar="SPEC",
    help="thompson, linucb:alpha=A, igw:gamma=G, egreedy:epsilon=E, greedy, uniform; or fixed:MODEL, "
    "best-fixed, zero, oracle, knn:k=K, ridge, river; fresh:SPEC, alert:POLICY.",
)
@click.option(
    "--price-weight",
    "price_weights",
    type=click.FloatRange(min=0),
    multiple=True,
    default=(0.0,),
    show_default=True,
    metavar="W",
    help="Reward that the dearest model's mean cost is worth.",
)
@click.option(
    "--budget", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="Per request."
)
@click.option("--feedback", type=click.Choice(["score", "thumbs"]), default="score", show_default=True)
@click.option(
    "--max-quality-drop",
    type=click.FloatRange(0, 1),
    metavar="Q",
    help="What learning policies may promise less than the best model does.",
)
@click.option(
    "--scenario",
    type=EXISTING,
    metavar="FILE.toml",
    help="How the world changes: tables that follow, prices, qualities, models, feedback.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes; by default one per core where that pays."
)
@click.option("--html", type=WRITTEN, callback=in_folder, help="Write a page with pictures.")
def simulate(**options: Unpack[_Options]) -> None:
    """Let policies live through a full-information TABLE, seeing only what they chose.

    Every policy meets the same rows in the same orders; rows of the prior are left out. In a scenario the
    best fixed model is that of each phase, "fresh:SPEC" begins anew with each, and "alert:POLICY" notices
    when a model changes.
    """
    try:
        _simulate(options)
    except (BanditRouterError, ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _simulate(options: _Options) -> None:
    from simulations import report
    from simulations.simulate import simulate as run

    world = _world(options)
    table = world.table if world is not None else asked_table(options["table"], options)
    prior = asked_prior(options, table)
    say_left_out(table, prior)
    with progress_bar("simulate") as progress:
        runs = run(
            world or table,
            options["policies"],
            seeds=options["order_seeds"],
            price_weights=options["price_weights"],
            budget_usd=options["budget"],
            prior=prior,
            feedback=options["feedback"],
            rows=options["rows"],
            features=asked_features(options),
            floor=DEFAULT_FLOOR if options["floor"] is None else options["floor"],
            max_quality_drop=options["max_quality_drop"],
            jobs=_jobs(options, len(table)),
            progress=progress,
        )
    console().print(report.terminal_table(table, runs))
    phases = report.phases_table(table, runs)
    if phases is not None:
        console().print(phases)
    if options["json"] is not None:
        report.write_json(options["json"], table, runs)
    if options["html"] is not None:
        report.write_html(options["html"], table, runs)


def _world(options: _Options) -> World | None:
    """Read the scenario, if there is one, and the tables that it names."""
    from simulations.scenarios import read_scenario
    from simulations.streams import World

    if options["scenario"] is None:
        return None
    scenario = read_scenario(options["scenario"])
    table = asked_table(options["table"], options, pool=scenario.pool)
    try:
        return World.of(scenario, table, path=options["table"])
    except SettingsError as error:
        raise SettingsError(f"{options['scenario']}: {error}") from error


def _jobs(options: _Options, rows: int) -> int:
    if options["jobs"] is not None:
        return options["jobs"]
    rounds = min(rows, options["rows"] or rows)
    lives = len(options["policies"]) * len(options["price_weights"]) * options["order_seeds"]
    return 1 if rounds * lives < SMALL else -1
