"""``bandit-router migrate``: bring a log's schema up to date."""

from __future__ import annotations

import click
import sqlalchemy as sa

from bandit_router.commands.options import with_config
from bandit_router.config import Config
from bandit_router.log.engine import (
    Step,
    check_exists,
    connect,
    pending_steps,
    schema_version,
    translated,
    upgrade,
)
from bandit_router.log.partitions import ensure


@click.command()
@with_config
@click.option("--check", is_flag=True, help="Only tell what is to be done; exit code 1 if anything is.")
def migrate(config: Config, check: bool) -> None:
    """Bring a log's schema up to date, and create partitions ahead; what is, stays as it is.

    Routers of this version and of the one before may go on meanwhile, unless a step says that it contracts.
    """
    engine = connect(config.log)
    try:
        if check:
            check_exists(engine)
        steps = pending_steps(engine)
        for step in steps:
            click.echo(_told(step))
        if check:
            raise SystemExit(1 if steps else 0)
        _bring(engine, steps)
        name = engine.url.set(query={}).render_as_string(hide_password=True)
        click.echo(f"{name} has schema {schema_version(engine)}.")
    finally:
        engine.dispose()


def _told(step: Step) -> str:
    contracts = f" It contracts: routers of a schema before {step.oldest} no longer work after it."
    return f"{step.version}: {step.what}{contracts if step.contracts else ''}"


def _bring(engine: sa.Engine, steps: list[Step]) -> None:
    if any(step.contracts for step in steps):
        click.echo("Stop routers of earlier versions: they no longer work on this log.", err=True)
    if steps:
        upgrade(engine)
        return
    with translated("creating partitions"):
        ensure(engine)
