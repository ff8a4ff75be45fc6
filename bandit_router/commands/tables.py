"""Options that commands on full-information tables share, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click
from rich.console import Console
from rich.progress import Progress

from bandit_router.commands.options import Command
from bandit_router.errors import SettingsError

if TYPE_CHECKING:
    from bandit_router.features import FeatureExtractor
    from simulations.tables import Table

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
WRITTEN = click.Path(dir_okay=False, path_type=Path)


def _pairs(_: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for column, equals, _value in pairs:
        if not column or not equals:
            raise click.BadParameter(f"expected COL=VALUE, got {column!r}", param=parameter)
    columns = [column for column, *_ in pairs]
    if len(set(columns)) < len(columns):
        raise click.BadParameter("each column once", param=parameter)
    return {column: value for column, _equals, value in pairs}


def in_folder(_: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before hours of work."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"no such folder: {path.parent}", param=parameter)
    if path is not None and path.is_dir():  # an empty text, above all
        raise click.BadParameter("expected a file", param=parameter)
    return path


class ReadingOptions(TypedDict):
    """What `with_reading` hands over."""

    where: dict[str, str]
    pool: str | None
    prior: Path | None
    prior_where: dict[str, str]
    prior_rows: int | None
    order_seeds: int
    rows: int | None
    features: str | None
    floor: float | None
    json: Path | None
    trust_pickle: bool


class TableOptions(ReadingOptions):
    """What `with_table` hands over."""

    table: Path


_OPTIONS = (
    click.option(
        "--where",
        multiple=True,
        callback=_pairs,
        metavar="COL=VALUE",
        help="Only such rows; mmlu/* is all that begins so.",
    ),
    click.option("--pool", metavar="NAME or A,B,..", help="A pool of models.json, or models by name."),
    click.option("--prior", type=EXISTING, help="A table that is known before round one."),
    click.option("--prior-where", multiple=True, callback=_pairs, metavar="COL=VALUE"),
    click.option("--prior-rows", type=click.IntRange(min=1), help="Of the prior, spread over it."),
    click.option("--order-seeds", type=click.IntRange(min=1), default=5, show_default=True),
    click.option("--rows", type=click.IntRange(min=1), help="The first N rounds of every order."),
    click.option("--features", metavar="SPEC", help="What policies see of a prompt."),
    click.option("--floor", type=click.FloatRange(0, 1), help="Exploration over all models together."),
    click.option("--json", type=WRITTEN, callback=in_folder, help="Write the results for machines."),
    click.option("--trust-pickle", is_flag=True, help="Open RouterBench's pickle, which may run code."),
)


def with_reading(command: Command) -> Command:
    """Give a command the options of `ReadingOptions`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_table(command: Command) -> Command:
    """Give a command a TABLE, and the options of `TableOptions`."""
    argument: Callable[[Command], Command] = click.argument("table", type=EXISTING)
    return argument(with_reading(command))


def asked_table(
    path: Path, options: ReadingOptions, *, pool: str | Sequence[str] | None = None
) -> Table:
    """Read the table that was asked for; `pool` where no other was."""
    from simulations.tables import read_table

    return read_table(
        path,
        pool=options["pool"] or pool,
        where=options["where"],
        trust_pickle=options["trust_pickle"],
    )


def asked_prior(options: ReadingOptions, table: Table) -> Table | None:
    """Read the prior, of the models that the table has too."""
    from simulations.tables import read_table

    path, where, trust = options["prior"], options["prior_where"], options["trust_pickle"]
    if path is None:
        if where or options["prior_rows"]:
            raise click.UsageError("--prior-where and --prior-rows need --prior")
        return None
    there = read_table(path, where=where, rows=1, trust_pickle=trust).names
    pool = [name for name in table.names if name in there]
    return read_table(
        path, pool=pool or None, where=where, rows=options["prior_rows"], trust_pickle=trust
    )


def say_left_out(table: Table, prior: Table | None) -> None:
    """Say how many rows are left out, and why."""
    from simulations.simulate import known_rows

    for which in (table,) if prior is None else (table, prior):
        if which.dropped:
            click.echo(f"{which.name}: {which.dropped} rows dropped: a quality or a cost is missing")
    known = 0 if prior is None else len(known_rows(table, prior))
    if known:
        click.echo(f"{table.name}: {known} rows left out: the prior holds them")


def asked_features(options: ReadingOptions) -> FeatureExtractor | None:
    """Open the features that were asked for; None is the default."""
    from bandit_router.embeddings import EmbeddedFeatures, extractor_from_spec

    spec = options["features"]
    if spec is not None and spec.startswith("vectors"):
        raise SettingsError("features: a table has texts; vectors are for choose(features=...)")
    features = None if spec is None else extractor_from_spec(spec)
    if isinstance(features, EmbeddedFeatures):
        features.warm()  # a missing key or package is said before anything runs
    return features


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, and nothing elsewhere."""
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
