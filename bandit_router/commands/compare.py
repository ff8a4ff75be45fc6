"""``bandit-router compare``: our defaults beside published bandits and baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from bandit_router.commands.options import console
from bandit_router.commands.tables import EXISTING, WRITTEN, in_folder
from bandit_router.errors import BanditRouterError, PeerError

if TYPE_CHECKING:
    from simulations.compare.comparison import Comparison, Contender
    from simulations.compare.environments import Peer
    from simulations.tables import Table

KNOWN = "paretobandit,vowpalwabbit,mabwiser,river"
FOLDER = click.Path(file_okay=False, path_type=Path)


class _Options(TypedDict):
    tables: tuple[Path, ...]
    pools: tuple[str, ...]
    price_weights: tuple[float, ...]
    order_seeds: int
    rows: int | None
    peers: str
    policies: tuple[str, ...]
    environments: Path
    json: Path | None
    picture: Path | None
    markdown: Path | None


@click.command()
@click.argument("tables", nargs=-1, required=True, type=EXISTING)
@click.option(
    "--pool", "pools", multiple=True, metavar="NAME", help="One for all tables, or one for each in turn."
)
@click.option(
    "--price-weight",
    "price_weights",
    type=click.FloatRange(min=0),
    multiple=True,
    default=(0.0, 0.1, 0.3),
    show_default=True,
    metavar="W",
)
@click.option("--order-seeds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--rows", type=click.IntRange(min=1), help="The first N rounds of every order.")
@click.option("--peers", default=KNOWN, show_default=True, metavar="A,B,..", help="Empty for none.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="SPEC",
    help="Ours and baselines; the first is what all are compared with.",
)
@click.option(
    "--environments",
    type=FOLDER,
    default=Path("~/.cache/bandit-router/peers"),
    show_default=True,
    help="Where peers are installed, each for itself.",
)
@click.option(
    "--json",
    type=WRITTEN,
    callback=in_folder,
    help="Write the results for machines; the peers' lives that it holds already are not lived again.",
)
@click.option(
    "--picture", type=WRITTEN, callback=in_folder, help="Draw the differences: png, svg or pdf."
)
@click.option("--markdown", type=WRITTEN, callback=in_folder, help="Write the table for a page.")
def compare(**options: Unpack[_Options]) -> None:
    """Let our defaults, published bandits and baselines live through the same orders of each TABLE.

    Each peer is installed from PyPI into an environment of its own; one that cannot be had is named.
    """
    try:
        _compare(options)
    except (BanditRouterError, ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _compare(options: _Options) -> None:
    from simulations.compare import showing

    tables = _tables(options)
    contenders, absent = _contenders(options)
    before = {} if options["json"] is None else showing.read_json(options["json"])
    marks = [showing.mark(table, options["rows"]) for table in tables]
    found = {mark: before[mark] for mark in marks if mark in before}
    for table, mark in zip(tables, marks, strict=True):
        click.echo(f"{table.name}: ours and the baselines", err=True)
        for so_far in _compared(table, contenders, before.get(mark), options):
            found[mark] = so_far
            _say_step(so_far)
            if options["json"] is not None:
                showing.write_json(options["json"], found)
    _show([found[mark] for mark in marks], absent, options)


def _show(found: Sequence[Comparison], absent: dict[str, str], options: _Options) -> None:
    from simulations.compare import showing

    console().print(showing.terminal_table(found), "", showing.tally_table(found), sep="\n")
    _say_missing(found, absent)
    if options["picture"] is not None:
        showing.write_picture(options["picture"], found)
    if options["markdown"] is not None:
        options["markdown"].write_text(showing.markdown(found), "utf-8")


def _compared(
    table: Table, contenders: Sequence[Contender], known: Comparison | None, options: _Options
) -> Iterator[Comparison]:
    from simulations.compare.comparison import BASELINES, OURS, compare

    return compare(
        table,
        contenders,
        specs=options["policies"] or (OURS, *BASELINES),
        price_weights=options["price_weights"],
        seeds=options["order_seeds"],
        rows=options["rows"],
        known=known,
    )


def _say_step(so_far: Comparison) -> None:
    policies = dict.fromkeys(life.policy for life in so_far.lives)
    click.echo(f"{so_far.table}: {len(policies)} policies, {len(so_far.missing)} missing", err=True)


def _tables(options: _Options) -> list[Table]:
    from simulations.tables import read_table

    paths, pools = options["tables"], options["pools"]
    if len(pools) not in (0, 1, len(paths)):
        raise click.UsageError(f"--pool: expected one, or {len(paths)} for as many tables")
    each = pools if len(pools) == len(paths) else (pools or (None,)) * len(paths)
    return [read_table(path, pool=pool) for path, pool in zip(paths, each, strict=True)]


def _contenders(options: _Options) -> tuple[list[Contender], dict[str, str]]:
    """Install the peers; those that cannot be had come back with the reason."""
    from simulations.compare.comparison import Contender
    from simulations.compare.environments import command

    contenders, absent = [], {}
    for peer in _peers(options["peers"]):
        try:
            told = command(peer, options["environments"])
        except PeerError as error:
            absent[peer.name] = str(error)
            continue
        contenders.append(Contender(name=peer.name, command=told, settings=peer.settings))
    return contenders, absent


def _peers(text: str) -> list[Peer]:
    from simulations.compare.environments import PEERS

    asked = [name.strip() for name in text.split(",") if name.strip()]
    known = {peer.name: peer for peer in PEERS}
    for name in asked:
        if name not in known:
            raise click.UsageError(f"--peers: no peer {name!r}; there are {', '.join(known)}")
    return [known[name] for name in asked]


def _say_missing(found: Sequence[Comparison], absent: dict[str, str]) -> None:
    for name, why in absent.items():
        click.echo(f"not compared: {name}: {why}")
    for comparison in found:
        for spec, why in comparison.missing.items():
            click.echo(f"not compared: {spec} on {comparison.table}: {why}")
