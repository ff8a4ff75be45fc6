"""The command `evaluate`: each protocol, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from bandit_router.commands.evaluate import evaluate
from simulations.tables import write_table
from simulations.worlds import small_world

WORLD = small_world(0).table(120, 1)
QUICK = ("--policy", "ridge", "--order-seeds", 2)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "world.parquet"
    write_table(WORLD, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("protocol", "number"),
    [("routerbench", "aiq_paper"), ("routellm", "apgr"), ("routerarena", "score"), ("headroom", "gain")],
)
def test_each_protocol(table: Path, tmp_path: Path, protocol: str, number: str) -> None:
    out = tmp_path / "out.json"
    policy = ("--policy", "thompson", "--order-seeds", 2) if protocol == "headroom" else QUICK
    result = run(table, "--protocol", protocol, *policy, "--rows", 40, "--json", out)
    assert result.exit_code == 0, result.output
    written: dict[str, Any] = json.loads(out.read_text())
    assert (written["protocol"], written["table"], written["table_rows"]) == (protocol, "world", 120)
    rows = {row["router"]: row for row in written["rows"]}
    mean, low, high = (rows[policy[1]][number][bound] for bound in ("mean", "low", "high"))
    assert low <= mean <= high
    assert f"{mean:.4f}" in result.stdout


def test_a_prior_and_a_part_of_the_tasks(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    part = ("--where", "task=co*", "--prior", table, "--prior-where", "task=co*", "--prior-rows", 5)
    result = run(table, "--protocol", "routellm", *QUICK, *part, "--rows", 10, "--json", out)
    assert result.exit_code == 0, result.output
    assert "5 rows left out: the prior holds them" in result.output
    assert json.loads(out.read_text())["table_rows"] == (WORLD.tasks or ()).count("code")


def test_routerbench_pickle_behind_its_flag(tmp_path: Path) -> None:
    path = tmp_path / "routerbench.pkl"
    frame = pd.DataFrame(
        {"sample_id": list("abcdefghijkl"), "prompt": ["['Hi']"] * 12, "eval_name": ["mmlu"] * 12}
        | {"a/small": [0.5] * 12, "a/small|total_cost": [0.001] * 12}
        | {"b/large": [1.0] * 11 + [float("nan")], "b/large|total_cost": [0.002] * 12}
    )
    frame.to_pickle(path)
    refused = run(path, "--protocol", "routerbench", *QUICK)
    assert refused.exit_code == 2
    assert "a pickle runs whatever code it holds" in refused.output
    result = run(path, "--protocol", "routerbench", *QUICK, "--trust-pickle", "--rows", 6)
    assert result.exit_code == 0, result.output
    assert "1 rows dropped: a quality or a cost is missing" in result.output
    # From (.001, .5) to (.002, 1): mean height .75, and .75 * .001 / .002 by the authors' code.
    zero = next(line for line in result.output.splitlines() if line.startswith("zero"))
    assert "0.7500" in zero
    assert "0.3750" in zero


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "routellm", "--strong", "gpt-7"), "no model or pool 'gpt-7'"),
        (("--protocol", "routellm", "--pool", "small-fast"), "needs at least two models"),
        (("--protocol", "routerarena", "--pool", "small-fast"), "needs at least two models"),
        (("--protocol", "headroom", "--pool", "small-fast"), "needs at least two models"),
        (("--protocol", "routerbench", "--pool", "gpt-7"), "no model or pool 'gpt-7'"),
        (("--protocol", "routerbench", "--where", "task=poems"), "no row where task is 'poems'"),
        (("--protocol", "routerbench", "--policy", "uniform"), "foretells no quality"),
        (("--protocol", "routerbench", "--policy", "nobody"), "no policy 'nobody'"),
        (("--protocol", "routerbench", "--rows", 120), "leave none on one side"),
        (("--protocol", "routerbench", "--weak", "small-fast"), "--weak and --strong are for routellm"),
        (("--protocol", "routellm", "--price-weight", 0.1), "--price-weight is for headroom"),
        (("--protocol", "helm"), "is not one of"),
        ((), "Missing option '--protocol'"),
    ],
)
def test_what_is_refused(table: Path, arguments: tuple[object, ...], message: str) -> None:
    result = run(table, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_tables_without_costs_or_numbers(table: Path, tmp_path: Path) -> None:
    columns = pq.read_table(table)
    free = tmp_path / "free.parquet"
    pq.write_table(
        columns.select([n for n in columns.column_names if "__" not in n or n.startswith("quality")]),
        free,
    )
    for protocol in ("routerbench", "routerarena"):
        result = run(free, "--protocol", protocol, *QUICK)
        assert result.exit_code == 2
        assert "needs the costs of all its models" in result.output
    assert run(free, "--protocol", "routellm", *QUICK).exit_code == 0
    empty = tmp_path / "empty.parquet"
    missing = pa.nulls(len(columns), pa.float64())
    name = "quality__small-fast"
    pq.write_table(columns.set_column(columns.column_names.index(name), name, missing), empty)
    result = run(empty, "--protocol", "routellm", *QUICK)
    assert result.exit_code == 2
    assert "each of its 120 rows lacks a quality or a cost" in result.output
