"""``bandit-router models``: a router's models and what is believed of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
from rich.table import Table

from bandit_router.commands.options import console, with_config
from bandit_router.config import Config
from bandit_router.drift import KEEP
from bandit_router.events import Model
from bandit_router.router import Router


@click.group()
def models() -> None:
    """Show, add, change or retire a router's models, live on every worker; say that one has changed."""


@models.command("list")
@with_config
def show(config: Config) -> None:
    """Show the models, and what is believed of each."""
    with Router.open(config.log, name=config.router, create=False) as router:
        known, beliefs = router.known_models, router.beliefs()
    table = Table("model", "input $/M", "output $/M", "context", "n", "mean reward", "state", box=None)
    for name, belief in beliefs.items():
        model, state = known.get(name), "retired" if belief["retired"] else "active"
        columns = ["", "", ""] if model is None else _columns(model)
        mean = "-" if belief["mean_reward"] is None else f"{belief['mean_reward']:.3f}"
        table.add_row(name, *columns, f"{belief['n']:.1f}", mean, state)
    console().print(table)


def _columns(model: Model) -> list[str]:
    context = "-" if model.context_tokens is None else f"{model.context_tokens:,}"
    return [f"{model.input_usd_per_mtok:g}", f"{model.output_usd_per_mtok:g}", context]


@models.command()
@with_config
@click.argument("name")
@click.option("--input-usd-per-mtok", type=float, default=None, help="Price [USD per million tokens].")
@click.option("--output-usd-per-mtok", type=float, default=None, help="Price [USD per million tokens].")
@click.option("--context-tokens", type=int, default=None, help="The longest prompt and answer together.")
@click.option("--reset", is_flag=True, help="Start without the evidence it has.")
def put(config: Config, name: str, *, reset: bool, **given: float | None) -> None:
    """Add a model, change it, or resume a retired one; what is not given stays as it was."""
    changes: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    with Router.open(config.log, name=config.router, create=False) as router:
        known = router.known_models.get(name)
        try:
            model = Model(name, **changes) if known is None else replace(known, **changes)
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error)) from error
        router.put_model(model, reset=reset)
    click.echo(f"Router {config.router!r}: {name} is active.")


@models.command()
@with_config
@click.argument("name")
def retire(config: Config, name: str) -> None:
    """Take a model out of the choice; it keeps its evidence."""
    with Router.open(config.log, name=config.router, create=False) as router:
        router.retire_model(name)
    click.echo(f"Router {config.router!r}: {name} is retired.")


@models.command()
@with_config
@click.argument("name")
@click.option("--factor", type=float, default=KEEP, show_default=True, help="Of earlier evidence.")
@click.option("--at", default=None, help="When it changed (RFC 3339); by default now.")
@click.option("--why", default=None, help="In words.")
def changed(config: Config, name: str, *, factor: float, at: str | None, why: str | None) -> None:
    """Say that a model has changed: what was learnt of it before counts less."""
    with Router.open(config.log, name=config.router, create=False) as router:
        try:
            drift = router.record_drift(name, factor=factor, at=at, why=why)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    click.echo(f"Router {config.router!r}: what {name} taught before counts {drift.factor:g}.")
