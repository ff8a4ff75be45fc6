"""The table of `bandit-router bench`: a line for every bar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from bandit_router.commands.options import console
from bandit_router.errors import PeerError

if TYPE_CHECKING:
    from simulations.benches.rows import Effort, Row

_VERDICT = {True: "[green]met[/]", False: "[red]not met[/]", None: "-"}


def show_speed(only: Sequence[str], effort: Effort, path: Path | None) -> None:
    """Measure, print the table, and write it for machines.

    Raises
    ------
    SettingsError
        There is no bench of that name.
    """
    from simulations.benches.run import ABSENT, benches, machine

    terminal, wanted, where = console(), benches(only), machine()
    absent = dict(ABSENT)
    rows: list[Row] = []
    told: dict[str, object]
    with terminal.status("") as status:
        for name, bench in wanted.items():
            status.update(f"Measuring {name} ...")
            try:
                rows += bench(effort)
            except PeerError as error:
                absent[name] = str(error)
            if path is not None:  # after each, as a run takes minutes
                told = {"machine": where, "rounds": effort.rounds, "calls": effort.calls}
                told |= {"absent": absent, "rows": [row.plain() for row in rows]}
                path.write_text(json.dumps(told, indent=1))
    terminal.print(_table(rows))
    for what, why in absent.items():
        terminal.print(f"Not measured: {what}: {why}.")
    terminal.print(", ".join(f"{what} {value}" for what, value in where.items()))


def _table(rows: Sequence[Row]) -> Table:
    table = Table("what", "ours", "against", "theirs", "ratio", "bar", "", "", box=None)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        f"{_number(row.ours)} {row.unit}",
        row.against,
        "-" if row.theirs is None else f"{_number(row.theirs)} {row.unit}",
        "-" if row.ratio is None else f"{row.ratio:.2f}x",
        "" if row.bar is None else str(row.bar),
        "" if row.bar is None else _VERDICT[row.met],
        row.note,
    )


def _number(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
