"""``bandit-router export``: a period of the log as partitioned Parquet."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from bandit_router.commands.options import check_installed, with_config
from bandit_router.commands.replay import MOMENT, moment_s
from bandit_router.commands.tables import progress_bar
from bandit_router.config import Config
from bandit_router.errors import SettingsError


@click.command()
@with_config
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--since", type=MOMENT, help="The first moment, UTC.")
@click.option("--until", type=MOMENT, help="The first moment that is left out, UTC.")
def export(config: Config, folder: Path, since: datetime | None, until: datetime | None) -> None:
    """Write decisions, their candidates and what came of them to Parquet in a new FOLDER, by day.

    For polars, DuckDB and Spark, and for replay --export. Without texts and users; erasure does not reach it.
    """
    check_installed("export", "pyarrow", extras="archive")
    from bandit_router.log import EventLog
    from bandit_router.log.exporting import export as write
    from bandit_router.log.registration import read_registration
    from bandit_router.log.rounds import count_rounds

    period = {"since": moment_s(since), "until": moment_s(until)}
    with EventLog.open(config.log, create=False) as log, log.reading() as connection:
        if read_registration(connection, config.router) is None:
            raise SettingsError(f"the log has no router {config.router!r}")
        total = count_rounds(connection, config.router, **period)
        with progress_bar("Writing ...") as progress:
            told = write(
                connection, config.router, folder, progress=lambda done: progress(done, total), **period
            )
    click.echo(f"{told.rows:,} decisions in {told.files:,} files, {told.bytes / 1e6:,.1f} MB: {folder}")
