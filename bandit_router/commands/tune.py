"""``bandit-router tune``: settings of exploration, by a log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from bandit_router.commands.options import check_installed, console, with_config
from bandit_router.commands.replay import MOMENT, moment_s
from bandit_router.commands.tables import EXISTING, WRITTEN, in_folder, progress_bar
from bandit_router.config import Config
from bandit_router.errors import ReplayError

if TYPE_CHECKING:
    from datetime import datetime

    from bandit_router.log import EventLog
    from simulations.tuning.changes import Change
    from simulations.tuning.search import Tuned

NOTHING = 3  # the exit code where nothing is recommended


@click.command()
@with_config
@click.argument("table", type=EXISTING, required=False)
@click.option("--since", type=MOMENT, help="The first moment of the log, UTC.")
@click.option("--until", type=MOMENT, help="The first moment that is left out, UTC.")
@click.option("--trials", type=click.IntRange(min=1), default=60, show_default=True)
@click.option(
    "--share", type=click.FloatRange(0.1, 0.9), default=0.5, show_default=True, help="That is searched."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--now", default="thompson", show_default=True, help="With a TABLE: what is used now.")
@click.option("--write", type=WRITTEN, callback=in_folder, help="Write the settings for the config.")
@click.option("--json", "path", type=WRITTEN, callback=in_folder, help="Write the results for machines.")
@click.option("--check", is_flag=True, help="Instead: tune on logs of a poor setting, and of noise.")
def tune(
    config: Config,
    table: Path | None,
    since: datetime | None,
    until: datetime | None,
    *,
    trials: int,
    share: float,
    seed: int,
    now: str,
    write: Path | None,
    path: Path | None,
    check: bool,
) -> None:
    """Search settings on the earlier part of the log, or on rows of TABLE, and confirm them on the other.

    Nothing is recommended, with exit code 3, unless what is recommended is better beyond chance.
    docs/tuning.md.
    """
    check_installed("tune", "optuna", extras="tune")
    if check:
        if table is None:
            raise click.UsageError("--check needs a TABLE")
        _check(table, path)
        return
    if table is None:
        found = _of_log(config, moment_s(since), moment_s(until), trials=trials, share=share, seed=seed)
    else:
        found = _of_table(table, now, trials=trials, share=share, seed=seed)
    _show(found)
    if path is not None:
        path.write_text(json.dumps(found.document(), indent=1) + "\n")
    if found.recommended is None:
        raise SystemExit(NOTHING)
    if write is not None:
        write.write_text(found.recommended.candidate.toml())


def _of_log(
    config: Config, since: float | None, until: float | None, **options: Any
) -> Tuned:  # Any: of each option's own type
    from bandit_router.log import EventLog
    from simulations.offpolicy.draws import draws_of
    from simulations.rounds import read
    from simulations.tuning.search import tune_draws

    with EventLog.open(config.log) as log:
        _check_weights(log, config.router)
        rounds = read(log, config.router, since=since, until=until)
    with progress_bar("Searching ...") as progress:
        return tune_draws(draws_of(rounds), progress=progress, **options)


def _check_weights(log: EventLog, router: str) -> None:
    """Refuse a router that weighs dollars or seconds: its choices are not those that are searched."""
    from bandit_router.log.registration import read_registration

    with log.reading() as connection:
        found = read_registration(connection, router)
    if found is None:
        return
    wish = found.settings.preference
    if wish.price_weight or wish.latency_weight or found.settings.budget_usd_per_request is not None:
        raise ReplayError(
            "tune weighs rewards alone, and this router weighs price, latency or a budget too; "
            "tune on a TABLE of it, or set these by hand (calibrate)"
        )


def _of_table(table: Path, now: str, **options: Any) -> Tuned:  # Any: of each option's own type
    from simulations.tables import read_table
    from simulations.tuning.rehearsal import tune_table

    with progress_bar("Searching ...") as progress:
        return tune_table(read_table(table), now=now, progress=progress, **options)


def _show(found: Tuned) -> None:
    terminal = console()
    terminal.print(f"Searched {found.searched:,} decisions, confirmed on {found.confirmed:,} others.")
    if found.finalists:
        shown = Table("policy", "floor", "half-life [s]", "reward", "USD per decision", box=None)
        for one in found.finalists:
            c = one.candidate
            half_life = "-" if c.half_life_s is None else f"{c.half_life_s:g}"
            cells = (f"{c.floor:g}", half_life, _change(one.reward), _change(one.usd))
            shown.add_row(Text(c.policy), *cells)
        terminal.print(shown)
    if found.recommended is None:
        terminal.print(Text(f"Nothing is recommended: {found.refusal}."))
        return
    terminal.print("Recommended, for the config:")
    terminal.print(Text(found.recommended.candidate.toml()))


def _change(change: Change | None) -> str:
    return "-" if change is None else f"{change.value:+.5f} [{change.low:+.5f}, {change.high:+.5f}]"


def _check(table: Path, path: Path | None) -> None:
    from simulations.tables import read_table
    from simulations.tuning.checking import check

    with progress_bar("Checking ...") as progress:
        found = check(read_table(table), progress=progress)
    terminal = console()
    terminal.print(
        f"Of {found.seeds} logs of a poor setting, {found.recommended} have a recommendation; played live, "
        f"{found.better} are better, by {found.gain:+.4f} on average ({found.foretold:+.4f} foretold)."
    )
    terminal.print(
        f"Of {found.noise_seeds} logs of noise, {found.noise_recommended} have a recommendation."
    )
    if path is not None:
        path.write_text(json.dumps(asdict(found), indent=1) + "\n")
