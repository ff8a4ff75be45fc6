"""``bandit-router evaluate``: the field's protocols on a full-information table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack

import click

from bandit_router.commands.options import console
from bandit_router.commands.tables import (
    TableOptions,
    asked_features,
    asked_prior,
    asked_table,
    progress_bar,
    say_left_out,
    with_table,
)
from bandit_router.errors import BanditRouterError
from bandit_router.policies import DEFAULT_FLOOR

if TYPE_CHECKING:
    from simulations.protocols.results import Result
    from simulations.replay import Scene
    from simulations.tables import Table

PROTOCOLS = ("routerbench", "routellm", "routerarena", "headroom")
EVEN = 1.0  # floor under which labels are collected where routers are measured on rows held back


class _Options(TableOptions):
    protocol: Literal["routerbench", "routellm", "routerarena", "headroom"]
    policies: tuple[str, ...]
    price_weight: float
    weak: str | None
    strong: str | None


@click.command()
@with_table
@click.option("--protocol", type=click.Choice(PROTOCOLS), required=True)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="SPEC",
    help="thompson, linucb:alpha=A and other policies that learn, knn:k=K, ridge.",
)
@click.option(
    "--price-weight",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="W",
    help="Of headroom: reward that the dearest model's mean cost is worth.",
)
@click.option("--weak", metavar="MODEL", help="Of routellm; by default the cheapest.")
@click.option("--strong", metavar="MODEL", help="Of routellm; by default the best.")
def evaluate(**options: Unpack[_Options]) -> None:
    """Evaluate routers on a full-information TABLE as the papers do.

    Routers learn from --rows rows (7 of 10 by default), one label a row, and are measured on the others;
    the labels are drawn alike from all models unless --floor says otherwise. headroom plays online
    through all rows instead, as simulate does.
    """
    try:
        _evaluate(options)
    except (BanditRouterError, ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _evaluate(options: _Options) -> None:
    from simulations.protocols.results import document, terminal_table, write_json

    _check(options)
    table = _table(options)
    prior = asked_prior(options, table)
    say_left_out(table, prior)
    result = (
        _headroom(options, table, prior)
        if options["protocol"] == "headroom"
        else _held(options, table, prior)
    )
    console().print(terminal_table(result))
    if options["json"] is not None:
        write_json(options["json"], document(result))


def _check(options: _Options) -> None:
    """Refuse what another protocol is for."""
    protocol = options["protocol"]
    if options["price_weight"] and protocol != "headroom":
        raise click.UsageError(f"--price-weight is for headroom; {protocol} looks at all prices")
    if protocol != "routellm" and (options["weak"] or options["strong"]):
        raise click.UsageError(f"--weak and --strong are for routellm, not for {protocol}")


def _table(options: _Options) -> Table:
    from simulations.protocols.results import check_table
    from simulations.protocols.routellm import pair_of

    table, protocol = asked_table(options["table"], options), options["protocol"]
    if protocol == "routellm":
        return pair_of(table, options["weak"], options["strong"])
    check_table(table, protocol, costs=protocol != "headroom")
    return table


def _held(options: _Options, table: Table, prior: Table | None) -> Result:
    """Play a protocol that measures on rows held back."""
    from simulations.protocols.routellm import routellm
    from simulations.protocols.routerarena import routerarena
    from simulations.protocols.routerbench import routerbench
    from simulations.protocols.teaching import POLICIES

    play = {"routerbench": routerbench, "routellm": routellm, "routerarena": routerarena}
    with progress_bar(options["protocol"]) as progress:
        return play[options["protocol"]](
            _scene(options, table, prior, EVEN),
            options["policies"] or POLICIES,
            seeds=options["order_seeds"],
            labels=options["rows"],
            progress=progress,
        )


def _scene(options: _Options, table: Table, prior: Table | None, floor: float) -> Scene:
    from bandit_router.features import HashedFeatures
    from simulations.simulate import stage

    return stage(
        table,
        asked_features(options) or HashedFeatures(),
        floor=floor if options["floor"] is None else options["floor"],
        prior=prior,
    )


def _headroom(options: _Options, table: Table, prior: Table | None) -> Result:
    from dataclasses import replace

    from simulations.protocols.headroom import POLICIES, headroom
    from simulations.simulate import simulate

    scene = replace(_scene(options, table, prior, DEFAULT_FLOOR), price_weight=options["price_weight"])
    with progress_bar("headroom") as progress:
        runs = simulate(
            table,
            options["policies"] or POLICIES,
            seeds=options["order_seeds"],
            price_weights=(scene.price_weight,),
            prior=prior,
            rows=options["rows"],
            features=asked_features(options),
            floor=scene.floor,
            progress=progress,
        )
    return headroom(scene, runs)
