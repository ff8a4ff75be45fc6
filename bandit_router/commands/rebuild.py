"""``bandit-router rebuild``: fold beliefs again from the log."""

from __future__ import annotations

import click
from rich.console import Console

from bandit_router.commands.options import with_config
from bandit_router.config import Config
from bandit_router.router import Router


@click.command()
@with_config
@click.option(
    "--features", default=None, metavar="SPEC", help="Encode the log again with these features."
)
@click.option(
    "--textless",
    type=click.Choice(["refuse", "mean"]),
    default="refuse",
    show_default=True,
    help="What becomes of decisions whose text was not kept.",
)
def rebuild(config: Config, features: str | None, textless: str) -> None:
    """Fold a router's beliefs again from its log, on every worker that has it open."""
    console = Console(stderr=True)
    with Router.open(config.log, name=config.router, create=False) as router:
        with console.status("Folding the log ..."):
            done = router.rebuild(features, textless=textless)
        n = sum(belief["n"] for belief in router.beliefs().values())
    click.echo(
        f"Router {config.router!r}: generation {done.generation}, features {done.features}, "
        f"{done.encoded} decisions encoded again, {done.textless} without text, {n:g} observations."
    )
