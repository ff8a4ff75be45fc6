"""``bandit-router retention``: old decisions leave the log for files, and erased users leave the files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bandit_router.commands.options import console, with_config
from bandit_router.config import Config
from bandit_router.errors import SettingsError
from bandit_router.log import EventLog
from bandit_router.log.erasure import Forgotten
from bandit_router.retention import DAY_S, Range, check_archives, plan, retain
from bandit_router.rewriting import adopt, erase_archived, expire_archived

USUAL_DAYS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What a run did, or would do."""

    archived: Sequence[Range]
    dry_run: bool = False
    moved: int = 0
    erased: Forgotten = field(default_factory=Forgotten)
    texts_expired: int = 0


@click.command()
@with_config
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(1.0),
    default=USUAL_DAYS,
    show_default=True,
    help="How old decisions are, in days, before they are archived; whole weeks are.",
)
@click.option(
    "--archive",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    metavar="FOLDER",
    help="Where the files go; archives that were moved here are taken note of.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be archived.")
@click.option(
    "--erasures",
    is_flag=True,
    help="Archive nothing: only erase users, and expired texts, from the archives that are there.",
)
@click.option("--check", is_flag=True, help="Read every archive, and see that it is as it was written.")
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write what was done there."
)
def retention(
    config: Config,
    days: float,
    archive: Path | None,
    dry_run: bool,
    erasures: bool,
    check: bool,
    path: Path | None,
) -> None:
    """Archive old decisions to Parquet files, and let the log forget them; what they have taught stays.

    Workers may go on meanwhile. A run may die at any point: the next one goes on where it stopped. Feedback
    about archived decisions is refused. Users who were erased since leave the files too.
    """
    if archive is None and not (dry_run or erasures or check):
        raise SettingsError(
            "retention: where to? give --archive FOLDER (or --dry-run, --erasures, --check)"
        )
    now, screen = time.time(), Console(stderr=True)
    with EventLog.open(config.log, create=False) as log:
        if dry_run:
            done = _Done(archived=plan(log, older_than_s=days * DAY_S, now=now), dry_run=True)
        elif check and archive is None and not erasures:
            done = _Done(archived=[])
        else:
            old = None if erasures or archive is None else days * DAY_S
            done = _run(log, archive, old, now, screen.status)
        if check:
            check_archives(log)
    if path is not None:
        path.write_text(json.dumps(asdict(done), indent=2) + "\n", "utf-8")
    else:
        _show(done)


def _run(
    log: EventLog,
    archive: Path | None,
    older_than_s: float | None,
    now: float,
    status: Callable[[str], AbstractContextManager[Any]],  # Any: rich's own
) -> _Done:
    moved = 0 if archive is None else adopt(log, archive)
    archived: list[Range] = []
    with status("Archiving ..."):
        if archive is not None and older_than_s is not None:
            archived = list(retain(log, archive, older_than_s=older_than_s, now=now))
    with status("Looking through the archives ..."):
        erased = erase_archived(log, now=now)
        expired = expire_archived(log, now=now)
    return _Done(archived=archived, moved=moved, erased=erased, texts_expired=expired)


def _show(done: _Done) -> None:
    table = Table("week from", "decisions", "feedback", "rewards", "MB", box=None)
    for one in done.archived:
        counts = [f"{one.rows[name]:,}" for name in ("decisions", "feedback", "rewards")]
        table.add_row(one.week, *counts, f"{one.bytes / 1e6:.1f}" if one.bytes else "")
    if done.archived:
        console().print(table)
    else:
        click.echo("Nothing is old enough." if done.dry_run else "Nothing was archived.")
    if done.dry_run:
        return
    gone = asdict(done.erased)
    left = gone.pop("archives_pending")
    if any(gone.values()) or done.texts_expired:
        click.echo(
            f"Erased from archives: {gone['decisions']} decisions and {gone['feedback']} words of users who "
            f"asked, {done.texts_expired} texts that expired."
        )
    if left:
        click.echo(
            f"{left} archives are still to be looked through for users who were erased: run this there."
        )
