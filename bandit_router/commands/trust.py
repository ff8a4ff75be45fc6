"""``bandit-router trust``: learn how far users and judges are to be believed, and believe them so far."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from bandit_router.commands.options import check_installed, console, with_config
from bandit_router.config import Config
from bandit_router.router import Router

if TYPE_CHECKING:
    from feedback.agreement import Agreement
    from feedback.trust import Finding, Learnt

_RELIABILITY = "How two users' words about one answer correlate: needed with users and a single judge."


@click.command()
@with_config
@click.option(
    "--newest", type=click.IntRange(1), default=20_000, show_default=True, help="Answers looked at."
)
@click.option(
    "--reliability", type=click.FloatRange(0, 1, min_open=True, max_open=True), help=_RELIABILITY
)
@click.option("--apply", is_flag=True, help="Believe them so far, also in what was heard before.")
@click.option(
    "--table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of a log: a table of judges' grades, to measure what this is worth; or of votes.",
)
@click.option("--truth", default="quality", show_default=True, help="Which judge of the table is right.")
@click.option(
    "--halves", type=click.IntRange(2), default=20, show_default=True, help="Splits of the table."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write it there too."
)
def trust(
    config: Config,
    *,
    newest: int,
    reliability: float | None,
    apply: bool,
    table: Path | None,
    truth: str,
    halves: int,
    seed: int,
    path: Path | None,
) -> None:
    """Learn how far users and judges are to be believed, from the answers about which several of them spoke.

    What data cannot tell stays as it is, and is said. With --apply the router's metrics trust them so far, and
    the rewards of earlier decisions are revised.
    """
    if table is not None:
        _study(table, truth, halves, seed, path)
        return
    from feedback.overlaps import overlaps_of, with_trust
    from feedback.trust import learn_trust

    with Router.open(config.log, store=config.store, name=config.router, create=False) as router:
        metrics = router.settings.metrics
        learnt = learn_trust(
            overlaps_of(router.answers(newest=newest), metrics), reliability=reliability, seed=seed
        )
        _write(path, _plain(learnt))
        _show(learnt)
        if apply:
            found = [(f.signal, f.trust) for f in learnt.findings if not f.refusal]
            router.configure(metrics=with_trust(metrics, found))
            click.echo(f"Applied to {len(found)} signals; {router.reweigh()} rewards revised.")


def _show(learnt: Learnt) -> None:
    if not learnt.findings:
        click.echo("Nobody has said anything yet.")
        return
    columns = (
        "signal",
        "n",
        "overlaps",
        "reliability",
        "error",
        "bias",
        "calibration",
        "weight",
        "proposed",
    )
    shown = Table(*columns)
    for finding in learnt.findings:
        shown.add_row(*_cells(finding))
    console().print(shown)
    if not all(finding.refusal for finding in learnt.findings):
        scale = "their consensus" if learnt.reference is None else str(learnt.reference)
        click.echo(f"On the scale of {scale}.")
    if learnt.anchored:
        click.echo("It rests on the reliability assumed of a user's word: a third signal would tell.")
    for finding in learnt.findings:
        if finding.refusal:
            click.echo(f"{finding.signal} stays as it is: {finding.refusal}.")
    for doubt in sorted({finding.doubt for finding in learnt.findings if finding.doubt}):
        click.echo(f"Weights stay, as far as their intervals allow: {doubt}.")


def _cells(finding: Finding) -> list[str]:
    now, new, (low, high) = finding.signal.trust, finding.trust, finding.interval
    numbers = [f"{x:.3f}" for x in (finding.reliability, finding.error, finding.bias)]
    proposed = "-" if finding.refusal else f"{new.counts:.2f} ({low:.2f} to {high:.2f})"
    calibration = f"{new.offset:+.2f} {new.slope:+.2f} v"
    counts = [str(finding.n), str(finding.overlaps)]
    return [str(finding.signal), *counts, *numbers, calibration, f"{now.counts:.2f}", proposed]


def _plain(learnt: Learnt) -> dict[str, Any]:  # Any: JSON
    signals = [
        {
            "name": finding.signal.name,
            "source": finding.signal.source,
            "n": finding.n,
            "overlaps": finding.overlaps,
            "reliability": _finite(finding.reliability),
            "error": _finite(finding.error),
            "bias": _finite(finding.bias),
            "interval": [_finite(x) for x in finding.interval],
            "present": asdict(finding.signal.trust),
            "proposed": None if finding.refusal else asdict(finding.trust),
            "needed": finding.needed,
            "refusal": finding.refusal,
            "doubt": finding.doubt,
        }
        for finding in learnt.findings
    ]
    reference = None if learnt.reference is None else str(learnt.reference)
    return {"reference": reference, "anchored": learnt.anchored, "signals": signals}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _write(path: Path | None, body: dict[str, Any]) -> None:  # Any: JSON
    if path is not None:
        path.write_text(json.dumps(body, indent=2) + "\n", "utf-8")


def _study(table: Path, truth: str, halves: int, seed: int, path: Path | None) -> None:
    check_installed("trust --table", "pyarrow", extras="simulations")
    from pyarrow import parquet

    from feedback.agreement import grades_of, measure, votes_of
    from feedback.trust import learn_trust

    frame = parquet.read_table(table)
    if {"winner", "annotator"} <= set(frame.column_names):
        columns = {name: frame.column(name).to_pylist() for name in frame.column_names}
        found = {source: learn_trust(o, seed=seed) for source, o in votes_of(columns).items()}
        _write(path, {source: _plain(learnt) for source, learnt in found.items()})
        for source, learnt in found.items():
            click.echo(f"\n{source}")
            _show(learnt)
        return
    grades = grades_of({name: frame.column(name) for name in frame.column_names if "__" in name})
    rows = measure(grades, truth=truth, halves=halves, seed=seed)
    _write(path, {"table": table.stem, "truth": truth, "rows": [asdict(row) for row in rows]})
    _show_agreement(rows)


def _show_agreement(rows: list[Agreement]) -> None:
    columns = (
        "judges",
        "labels",
        "signal",
        "correlation",
        "within",
        "rms",
        "models' rms",
        "gain within",
    )
    shown = Table(*columns)
    for row in rows:
        apart = (
            "" if row.gain is None else f"{row.gain:+.4f} ({row.gain_low:+.4f} to {row.gain_high:+.4f})"
        )
        numbers = [f"{x:.4f}" for x in (row.correlation, row.within, row.rms, row.means)]
        shown.add_row(row.judges, row.labels, row.signal, *numbers, apart)
    console().print(shown)
