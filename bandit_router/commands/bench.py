"""``bandit-router bench``: a table of speed beside floors and peers; how fresh beliefs are; what all costs."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from bandit_router.commands.costs import Costs, measure_costs
from bandit_router.commands.options import console, with_config
from bandit_router.commands.speed import show_speed
from bandit_router.config import Config
from bandit_router.errors import LogUnavailableError
from bandit_router.events import Model, new_id
from bandit_router.policies import Uniform
from bandit_router.router import Router
from bandit_router.values import Array

if TYPE_CHECKING:
    from simulations.benches.replaying import Replayed

PROMPT = "What do you think of me by now?"
LOOK_S = 0.0005  # between two looks of the worker that listens
PATIENCE_S = 30.0
PERCENTILES = (50, 90, 99)


class _Options(TypedDict):
    only: tuple[str, ...]
    rounds: int | None
    calls: int
    log_rows: int
    no_peers: bool
    environments: Path
    fresh: bool
    costs: bool
    replay: int | None
    path: Path | None


@click.command()
@with_config
@click.option("--store", default=None, metavar="URL", help="Where both workers share beliefs.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="A part of the table, such as choose or http."
)
@click.option("--rounds", type=click.IntRange(min=1), help="In turn; by default 7. Feedbacks: 500.")
@click.option("--calls", type=click.IntRange(min=1), default=300, show_default=True, help="In a round.")
@click.option("--log-rows", type=click.IntRange(min=1), default=5_000, show_default=True)
@click.option("--no-peers", is_flag=True, help="Leave out what would have to be installed.")
@click.option(
    "--environments",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.cache/bandit-router/peers"),
    show_default=True,
    help="Where peers are installed, each for itself.",
)
@click.option("--fresh", is_flag=True, help="Measure instead how soon another worker knows.")
@click.option("--costs", is_flag=True, help="Measure instead what a decision and a feedback cost.")
@click.option(
    "--replay",
    type=click.IntRange(min=100),
    metavar="ROWS",
    help="Write a log of so many decisions and measure its replay instead.",
)
@click.option(
    "--json", "path", type=click.Path(path_type=Path), default=None, help="Write results here."
)
def bench(config: Config, **options: Unpack[_Options]) -> None:
    """Measure speed beside floors and published peers: one table, with the bar of each line.

    It works in a folder of its own. Ours and theirs take turns, and medians count; --only names a part.

    With --fresh: two processes, one hears feedback, the other decides as soon as it knows. With --costs: what
    a decision, an outcome and a feedback cost in time and bytes. With --replay: how long five fixed policies
    take on a large log. These work on a router of their own in the log that is given.
    """
    rounds, path = options["rounds"], options["path"]
    if options["replay"] is not None:
        from simulations.benches.replaying import measure_replay

        _show_costs(measure_replay(config.log, options["replay"]), path)
    elif options["costs"]:
        _show_costs(measure_costs(config, rounds or 500), path)
    elif options["fresh"]:
        _show_fresh(config, rounds or 500, path)
    else:
        _show_speed(options)


def _show_speed(options: _Options) -> None:
    from simulations.benches.rows import Effort

    effort = Effort(
        rounds=options["rounds"] or 7,
        calls=options["calls"],
        log_rows=options["log_rows"],
        environments=options["environments"],
        peers=not options["no_peers"],
    )
    show_speed(options["only"], effort, options["path"])


def _show_fresh(config: Config, rounds: int, path: Path | None) -> None:
    name = f"bench-{new_id()}"
    models = [Model("one"), Model("other")]
    with Router.open(
        config.log, store=config.store, name=name, models=models, policy=Uniform()
    ) as router:
        acknowledged, fresh = _measure(router, (config.log, config.store, name), rounds)
    terminal = console()
    table = Table("milliseconds", *(f"p{p}" for p in PERCENTILES), box=None)
    for what, seconds in (("until acknowledged", acknowledged), ("then until known elsewhere", fresh)):
        table.add_row(what, *(f"{value:.2f}" for value in _percentiles(seconds)))
    terminal.print(f"{rounds} feedbacks, one at a time, on {router!r}")
    terminal.print(table)
    terminal.print(
        "Zero: another worker knew before the acknowledgement. The bench's router stays in the log."
    )
    if path is not None:
        rows = {"acknowledged_ms": _percentiles(acknowledged), "fresh_ms": _percentiles(fresh)}
        path.write_text(json.dumps({"rounds": rounds, "percentiles": PERCENTILES, **rows}))


def _show_costs(found: Costs | Replayed, path: Path | None) -> None:
    table = Table("what", "", box=None)
    for what, value in found.rows().items():
        table.add_row(what, f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    console().print(table)
    console().print("The bench's router stays in the log.")
    if path is not None:
        path.write_text(json.dumps(found.rows()))


def _percentiles(seconds: Array) -> list[float]:
    return [float(value) for value in np.percentile(1000 * seconds, PERCENTILES)]


def _measure(router: Router, place: tuple[str, str, str], rounds: int) -> tuple[Array, Array]:
    """Return how long each acknowledgement took, and how long after it the other worker knew [s]."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    listener = spawn.Process(target=listen, args=(*place, there), daemon=True)
    listener.start()
    try:
        _next(here)
        rows = [_one(router, here) for _ in track(range(rounds), "Measuring ...", transient=True)]
    finally:
        listener.kill()
        listener.join()
    acknowledged, fresh = np.array(rows).T
    return acknowledged, fresh


def _one(router: Router, here: Connection) -> tuple[float, float]:
    decision = router.choose(PROMPT)
    began = time.monotonic()
    router.feedback(decision.id, "thumb", True)
    acknowledged = time.monotonic()
    return acknowledged - began, max(0.0, _next(here) - acknowledged)


def _next(here: Connection) -> float:
    if not here.poll(PATIENCE_S):
        raise LogUnavailableError(f"bench: the other worker heard nothing within {PATIENCE_S:g} s")
    moment: float = here.recv()
    return moment


def listen(log: str, store: str, name: str, there: Connection) -> None:
    """Tell, whenever the beliefs know more, when a decision by them was begun."""
    with Router.open(log, store=store, name=name, create=False, durable=False) as router:
        known = router.health().observations
        there.send(time.monotonic())
        while True:
            if (knows := router.health().observations) > known:
                known, began = knows, time.monotonic()
                router.choose(PROMPT)
                there.send(began)
            time.sleep(LOOK_S)
