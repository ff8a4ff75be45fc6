"""``bandit-router rebuild``: fold beliefs again from the log."""

from __future__ import annotations

import click
from rich.console import Console

from bandit_router.commands.options import with_config
from bandit_router.config import Config
from bandit_router.router import Router

FEATURES_HELP = (
    "Encode the log again with these features: hashed, hashed:buckets=N, "
    "fitted (to the log's own prompts) or fitted:VERSION."
)


@click.command()
@with_config
@click.option(
    "--features",
    default=None,
    metavar="SPEC",
    help=FEATURES_HELP,
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
            wanted = router.fit_features() if features == "fitted" else features
            done = router.rebuild(wanted, textless=textless)
        n = sum(belief["n"] for belief in router.beliefs().values())
    click.echo(
        f"Router {config.router!r}: generation {done.generation}, features {done.features}, "
        f"{done.encoded} decisions encoded again, {done.textless} without text, {n:g} observations."
    )
