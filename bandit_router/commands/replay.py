"""``bandit-router replay``: what other policies would have earned, by the log."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from bandit_router.commands.options import console, with_config
from bandit_router.commands.tables import EXISTING, WRITTEN, in_folder
from bandit_router.config import Config
from bandit_router.errors import ReplayError

if TYPE_CHECKING:
    from simulations.offpolicy.verdicts import Verdict, Verdicts
    from simulations.rounds import Rounds

DEFAULT_POLICIES = ("logged", "thompson", "greedy", "uniform")
MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])


@click.command()
@with_config
@click.option(
    "--policy",
    "specs",
    multiple=True,
    default=DEFAULT_POLICIES,
    show_default=True,
    metavar="SPEC",
    help="logged, fixed:MODEL, thompson, linucb:alpha=A, igw:gamma=G, egreedy:epsilon=E, greedy, uniform, each "
    "with floor=F; or learn:POLICY, with half_life=7d and from=all or from=own.",
)
@click.option("--since", type=MOMENT, help="The first moment, UTC.")
@click.option("--until", type=MOMENT, help="The first moment that is left out, UTC.")
@click.option(
    "--export",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Read what `bandit-router export` wrote, instead of a log.",
)
@click.option("--json", "path", type=WRITTEN, callback=in_folder, help="Write the results for machines.")
@click.option("--html", "page", type=WRITTEN, callback=in_folder, help="Write a page.")
@click.option(
    "--check",
    "tables",
    type=EXISTING,
    multiple=True,
    metavar="TABLE",
    help="Instead: draw logs from full-information tables, and tell how often intervals hold the truth.",
)
@click.option("--logs", type=click.IntRange(min=2), default=200, show_default=True, help="For --check.")
def replay(
    config: Config,
    specs: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    path: Path | None,
    *,
    folder: Path | None,
    page: Path | None,
    tables: tuple[Path, ...],
    logs: int,
) -> None:
    """Say what policies would have earned on the requests of the log, with intervals, and where it cannot.

    Fixed policies go by what the router believed at each decision; learn:POLICY makes beliefs of its own, from
    earlier decisions only. How to read it: docs/replay.md.
    """
    if tables:
        if page is not None or folder is not None:
            raise click.UsageError("--check draws logs of its own, and writes --json only")
        _check(tables, logs, path)
        return
    from simulations.offpolicy.verdicts import judge

    if folder is not None and (since or until):
        raise click.UsageError("--since and --until are for a log; an export is of one period")
    rounds = _of_log(config, since, until) if folder is None else _of_export(folder)
    found = judge(rounds, specs)
    _show(found)
    if path is not None:
        path.write_text(json.dumps(found.document(), indent=1) + "\n")
    if page is not None:
        from simulations.offpolicy.page import write_html

        write_html(page, found)
    if all(verdict.refusal for verdict in found.policies):
        raise ReplayError("the log supports an answer for none of these policies")


def moment_s(moment: datetime | None) -> float | None:
    """Return a moment of an option [s since 1970]."""
    return None if moment is None else moment.replace(tzinfo=UTC).timestamp()


def _of_log(config: Config, since: datetime | None, until: datetime | None) -> Rounds:
    import numpy as np

    from bandit_router.log import EventLog
    from simulations.rounds import read

    with EventLog.open(config.log) as log:
        return read(log, config.router, since=moment_s(since), until=moment_s(until), dtype=np.float32)


def _of_export(folder: Path) -> Rounds:
    import numpy as np

    from simulations.rounds import read_folder

    return read_folder(folder, dtype=np.float32)


def _show(found: Verdicts) -> None:
    terminal = console()
    terminal.print(
        f"{found.draws:,} draws ({found.turns:,} decisions) over {len(found.models)} models, "
        f"of which {found.heard:,} have a reward."
    )
    for why, n in found.left_out.items():
        terminal.print(f"left out: {n:,}: {why}")
    if found.model_sets > 1:
        terminal.print(f"{found.model_sets} different sets of models were eligible; a policy had those.")
    if not found.calibration.sound:
        worst = found.calibration.worst
        terminal.print(
            f"THE LOGGED PROBABILITIES ARE NOT THOSE OF THE DRAWS ({worst.what}: {worst.drawn:,.1f} drawn, "
            f"{worst.expected:,.1f} expected, z = {worst.z:.1f}): do not believe what follows.",
            style="bold red",
        )
    terminal.print(_table(found))
    for said in _aloud(found):
        terminal.print(Text(said))  # no emoji of ":a:"
    if found.heard < found.draws:
        terminal.print(
            "Missing rewards: values are weighed up to all draws as if rewards were missing by prompt and "
            "model alone. Nothing is assumed in the last column: all missing are 0, all missing are 1."
        )


def _aloud(found: Verdicts) -> list[str]:
    """What must be known of policies beside their numbers."""
    said = [f"{v.spec}: refused: {v.refusal}" for v in found.policies if v.refusal]
    for verdict in (v for v in found.policies if not v.refusal):
        if verdict.unfit:
            said.append(
                f"{verdict.spec}: judged on {found.draws - verdict.unfit:,} draws, not to be compared with "
                f"others; at {verdict.unfit:,} it could draw none of the models that were eligible"
            )
        if (lost := 1 - verdict.reach.overlap) >= 0.0005:
            said.append(
                f"{verdict.spec}: {lost:.1%} of what it draws had a probability of 0 in the log: "
                "only the last column, from 0 to 1 for these, counts it"
            )
    return said


def _table(found: Verdicts) -> Table:
    table = Table(
        "policy", "ips", "snips", "dr", "at any time", "USD", "effective", "unknown 0..1", box=None
    )
    for verdict in found.policies:
        if not verdict.refusal:
            table.add_row(*_row(verdict))
    return table


def _row(verdict: Verdict) -> list[str | Text]:
    names = ("ips", "snips", "dr", "ips (sequence)")
    known = [verdict.estimates.get(name) for name in names]
    cells = ["-" if e is None else f"{e.value:.4f} [{e.low:.4f}, {e.high:.4f}]" for e in known]
    paid = "-" if verdict.paid is None else f"{verdict.paid.value:.6f}"
    gap = "-"
    if verdict.low is not None and verdict.high is not None:
        gap = f"{verdict.low.low:.3f}..{verdict.high.high:.3f}"
    return [Text(verdict.spec), *cells, paid, f"{verdict.estimates['ips'].effective:,.0f}", gap]


def _check(tables: tuple[Path, ...], logs: int, path: Path | None) -> None:
    from simulations.offpolicy.coverage import cover, doubted, rarest_of, scenery_of
    from simulations.tables import read_table

    scenes = {table.stem: scenery_of(read_table(table)) for table in tables}
    asked = {
        f"{name}: {what}": question
        for name, scene in scenes.items()
        for what, question in (("thompson", scene), ("rarest", rarest_of(scene)))
    }
    found = {name: cover(scene, logs=logs) for name, scene in asked.items()}
    wrong = {name: doubted(scene, logs=logs) for name, scene in scenes.items()}
    shown = Table(
        f"covered of {logs}", *(f"{name} (rmse)" for name in found), box=None, title="95 % intervals"
    )
    for estimator in next(iter(found.values())):
        cells = [f"{per[estimator].covered} ({per[estimator].rmse:.4f})" for per in found.values()]
        shown.add_row(estimator, *cells)
    console().print(shown)
    lies = Table("probabilities", *wrong, box=None, title=f"called wrong, of {logs}")
    for lie in next(iter(wrong.values())):
        lies.add_row(lie, *(str(per[lie]) for per in wrong.values()))
    console().print(lies)
    if path is not None:
        intervals = {name: {e: asdict(c) for e, c in per.items()} for name, per in found.items()}
        plain = {"intervals": intervals, "called_wrong": wrong}
        path.write_text(json.dumps(plain, indent=1) + "\n")
