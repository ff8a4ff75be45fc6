"""``bandit-router rebuild``: fold beliefs again from the log."""

from __future__ import annotations

import click
from rich.console import Console

from bandit_router.commands.options import with_config
from bandit_router.config import Config
from bandit_router.errors import SettingsError
from bandit_router.features import FeatureExtractor
from bandit_router.router import Router

FEATURES_HELP = (
    "Encode the log again with these features: hashed, hashed:buckets=N, "
    "fitted (to the log's own prompts), fitted:VERSION, openai:model=M,dim=64 or sentence:model=M,dim=64."
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
    "--fit", is_flag=True, help="First fit the projection of the embeddings to the log's own prompts."
)
@click.option(
    "--textless",
    type=click.Choice(["refuse", "mean"]),
    default="refuse",
    show_default=True,
    help="What becomes of decisions whose text was not kept.",
)
def rebuild(config: Config, features: str | None, fit: bool, textless: str) -> None:
    """Fold a router's beliefs again from its log, on every worker that has it open."""
    console = Console(stderr=True)
    with Router.open(config.log, name=config.router, create=False) as router:
        with console.status("Folding the log ..."):
            done = router.rebuild(_wanted(router, features, fit=fit), textless=textless)
        n = sum(belief["n"] for belief in router.beliefs().values())
    click.echo(
        f"Router {config.router!r}: generation {done.generation}, features {done.features}, "
        f"{done.encoded} decisions encoded again, {done.textless} without text, {n:g} observations."
    )


def _wanted(router: Router, features: str | None, *, fit: bool) -> str | FeatureExtractor | None:
    if features == "fitted":
        return router.fit_features()
    if not fit:
        return features
    if features is None:
        raise SettingsError("--fit: expected --features, made of embeddings")
    return router.fit_embeddings(features)
