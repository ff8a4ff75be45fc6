"""``bandit-router chaos``: things go wrong on purpose, and what must hold is proved."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from bandit_router.commands.options import check_installed, console

if TYPE_CHECKING:
    from simulations.chaos.run import Result

PACKAGES = ("fastapi", "httpx", "psutil", "psycopg", "redis", "uvicorn")


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Of what goes wrong, and when.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--clients", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Only faults whose name has this, such as 'redis: kill'.",
)
@click.option(
    "--json", "path", type=click.Path(path_type=Path), default=None, help="Write the results here."
)
@click.option(
    "--logs",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Keep what workers and servers logged in this folder.",
)
def chaos(
    seed: int,
    minutes: float,
    workers: int,
    clients: int,
    only: tuple[str, ...],
    path: Path | None,
    logs: Path | None,
) -> None:
    """Inject faults into a service of its own, and prove that nothing is lost and nothing doubled.

    It starts a PostgreSQL, a Redis and workers, lets clients play against them while processes are killed and
    paused and connections delayed and cut, heals everything, and checks the log against what clients heard.
    The same seed injects the same faults. Exit code 1: something does not hold.
    """
    check_installed("chaos", *PACKAGES, extras="chaos")
    from simulations.chaos.programs import NotObtainedError
    from simulations.chaos.run import run
    from simulations.chaos.servers import NotStartedError

    told = Console(stderr=True)
    try:
        result = run(
            seed=seed,
            minutes=minutes,
            workers=workers,
            clients=clients,
            only=only,
            logs=logs,
            say=lambda text: told.print(text, style="dim", highlight=False),
        )
    except (NotObtainedError, NotStartedError) as error:
        raise click.ClickException(str(error)) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _show(result)
    if path is not None:
        from simulations.chaos.report import to_json

        path.write_text(json.dumps(to_json(result), indent=1))
    sys.exit(0 if result.holds else 1)


def _show(result: Result) -> None:
    from simulations.chaos.report import tables

    out = console()
    for table in tables(result):
        out.print(table)
