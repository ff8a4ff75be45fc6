"""The command `simulate`: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from upstream import Reply, Upstream

from bandit_router.commands.simulate import simulate
from simulations.tables import write_table
from simulations.worlds import small_world

WORLD = small_world(0).table(120, 1)
KEYS = {
    "policy",
    "seed",
    "price_weight",
    "budget_usd",
    "mean_reward",
    "mean_reward_last_third",
    "mean_quality",
    "mean_cost_usd",
    "total_cost_usd",
    "regret_vs_best_fixed",
    "regret_vs_oracle",
    "share",
    "n",
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "world.parquet"
    write_table(WORLD, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(simulate, [str(argument) for argument in arguments])


def document(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_json_has_the_keys_of_the_contract(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ("--rows", 40, "--order-seeds", 2, "--price-weight", 0, "--price-weight", 0.3)
    result = run(table, *arguments, "--json", out)
    assert result.exit_code == 0, result.output
    assert "thompson" in result.stdout
    written = document(out)
    assert {"table", "pool", "n", "rows"} <= set(written)
    assert (written["table"], written["pool"], written["n"]) == ("world", None, 40)
    assert len(written["rows"]) == 5 * 2 * 2
    for row in written["rows"]:
        assert set(row) == KEYS
        unit = WORLD.cost_unit_usd
        spent = row["price_weight"] * row["mean_cost_usd"] / unit
        assert row["mean_reward"] == pytest.approx(row["mean_quality"] - spent)
        assert row["n"] == 40
        assert sum(row["share"].values()) == pytest.approx(1.0)


def test_html_is_written(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    result = run(table, "--rows", 20, "--order-seeds", 2, "--policy", "uniform", "--html", out)
    assert result.exit_code == 0, result.output
    assert "uniform" in out.read_text()


def test_pool_where_and_prior(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = WORLD.tasks.count("code") if WORLD.tasks else 0
    result = run(
        *(table, "--where", "task=code", "--pool", "small-fast,large-strong", "--policy", "thompson"),
        *("--prior", table, "--prior-where", "task=code", "--prior-rows", 5, "--order-seeds", 1),
        *("--json", out),
    )
    assert result.exit_code == 0, result.output
    assert "5 rows left out: the prior holds them" in result.output
    row = document(out)["rows"][0]
    assert (row["n"], set(row["share"])) == (code - 5, {"small-fast", "large-strong"})


def test_features_made_of_embeddings(table: Path, tmp_path: Path) -> None:
    def embed(body: dict[str, Any]) -> Reply:
        data = [
            {"index": i, "embedding": [len(s), 1, s.count("e")]} for i, s in enumerate(body["input"])
        ]
        return Reply(raw=json.dumps({"data": data}).encode())

    out = tmp_path / "out.json"
    with Upstream(embed) as upstream:
        result = run(
            *(table, "--features", f"openai:model=m,dim=3,base_url={upstream.url}"),
            *("--policy", "linucb", "--order-seeds", 1, "--jobs", 1, "--json", out),
        )
    assert result.exit_code == 0, result.output
    assert len(upstream.requests) == 2  # 120 prompts
    assert document(out)["rows"][0]["n"] == 120


def test_budget_thumbs_and_features(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run(
        *(table, "--budget", 0.002, "--feedback", "thumbs", "--features", "hashed:buckets=8"),
        *("--policy", "linucb", "--order-seeds", 1, "--jobs", 1, "--json", out),
    )
    assert result.exit_code == 0, result.output
    assert document(out)["rows"][0]["budget_usd"] == 0.002


SCENARIO = """
name = "dear and gone"
feedback = {delay_rounds = 3}
[[price]]
at = 30
model = "large-strong"
factor = 4
[[retire]]
at = 60
model = "small-fast"
[[mark]]
at = 70
until = 80
name = "late"
"""


def test_a_scenario_has_phases(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    scenario, out, page = (tmp_path / name for name in ("world.toml", "out.json", "out.html"))
    scenario.write_text(SCENARIO)
    arguments = ("--scenario", scenario, "--policy", "thompson", "--policy", "fresh:linucb")
    result = run(
        table, *arguments, "--order-seeds", 2, "--price-weight", 0.3, "--json", out, "--html", page
    )
    assert result.exit_code == 0, result.output
    assert "small-fast goes" in result.stdout
    assert "late" in result.stdout
    assert "price of large-strong x4" in page.read_text()
    rows = document(out)["rows"]
    assert len(rows) == 4
    for row in rows:
        assert set(row) == KEYS | {"phases", "marks"}
        assert [(p["from"], p["to"]) for p in row["phases"]] == [(0, 30), (30, 60), (60, 120)]
        assert [(p["name"], p["from"], p["to"]) for p in row["marks"]] == [("late", 70, 80)]
        assert row["phases"][2]["share"]["small-fast"] == 0.0
        whole = sum(p["mean_reward"] * (p["to"] - p["from"]) for p in row["phases"])
        assert whole == pytest.approx(row["mean_reward"] * 120)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "no key 'colour'"),
        ("[[price]]\nat = 500\nmodel = 'small-fast'\nfactor = 2", "rounds up to 120"),
        ("[[retire]]\nat = 5\nmodel = 'huge'", "no model 'huge'"),
        ("name =", "Invalid value"),
    ],
)
def test_a_wrong_scenario_is_one_line(table: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "world.toml"
    path.write_text(text)
    result = run(table, "--policy", "uniform", "--scenario", path)
    assert result.exit_code == 2, result.output
    assert "world.toml" in result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_dropped_rows_are_said_aloud(tmp_path: Path) -> None:
    path = tmp_path / "holes.parquet"
    quality = np.array([0.5, np.nan, 0.7, 0.2])
    columns = {"prompt": list("abcd"), "quality__x": quality, "quality__y": [0.1, 0.2, 0.3, 0.4]}
    pq.write_table(pa.table(columns), path)
    result = run(path, "--policy", "uniform")
    assert result.exit_code == 0, result.output
    assert "1 rows dropped" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "conjuror"), "no policy 'conjuror'"),
        (("--policy", "fixed:huge"), "no model 'huge'"),
        (("--policy", "linucb:beta=2"), "beta"),
        (("--pool", "nobody"), "no model or pool 'nobody'"),
        (("--where", "colour=red"), "no column 'colour'"),
        (("--where", "task"), "expected COL=VALUE"),
        (("--where", "task=cooking"), "no row where"),
        (("--order-seeds", "0"), "x>=1"),
        (("--rows", "0"), "x>=1"),
        (("--rows", "many"), "not a valid int"),
        (("--price-weight", "nan"), "finite number"),
        (("--price-weight", "-1"), "x>=0"),
        (("--budget", "nan"), "finite number"),
        (("--budget", "0"), "x>0"),
        (("--feedback", "stars"), "not one of"),
        (("--features", "magic"), "expected hashed"),
        (("--features", "openai:model=m,api_key_env=ABSENT_API_KEY"), "no ABSENT_API_KEY"),
        (("--features", "callable:name=n,version=1"), "the host's own"),
        (("--jobs", "0"), "x>=1"),
        (("--where", "task=a", "--where", "task=b"), "each column once"),
        (("--json", ""), "expected a file"),
        (("--features", "vectors:dim=3"), "a table has texts"),
        (("--policy", "thompson:alpha=1"), "its options: width"),
        (("--prior-rows", "5"), "need --prior"),
        (("--prior", "nowhere.parquet"), "does not exist"),
        (("--json", "nowhere/out.json"), "no such folder"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    table: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run(table, "--policy", "uniform", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_missing_table_is_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path / "nothing.parquet").exit_code == 2
    (tmp_path / "empty.parquet").write_bytes(b"not parquet")
    assert run(tmp_path / "empty.parquet").exit_code == 2


def test_a_quality_floor_is_an_option(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ("--rows", 60, "--order-seeds", 1, "--policy", "greedy", "--price-weight", 0.3)
    assert run(table, *arguments, "--max-quality-drop", 0.02, "--json", out).exit_code == 0
    assert out.is_file()
    assert "max-quality-drop" in run(table, *arguments, "--max-quality-drop", 1.5).output
