"""``bandit-router simulate``: policies live through a full-information table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import click
from rich.console import Console
from rich.progress import Progress

from bandit_router.commands.options import console
from bandit_router.errors import BanditRouterError, SettingsError
from bandit_router.policies import DEFAULT_FLOOR

if TYPE_CHECKING:
    from bandit_router.features import FeatureExtractor
    from simulations.streams import World
    from simulations.tables import Table

DEFAULT_POLICIES = ("thompson", "linucb", "uniform", "best-fixed", "zero")
SMALL = 50_000  # rounds below which starting more processes takes longer than it saves
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


class _Options(TypedDict):
    table: Path
    where: dict[str, str]
    pool: str | None
    policies: tuple[str, ...]
    prior: Path | None
    prior_where: dict[str, str]
    prior_rows: int | None
    order_seeds: int
    price_weights: tuple[float, ...]
    budget: float | None
    rows: int | None
    feedback: Literal["score", "thumbs"]
    features: str | None
    floor: float
    max_quality_drop: float | None
    scenario: Path | None
    jobs: int | None
    json: Path | None
    html: Path | None
    trust_pickle: bool


@click.command()
@click.argument("table", type=EXISTING)
@click.option("--where", multiple=True, callback=_pairs, metavar="COL=VALUE", help="Only such rows.")
@click.option("--pool", metavar="NAME or A,B,..", help="A pool of models.json, or models by name.")
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
@click.option("--prior", type=EXISTING, help="A table that is known before round one.")
@click.option("--prior-where", multiple=True, callback=_pairs, metavar="COL=VALUE")
@click.option("--prior-rows", type=click.IntRange(min=1), help="Of the prior, spread over it.")
@click.option("--order-seeds", type=click.IntRange(min=1), default=5, show_default=True)
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
@click.option("--rows", type=click.IntRange(min=1), help="The first N rounds of every order.")
@click.option("--feedback", type=click.Choice(["score", "thumbs"]), default="score", show_default=True)
@click.option("--features", metavar="SPEC", help="What policies see of a prompt.")
@click.option(
    "--floor",
    type=click.FloatRange(0, 1),
    default=DEFAULT_FLOOR,
    show_default=True,
    help="Exploration over all models together.",
)
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
@click.option("--json", type=WRITTEN, callback=in_folder, help="Write the results for machines.")
@click.option("--html", type=WRITTEN, callback=in_folder, help="Write a page with pictures.")
@click.option("--trust-pickle", is_flag=True, help="Open RouterBench's pickle, which may run code.")
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
    table = world.table if world is not None else _table(options)
    prior = _prior(options, table)
    _say_left_out(table, prior)
    with _progress() as progress:
        runs = run(
            world or table,
            options["policies"],
            seeds=options["order_seeds"],
            price_weights=options["price_weights"],
            budget_usd=options["budget"],
            prior=prior,
            feedback=options["feedback"],
            rows=options["rows"],
            features=_features(options["features"]),
            floor=options["floor"],
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
    table = _table(options, scenario.pool)
    try:
        return World.of(scenario, table, path=options["table"])
    except SettingsError as error:
        raise SettingsError(f"{options['scenario']}: {error}") from error


def _table(options: _Options, pool: str | Sequence[str] | None = None) -> Table:
    from simulations.tables import read_table

    return read_table(
        options["table"],
        pool=options["pool"] or pool,
        where=options["where"],
        trust_pickle=options["trust_pickle"],
    )


def _prior(options: _Options, table: Table) -> Table | None:
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


def _say_left_out(table: Table, prior: Table | None) -> None:
    from simulations.simulate import known_rows

    for which in (table,) if prior is None else (table, prior):
        if which.dropped:
            click.echo(f"{which.name}: {which.dropped} rows dropped: a quality or a cost is missing")
    known = 0 if prior is None else len(known_rows(table, prior))
    if known:
        click.echo(f"{table.name}: {known} rows left out: the prior holds them")


def _features(spec: str | None) -> FeatureExtractor | None:
    from bandit_router.embeddings import EmbeddedFeatures, extractor_from_spec

    if spec is not None and spec.startswith("vectors"):
        raise SettingsError("features: a table has texts; vectors are for choose(features=...)")
    features = None if spec is None else extractor_from_spec(spec)
    if isinstance(features, EmbeddedFeatures):
        features.warm()  # a missing key or package is said before anything runs
    return features


def _jobs(options: _Options, rows: int) -> int:
    if options["jobs"] is not None:
        return options["jobs"]
    rounds = min(rows, options["rows"] or rows)
    lives = len(options["policies"]) * len(options["price_weights"]) * options["order_seeds"]
    return 1 if rounds * lives < SMALL else -1


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, and nothing elsewhere."""
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("simulate", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
