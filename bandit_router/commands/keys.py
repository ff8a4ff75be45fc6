"""``bandit-router keys``: who may call the service."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from bandit_router.commands.options import console, with_config
from bandit_router.config import Config
from bandit_router.errors import SettingsError
from bandit_router.log import EventLog
from bandit_router.log.keys import SCOPES, Key, add_key, new_key, read_keys, revoke_key, rotate_secret
from bandit_router.log.writer import committed
from bandit_router.values import utc

DAY_S = 86_400.0
LONGEST_DAYS = 36_500


@click.group()
def keys() -> None:
    """Make, show or revoke the keys of the service; it heeds them within a second."""


@keys.command()
@with_config
@click.option("--name", required=True, help="Whose it is.")
@click.option(
    "--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="What it may do."
)
@click.option(
    "--expires-days",
    type=click.FloatRange(0, LONGEST_DAYS, min_open=True),
    default=None,
    help="When it ends; by default never.",
)
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write it there.")
def create(
    config: Config, name: str, scopes: tuple[str, ...], expires_days: float | None, path: Path | None
) -> None:
    """Make a key, and show it this once: only its hash is kept."""
    key, now = new_key(), time.time()
    expires = None if expires_days is None else now + expires_days * DAY_S
    with EventLog.open(config.log) as log:
        made = committed(
            log.write(lambda c: add_key(c, key, name=name, scopes=scopes, now=now, expires=expires))
        )
    if path is None:
        click.echo(key)
        return
    path.touch(mode=0o600)
    path.write_text(json.dumps({"key": key, **_plain(made)}, indent=2) + "\n", "utf-8")
    click.echo(f"Key {made.id} is in {path}.")


@keys.command("list")
@with_config
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write them there."
)
def show(config: Config, path: Path | None) -> None:
    """Show the keys; what they are is not known here."""
    with EventLog.open(config.log) as log:
        found, now = log.read(read_keys), time.time()
    if path is not None:
        path.write_text(json.dumps([_plain(key) for key in found], indent=2) + "\n", "utf-8")
        return
    table = Table(Column("id", min_width=36), Column("state", min_width=7), box=None)  # to be copied
    for title in ("name", "scopes", "made", "expires"):
        table.add_column(title, overflow="fold")
    for key in found:
        state = "revoked" if key.revoked is not None else "valid" if key.valid(now) else "expired"
        dates = [_date(key.created) or "", _date(key.expires) or "never"]
        table.add_row(key.id, state, key.name, " ".join(sorted(key.scopes)), *dates)
    console().print(table)


@keys.command()
@with_config
@click.argument("key_id", metavar="ID")
def revoke(config: Config, key_id: str) -> None:
    """Make a key open nothing any more."""
    with EventLog.open(config.log) as log:
        if not committed(log.write(lambda c: revoke_key(c, key_id, time.time()))):
            raise SettingsError(f"no key {key_id!r} that could be revoked: see bandit-router keys list")
    click.echo(f"Key {key_id} is revoked.")


@keys.command("rotate-secret")
@with_config
@click.option("--retire-old", is_flag=True, help="Tokens that older secrets signed end at once.")
def rotate(config: Config, *, retire_old: bool) -> None:
    """Make a new secret for feedback tokens; those that are out stay valid until they end."""
    with EventLog.open(config.log) as log:
        committed(log.write(lambda c: rotate_secret(c, time.time(), retire_old=retire_old)))
    click.echo("A new secret signs; the old ones " + ("are retired." if retire_old else "still verify."))


def _plain(key: Key) -> dict[str, Any]:  # Any: texts and lists of them
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created": _date(key.created),
        "expires": _date(key.expires),
        "revoked": _date(key.revoked),
    }


def _date(moment: float | None) -> str | None:
    return None if moment is None else utc(moment).isoformat(timespec="seconds")
