"""``bandit-router calibrate``: the price weight for a share of strong calls, or for a drop in quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from bandit_router.commands.options import with_config
from bandit_router.commands.tables import (
    EXISTING,
    ReadingOptions,
    asked_features,
    asked_prior,
    asked_table,
    progress_bar,
    say_left_out,
    with_reading,
)
from bandit_router.config import Config
from bandit_router.errors import BanditRouterError

if TYPE_CHECKING:
    from simulations.protocols.calibrated import Calibrated
    from simulations.protocols.calibrating import Target

EVEN = 1.0  # floor under which labels are collected


class _Options(ReadingOptions):
    table: Path | None
    policy: str
    share: float | None
    drop: float | None
    weak: str | None
    strong: str | None


@click.command()
@click.argument("table", type=EXISTING, required=False)
@with_config
@with_reading
@click.option("--policy", default="thompson", show_default=True, metavar="SPEC", help="Whose forecasts.")
@click.option("--share", type=click.FloatRange(0, 1), help="Part of the calls for the strong model.")
@click.option(
    "--quality-drop", "drop", type=click.FloatRange(0, 1), help="Below the strong model alone."
)
@click.option("--weak", metavar="MODEL", help="By default the cheapest.")
@click.option("--strong", metavar="MODEL", help="By default the best.")
def calibrate(config: Config, **options: Unpack[_Options]) -> None:
    """Find the price weight that gives a share of strong calls, or costs at most a drop in quality.

    From a full-information TABLE the router learns --rows rows, is calibrated on half of the others, and
    is tried on the rest. Without a TABLE the log says what the router promised for real requests.
    """
    try:
        _calibrate(config, options)
    except (BanditRouterError, ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _calibrate(config: Config, options: _Options) -> None:
    from simulations.protocols.calibrated import document
    from simulations.protocols.calibrating import Target
    from simulations.protocols.results import write_json

    if (options["share"] is None) == (options["drop"] is None):
        raise click.UsageError("expected one of --share and --quality-drop")
    target, table = Target(share=options["share"], drop=options["drop"]), options["table"]
    found = _from_log(config, options, target) if table is None else _from_table(table, options, target)
    _show(found)
    if options["json"] is not None:
        write_json(options["json"], document(found))


def _from_table(path: Path, options: _Options, target: Target) -> Calibrated:
    from bandit_router.features import HashedFeatures
    from simulations.protocols.calibrated import calibrate_on_table
    from simulations.protocols.results import check_table
    from simulations.protocols.routellm import pair_of
    from simulations.simulate import stage

    table = pair_of(asked_table(path, options), options["weak"], options["strong"])
    check_table(table, "calibrate", costs=True)
    prior = asked_prior(options, table)
    say_left_out(table, prior)
    floor = EVEN if options["floor"] is None else options["floor"]
    scene = stage(table, asked_features(options) or HashedFeatures(), floor=floor, prior=prior)
    seeds, labels = options["order_seeds"], options["rows"]
    with progress_bar("calibrate") as progress:
        return calibrate_on_table(
            scene, options["policy"], target, seeds=seeds, labels=labels, progress=progress
        )


def _from_log(config: Config, options: _Options, target: Target) -> Calibrated:
    from bandit_router.log import EventLog
    from bandit_router.log.registration import read_registration
    from simulations.protocols.calibrated import calibrate_on_log
    from simulations.rounds import read

    given = [name for name in ("where", "pool", "prior", "rows", "features", "floor") if options[name]]
    if given:
        raise click.UsageError(f"--{given[0]} needs a TABLE")
    with EventLog.open(config.log, create=False) as log:
        rounds = read(log, config.router)
        with log.reading() as connection:
            registration = read_registration(connection, config.router)
    assert registration is not None  # else there were no rounds
    unit = registration.settings.cost_unit_usd
    weak, strong = options["weak"], options["strong"]
    return calibrate_on_log(rounds, target, weak=weak, strong=strong, cost_unit_usd=unit)


def _show(found: Calibrated) -> None:
    from simulations.protocols.calibrated import settings_of
    from simulations.report import with_half

    asked = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in found.asked.items())
    settings = settings_of(found)
    weight, unit = settings["preference"]["price_weight"], settings["cost_unit_usd"]
    click.echo(f"{found.weak} and {found.strong}, {asked}: calibrated on {found.requests:,} requests")
    click.echo(f"price weight    {with_half(found.price_weight, 5)}")
    click.echo(f"score threshold {with_half(found.score, 5)}")
    click.echo(f"foretold        share {with_half(found.share, 4)}, drop {with_half(found.drop, 4)}")
    if found.tried:
        tried = ", ".join(f"{name} {with_half(value, 4)}" for name, value in found.tried.items())
        click.echo(f"tried           {tried}")
    click.echo("\nIn the config:\n")
    click.echo(
        f"[settings]\ncost_unit_usd = {unit!r}\n\n[settings.preference]\nprice_weight = {weight!r}"
    )
    click.echo(f'\nOr with a request: {{"preference": {{"price_weight": {weight!r}}}}}')
