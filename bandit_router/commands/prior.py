"""``bandit-router prior``: what is known of models before any feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.table import Table as Shown

from bandit_router.commands.options import console, with_config
from bandit_router.config import Config
from bandit_router.errors import TableError
from bandit_router.evidence import Evidence
from bandit_router.features import FeatureExtractor
from bandit_router.router import Router
from bandit_router.values import utc

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def prior() -> None:
    """Import, show or drop what is known of a router's models before any feedback.

    It counts in full until what is seen contradicts it, and is kept apart from what feedback teaches.
    """


@prior.command("import")
@click.argument("file", type=FILE)
@with_config
@click.option("--where", multiple=True, metavar="COL=VALUE", help="Only such rows.")
@click.option("--rows", type=click.IntRange(min=1), help="At most so many of a table's rows, spread.")
@click.option("--rename", multiple=True, metavar="THEIRS=OURS", help="A model has another name there.")
@click.option("--trust-pickle", is_flag=True, help="Open RouterBench's pickle, which may run code.")
def put(
    config: Config,
    file: Path,
    where: Sequence[str],
    rows: int | None,
    rename: Sequence[str],
    trust_pickle: bool,
) -> None:
    """Import an evaluation table (Parquet, CSV, RouterBench's, Not Diamond's) or a file of battles.

    A table has `prompt` and per model `quality__MODEL` in [0, 1], or `MODEL/score`; it may hold any of the
    router's models. Battles have `prompt`, `model_a`, `model_b` and `winner` (a, b or tie). What was imported
    before is replaced.
    """
    names = _pairs("--rename", rename)
    with Router.open(config.log, name=config.router, create=False) as router:
        ours = [model.name for model in router.models]
        wanted = [theirs for theirs, our in ({m: m for m in ours} | names).items() if our in ours]
        found = _evidence(file, wanted, router.features, _pairs("--where", where), rows, trust_pickle)
        evidence = {names.get(model, model): sums for model, sums in found.items()}
        router.put_prior(evidence, origin=file.name)
    without = [model for model in ours if model not in evidence]
    click.echo(f"Router {config.router!r}: {_told(evidence)}.")
    if without:
        click.echo(f"Nothing is known of {', '.join(without)}.")


def _evidence(
    file: Path,
    models: Sequence[str],
    features: FeatureExtractor,
    where: Mapping[str, str],
    rows: int | None,
    trust_pickle: bool,
) -> Mapping[str, Evidence]:
    from simulations.priors import evidence_of_battles, evidence_of_table, read_battles
    from simulations.tables import read_table

    pickled = file.suffix.lower() in (".pkl", ".pickle")
    battles = None if pickled else read_battles(file, where=where)
    if battles is not None:
        return evidence_of_battles(battles, features, models)
    there = read_table(file, where=where, rows=1, trust_pickle=trust_pickle).names
    pool = [name for name in models if name in there]
    if not pool:
        raise TableError(
            f"{file}: has none of the models {', '.join(models)}; it has {', '.join(there)}"
        )
    table = read_table(file, pool=pool, where=where, rows=rows, trust_pickle=trust_pickle)
    if table.dropped:
        click.echo(f"{table.name}: {table.dropped} rows dropped: a quality or a cost is missing")
    return evidence_of_table(table, features)


def _pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.UsageError(f"{option}: expected A=B, got {name!r}")
    return {name: value for name, _, value in pairs}


def _told(evidence: Mapping[str, Evidence]) -> str:
    return ", ".join(f"{sums.n:g} observations of {model}" for model, sums in evidence.items())


@prior.command()
@with_config
def show(config: Config) -> None:
    """Show what is known before, and how much of it counts by now."""
    with Router.open(config.log, name=config.router, create=False) as router:
        known, beliefs = router.prior, router.beliefs()
    if known is None:
        click.echo(f"Router {config.router!r}: nothing is known before.")
        return
    powers = {belief["prior"]["power"] for belief in beliefs.values()} or {1.0}
    click.echo(
        f"Router {config.router!r}: from {known.origin or 'somewhere'}, {utc(known.at):%Y-%m-%d %H:%M} UTC, "
        f"features {known.features_version}; each observation counts {powers.pop():g}."
    )
    table = Shown("model", "n", "mean reward", box=None)
    for model, sums in known.evidence.items():
        table.add_row(model, f"{sums.n:g}", f"{sums.b[0] / sums.n:.3f}")
    console().print(table)


@prior.command()
@with_config
def drop(config: Config) -> None:
    """Forget what was known before."""
    with Router.open(config.log, name=config.router, create=False) as router:
        found = router.drop_prior()
    click.echo(f"Router {config.router!r}: {'dropped' if found else 'nothing was known before'}.")
