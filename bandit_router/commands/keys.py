"""``bandit-router keys``: who may call the service."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from bandit_router.commands.options import console, with_config
from bandit_router.config import Config
from bandit_router.errors import SettingsError
from bandit_router.log import EventLog
from bandit_router.log.keys import (
    BACKEND_INFLUENCE,
    FEEDBACK_INFLUENCE,
    SCOPES,
    Key,
    add_key,
    new_key,
    read_keys,
    revoke_key,
    rotate_key,
    rotate_secret,
    usual_influence,
)
from bandit_router.log.writer import committed
from bandit_router.values import check_amount, utc

DAY_S, HOUR_S = 86_400.0, 3_600.0
LONGEST_DAYS = 36_500
SOON_DAYS = 14  # a key that ends within them is shown as one that ends soon
OVERLAP_HOURS = 24.0  # in which those who hold the old key can take up the new one
TOKEN_HOURS = 168.0  # after which every token that an old secret signed has ended


_hours = click.FloatRange(0, LONGEST_DAYS * DAY_S / HOUR_S)
_days = click.FloatRange(0, LONGEST_DAYS, min_open=True)
_file = click.Path(dir_okay=False, path_type=Path)


@click.group()
def keys() -> None:
    """Make, show, rotate or revoke the keys of the service; it heeds them within a second."""


@keys.command()
@with_config
@click.option("--name", required=True, help="Whose it is.")
@click.option(
    "--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="What it may do."
)
@click.option("--expires-days", type=_days, default=None, help="When it ends; by default never.")
@click.option(
    "--influence",
    metavar="N|all",
    default=None,
    callback=lambda _, __, text: _influence(text),
    help="How much all words through it count at a time, in full observations; "
    f"by default {FEEDBACK_INFLUENCE:g} where it may only give feedback, {BACKEND_INFLUENCE:g} (of users whom "
    "its decisions did not name) where it decides too, else all.",
)
@click.option("--json", "path", type=_file, help="Write it there.")
def create(
    config: Config,
    name: str,
    scopes: tuple[str, ...],
    expires_days: float | None,
    influence: float | None,
    path: Path | None,
) -> None:
    """Make a key, and show it this once: only its hash is kept."""
    key, now = new_key(), time.time()
    counts = usual_influence(scopes) if influence is None else influence
    with EventLog.open(config.log) as log:
        made = committed(
            log.write(
                lambda c: add_key(
                    c,
                    key,
                    name=name,
                    scopes=scopes,
                    now=now,
                    expires=_expires(expires_days, now),
                    influence=None if counts == math.inf else counts,
                )
            )
        )
    _hand_out(key, made, path)


@keys.command()
@with_config
@click.argument("key_id", metavar="ID")
@click.option(
    "--overlap-hours",
    type=_hours,
    default=OVERLAP_HOURS,
    help=f"How long the old one opens too; by default {OVERLAP_HOURS:g}.",
)
@click.option(
    "--expires-days", type=_days, default=None, help="When the new one ends; by default as the old one."
)
@click.option("--json", "path", type=_file, help="Write it there.")
def rotate(
    config: Config, key_id: str, overlap_hours: float, expires_days: float | None, path: Path | None
) -> None:
    """Make a key that may what another may, show it this once, and let the other one end."""
    key, now = new_key(), time.time()
    overlap_s, expires = overlap_hours * HOUR_S, _expires(expires_days, now)
    with EventLog.open(config.log) as log:
        made = committed(
            log.write(
                lambda c: rotate_key(c, key_id, key, now=now, overlap_s=overlap_s, expires=expires)
            )
        )
    if made is None:
        raise SettingsError(f"no key {key_id!r} that could be rotated: see bandit-router keys list")
    click.echo(f"Key {key_id} ends within {overlap_hours:g} hours.", err=True)
    _hand_out(key, made, path)


def _influence(text: str | None) -> float | None:
    """How much a key counts; infinity is any amount, None was not said."""
    if text in (None, "all"):
        return None if text is None else math.inf
    try:
        return check_amount("influence", float(text))
    except ValueError as error:
        raise click.BadParameter(f"expected a number from 0, or all, got {text!r}") from error


def _expires(days: float | None, now: float) -> float | None:
    return None if days is None else now + days * DAY_S


def _hand_out(key: str, made: Key, path: Path | None) -> None:
    """Show a key alone on standard output, so that a script can take it; about it on the other."""
    said = f"It may {' and '.join(sorted(made.scopes))}, counts {_counts(made)} at a time, ends {_ends(made)}."
    if path is None:
        click.echo(f"Key {made.id} of {made.name}. {said}", err=True)
        click.echo(key)
        return
    path.touch(mode=0o600)
    path.write_text(json.dumps({"key": key, **_plain(made)}, indent=2) + "\n", "utf-8")
    click.echo(f"Key {made.id} is in {path}. {said}")


@keys.command("list")
@with_config
@click.option("--json", "path", type=_file, help="Write them there.")
def show(config: Config, path: Path | None) -> None:
    """Show the keys; what they are is not known here."""
    with EventLog.open(config.log) as log:
        found, now = log.read(read_keys), time.time()
    if path is not None:
        path.write_text(json.dumps([_plain(key) for key in found], indent=2) + "\n", "utf-8")
        return
    table = Table(Column("id", min_width=36), Column("state", min_width=9), box=None)  # to be copied
    for title in ("name", "scopes", "counts", "made", "ends"):
        table.add_column(title, overflow="fold")
    for key in found:
        about = (key.name, " ".join(sorted(key.scopes)), _counts(key), _date(key.created), _ends(key))
        table.add_row(key.id, _state(key, now), *about)
    console().print(table)


def _state(key: Key, now: float) -> str:
    if not key.valid(now):
        return "expired" if key.revoked is None else "revoked"
    return "valid" if key.valid(now + SOON_DAYS * DAY_S) else "ends soon"


def _counts(key: Key) -> str:
    return "all" if key.influence is None else f"{key.influence:g}"


def _ends(key: Key) -> str:
    return _date(key.expires) or "never"


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
@click.option(
    "--overlap-hours",
    type=_hours,
    default=TOKEN_HOURS,
    help="How long tokens that older secrets signed stay valid; by default until all have ended.",
)
@click.option("--retire-old", is_flag=True, help="They end at once, as with --overlap-hours 0.")
def renew(config: Config, *, overlap_hours: float, retire_old: bool) -> None:
    """Make a new secret for feedback tokens; those that are out stay valid until they end."""
    hours = 0.0 if retire_old else overlap_hours
    with EventLog.open(config.log) as log:
        committed(log.write(lambda c: rotate_secret(c, time.time(), overlap_s=hours * HOUR_S)))
    click.echo("A new secret signs; the old ones " + _verify(hours))


def _verify(hours: float) -> str:
    return f"verify for {hours:g} hours more." if hours else "are retired."


def _plain(key: Key) -> dict[str, Any]:  # Any: texts and lists of them
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "influence": key.influence,
        "created": _date(key.created),
        "expires": _date(key.expires),
        "revoked": _date(key.revoked),
    }


def _date(moment: float | None) -> str | None:
    return None if moment is None else utc(moment).isoformat(timespec="seconds")
