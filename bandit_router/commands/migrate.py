"""``bandit-router migrate``: bring a log's schema up to date."""

from __future__ import annotations

import click

from bandit_router.commands.options import with_config
from bandit_router.config import Config
from bandit_router.log import EventLog
from bandit_router.log.tables import HEAD


@click.command()
@with_config
def migrate(config: Config) -> None:
    """Bring a log's schema up to date; a log that is, stays as it is."""
    with EventLog.open(config.log, migrate=True) as log:
        click.echo(f"{log.engine.url.render_as_string(hide_password=True)} has schema {HEAD}.")
