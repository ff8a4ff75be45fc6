"""Comparisons as tables, files and pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bandit_router.errors import SettingsError
from simulations.compare.comparison import Comparison, Life
from simulations.compare.showing import (
    mark,
    markdown,
    read_json,
    tally,
    terminal_table,
    write_json,
    write_picture,
)
from simulations.worlds import small_world


def comparison(orders: int = 3) -> Comparison:
    lives = [
        Life(
            policy=policy,
            seed=seed,
            price_weight=weight,
            n=9,
            reward=level + 0.01 * seed,
            last_third=level,
            quality=level,
            cost_usd=1e-3,
        )
        for weight in (0.0, 0.3)
        for policy, level in (("thompson", 0.7), ("peer:[red]", 0.6), ("peer:up", 0.8))
        for seed in range(orders)
    ]
    return Comparison(
        table="t",
        pool="all",
        lives=tuple(lives),
        versions={"peer": "1"},
        missing={"peer:x": "peer: died"},
    )


def text(comparisons: list[Comparison]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal_table(comparisons))
    return console.export_text()


def test_the_terminal_says_who_is_better() -> None:
    shown = text([comparison()])
    lines = [line.split() for line in shown.splitlines()]
    assert [
        "t",
        "0",
        "peer:[red]",
        "0.6100",
        "0.6000",
        "-0.1000",
        "±0.0000",
        "-0.1000",
        "±0.0000",
        "better",
    ] in lines
    assert [line[-1] for line in lines if line and line[0] == "t"] == ["-", "better", "worse"] * 2


def test_markdown_has_a_line_for_each_policy() -> None:
    lines = markdown([comparison(1)]).splitlines()
    assert lines[:3] == [
        "| policy | ours is better | open | worse |",
        "|---|---|---|---|",
        "| `thompson` | 0 | 2 | 0 |",
    ]
    assert len(lines) == 5 + 1 + 2 + 6
    assert lines[9] == "| t | 0 | `peer:[red]` | 1 | 0.6000 | 0.6000 | -0.1000 | -0.1000 | - |"


def test_verdicts_are_counted_over_tables_and_price_weights() -> None:
    counts = tally([comparison(), comparison(), comparison(1)])
    assert counts["peer:[red]"] == {"below": 4, "-": 2}
    assert counts["peer:up"] == {"above": 4, "-": 2}


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert read_json(path) == {}
    write_json(path, {"mark": comparison()})
    assert read_json(path) == {"mark": comparison()}
    (table,) = json.loads(path.read_text())["tables"]
    assert table["peers"] == {"peer": "1"}
    assert table["rows"][1]["verdict"] == "below"
    assert table["rows"][1]["ahead"] == pytest.approx([-0.1, -0.1, -0.1])


def test_one_order_has_no_interval(tmp_path: Path) -> None:
    write_json(tmp_path / "found.json", {"mark": comparison(1)})
    (table,) = json.loads((tmp_path / "found.json").read_text())["tables"]
    assert table["rows"][1]["ahead"] == [pytest.approx(-0.1), None, None]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"tables": [{}]}', '{"tables": [{"mark": 1, "lives": [1]}]}']
)
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "found.json").write_text(content)
    with pytest.raises(SettingsError, match="expected results of compare"):
        read_json(tmp_path / "found.json")


def test_a_mark_changes_with_what_peers_live_through() -> None:
    table = small_world(0).table(10, 1)
    marks = {
        mark(table, None),
        mark(table, 5),
        mark(table.with_pool(table.names[:2]), None),
        mark(replace(table, quality=1.0 - table.quality), None),
    }
    assert len(marks) == 4
    assert mark(table, None) == mark(small_world(0).table(10, 1), None)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_drawn_by_its_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"picture.{ending}"
    write_picture(path, [comparison(), replace(comparison(1), table="other")])
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
