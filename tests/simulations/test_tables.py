"""Tables are read as they stand, and what does not fit is refused with a sentence."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from bandit_router.errors import TableError
from bandit_router.events import Model
from simulations.tables import Table, read_table, write_table

COLUMNS: dict[str, list[Any]] = {
    "prompt_id": ["007", "b", "c", "d"],
    "prompt": ["Hi", 'say "x",\nplease', "2 + 2?", "¿Qué tal?"],
    "task": ["chat", "code", "maths", "chat"],
    "turn": [1, 2, 1, 1],
    "quality__small": [0.5, 0.25, 1.0, 0.0],
    "cost_usd__small": [0.001, 0.001, 0.002, 0.001],
    "quality__large": [1.0, 0.75, 0.5, 1.0],
    "cost_usd__large": [0.01, 0.02, 0.03, 0.04],
    "output_tokens__large": [10, None, 30, 40],
}
CATALOGUE = {
    "pools": {"one": ["large"], "turned": ["large", "small"]},
    "models": [{"id": "small", "input_usd_per_mtok": 0.5, "output_usd_per_mtok": None}],
}


def write(path: Path, **changes: Any) -> Path:
    columns = {name: values for name, values in (COLUMNS | changes).items() if values is not None}
    table = pa.table(columns)
    if path.suffix == ".csv":
        csv.write_csv(table, path)
    else:
        parquet.write_table(table, path)
    return path


@pytest.fixture(params=["t.parquet", "t.csv"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / request.param)


def made(quality: Any, cost: Any, **fields: Any) -> Table:
    n, k = np.shape(quality)
    ids = tuple(f"p{i}" for i in range(n))
    models = tuple(Model(f"m{i}") for i in range(k))
    values = {"name": "t", "prompt_ids": ids, "prompts": ids, "models": models} | fields
    return Table(quality=quality, cost_usd=cost, **values)


def test_reads_what_is_there(path: Path) -> None:
    table = read_table(path)
    assert (table.name, len(table), table.names, table.dropped) == ("t", 4, ("small", "large"), 0)
    assert table.prompt_ids == ("007", "b", "c", "d")
    assert table.prompts[1] == 'say "x",\nplease'
    assert table.tasks == ("chat", "code", "maths", "chat")
    np.testing.assert_array_equal(table.quality[:, 1], COLUMNS["quality__large"])
    np.testing.assert_array_equal(table.cost_usd[:, 0], COLUMNS["cost_usd__small"])
    assert table.output_tokens is not None
    assert np.isnan(table.output_tokens).sum() == 5
    assert table.latency_s is None
    assert not table.quality.flags.writeable


def test_a_file_without_ids_tasks_or_costs(tmp_path: Path) -> None:
    bare = {"prompt_id": None, "task": None, "cost_usd__small": None, "cost_usd__large": None}
    table = read_table(write(tmp_path / "t.parquet", **bare))
    assert table.prompt_ids == ("0", "1", "2", "3")
    assert table.tasks is None
    assert not table.has_cost
    assert table.cost_unit_usd == 0.0
    np.testing.assert_array_equal(table.reward(0.0), table.quality)
    with pytest.raises(TableError, match=r"no costs, so price_weight must be 0, got 0\.3"):
        table.reward(0.3)


def test_prices_and_pools_come_from_the_catalogue(path: Path) -> None:
    (path.parent / "models.json").write_text(json.dumps(CATALOGUE), "utf-8")
    assert read_table(path).models == (Model("small", input_usd_per_mtok=0.5), Model("large"))
    turned = read_table(path, pool="turned")
    assert (turned.names, turned.pool) == (("large", "small"), "turned")
    np.testing.assert_array_equal(turned.quality[:, 0], COLUMNS["quality__large"])
    assert read_table(path, pool="one").names == ("large",)


@pytest.mark.parametrize("pool", ["large, small", ["large", "small"]])
def test_a_pool_of_names(path: Path, pool: Any) -> None:
    assert read_table(path, pool=pool).names == ("large", "small")


@pytest.mark.parametrize("pool", ["", "huge", "small,huge", "small,small", []])
def test_a_pool_that_is_none(path: Path, pool: Any) -> None:
    with pytest.raises(TableError, match="pool"):
        read_table(path, pool=pool)


def test_a_broken_catalogue(path: Path) -> None:
    for text in ("{", "[1]", '{"models": [1]}', '{"pools": {"a": 1}}'):
        (path.parent / "models.json").write_text(text, "utf-8")
        with pytest.raises(TableError, match=r"models\.json"):
            read_table(path)
    (path.parent / "models.json").write_text('{"models": [{"id": "small", "input_usd_per_mtok": -1}]}')
    with pytest.raises(TableError, match="model 'small': input_usd_per_mtok"):
        read_table(path)


def test_where_compares_text_of_any_column(path: Path) -> None:
    assert read_table(path, where={"task": "chat"}).prompt_ids == ("007", "d")
    assert read_table(path, where={"task": "chat", "prompt_id": "d"}).prompt_ids == ("d",)
    assert read_table(path, where={"turn": "2"}).prompt_ids == ("b",)
    with pytest.raises(TableError, match="no column 'tsk'; columns: prompt_id, prompt, task"):
        read_table(path, where={"tsk": "chat"})
    with pytest.raises(TableError, match="no row where task is 'poetry'"):
        read_table(path, where={"task": "poetry"})


def test_rows_are_spread_over_the_file(path: Path) -> None:
    assert read_table(path, rows=2).prompt_ids == ("007", "c")
    assert len(read_table(path, rows=99)) == 4
    with pytest.raises(TableError, match="rows: expected at least 1, got 0"):
        read_table(path, rows=0)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_missing_quality_or_cost_drops_the_row_aloud(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(
        tmp_path / name, quality__small=[0.5, None, 1.0, 0.0], cost_usd__large=[0.01, 0.02, 0.03, None]
    )
    with caplog.at_level(logging.WARNING):
        table = read_table(path)
    assert (table.prompt_ids, table.dropped) == (("007", "c"), 2)
    assert "2 rows dropped" in caplog.text
    assert read_table(path, pool="large").dropped == 1
    assert read_table(path, pool="large", where={"turn": "2"}).dropped == 0


def test_costs_are_made_of_tokens_and_prices(tmp_path: Path) -> None:
    models = [
        {"id": n, "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0} for n in ("small", "large")
    ]
    (tmp_path / "models.json").write_text(json.dumps({"models": models}))
    table = read_table(
        write(
            tmp_path / "t.parquet",
            cost_usd__large=None,
            input_tokens__large=[100] * 4,
            output_tokens__large=[10] * 4,
        )
    )
    np.testing.assert_allclose(table.cost_usd[:, 1], 0.0002)


def test_a_model_without_any_cost_takes_the_costs_of_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "t.parquet", cost_usd__large=None)
    table = read_table(path)
    assert not table.has_cost
    assert "these models have none: large" in caplog.text
    assert read_table(path, pool="small").has_cost


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "no column 'prompt'; columns: prompt_id, task"),
        ({"prompt": ["Hi", None, "c", "d"]}, "row 1 has no prompt"),
        ({"quality__small": None, "quality__large": None}, "no column 'quality__<model>'"),
        (
            {"quality__large": [1.0, 1.5, 0.5, 1.0]},
            r"quality of model 'large' in row 1 \(prompt_id 'b'\): expected a number from 0 to 1, got 1",
        ),
        ({"quality__large": [1.0, -0.1, 0.5, 1.0]}, "got -0.1"),
        ({"quality__large": [None] * 4}, "each of its 4 rows lacks a quality or a cost"),
        (
            {"quality__large": ["1", "high", "0", "1"]},
            "'quality__large', row 1: expected a number, got 'high'",
        ),
        ({"cost_usd__large": [0.01, -1.0, 0.03, 0.04]}, "cost_usd of model 'large' in row 1"),
        ({"cost_usd__large": [0.01, 0.02, float("inf"), 0.04]}, "finite number, not negative, got inf"),
        ({"quality__": [0.5] * 4}, "model ''"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "t.parquet", **changes)
    with pytest.raises(TableError, match=message) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_rows(tmp_path: Path) -> None:
    parquet.write_table(pa.table(COLUMNS).slice(0, 0), tmp_path / "t.parquet")
    with pytest.raises(TableError, match="has no rows"):
        read_table(tmp_path / "t.parquet")


def test_texts_that_are_numbers_are_read(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.parquet", quality__small=["0.5", "True", "false", "1e-1"]))
    np.testing.assert_array_equal(table.quality[:, 0], [0.5, 1.0, 0.0, 0.1])


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_round_trip(path: Path, tmp_path: Path, name: str) -> None:
    (path.parent / "models.json").write_text(json.dumps(CATALOGUE), "utf-8")
    table = read_table(path)
    out = tmp_path / "out"
    out.mkdir()
    write_table(table, out / name)
    again = read_table(out / name)
    assert (again.prompt_ids, again.prompts, again.tasks, again.models) == (
        table.prompt_ids,
        table.prompts,
        table.tasks,
        table.models,
    )
    for measure, values in table.measures().items():
        np.testing.assert_array_equal(again.measures()[measure], values)


def test_writing_keeps_what_the_catalogue_says_of_others(path: Path) -> None:
    (path.parent / "models.json").write_text(json.dumps(CATALOGUE), "utf-8")
    write_table(made([[0.5]], [[0.1]]), path.parent / "other.parquet")
    kept = json.loads((path.parent / "models.json").read_text("utf-8"))
    assert kept["pools"] == CATALOGUE["pools"]
    assert [entry["id"] for entry in kept["models"]] == ["small", "m0"]


def test_writing_elsewhere(tmp_path: Path) -> None:
    table = made([[0.5]], [[0.1]])
    with pytest.raises(TableError, match=r"expected a \.parquet or \.csv file, got \.xls"):
        write_table(table, tmp_path / "t.xls")
    with pytest.raises(OSError):
        write_table(table, tmp_path / "nowhere" / "t.parquet")


def test_reward_by_hand() -> None:
    table = made([[0.5, 0.6], [0.1, 1.0]], [[0.1, 1.0], [0.1, 3.0]])
    assert table.cost_unit_usd == 2.0
    np.testing.assert_allclose(table.reward(0.2), [[0.49, 0.5], [0.09, 0.7]])
    np.testing.assert_allclose(table.reward(0.2, cost_unit_usd=1.0), [[0.48, 0.4], [0.08, 0.4]])
    with pytest.raises(ValueError, match="price_weight"):
        table.reward(-1.0)
    with pytest.raises(ValueError, match="cost_unit_usd"):
        table.reward(0.2, cost_unit_usd=0.0)


def test_take_and_pool(path: Path) -> None:
    table = read_table(path)
    part = table.take([3, 0])
    assert (part.prompt_ids, part.tasks) == (("d", "007"), ("chat", "chat"))
    np.testing.assert_array_equal(part.quality, table.quality[[3, 0]])
    assert len(table.take(np.array([True, False, False, True]))) == 2
    turned = table.with_pool(["large", "small"])
    np.testing.assert_array_equal(turned.cost_usd, table.cost_usd[:, ::-1])
    assert (turned.names, turned.pool) == (("large", "small"), "large,small")
    with pytest.raises(TableError, match="no model or pool 'huge'; models: small, large"):
        table.with_pool(["huge"])
    with pytest.raises(TableError, match="at least one row"):
        table.take(np.array([], dtype=int))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_ids": ("a",)}, "prompt_ids: expected 2, got 1"),
        ({"models": (Model("a"), Model("a"))}, "expected different models"),
        ({"latency_s": np.zeros(2)}, r"latency_s: expected shape \(2, 2\), got \(2,\)"),
        ({"latency_s": np.full((2, 2), -1.0)}, "latency_s of model 'm0'"),
    ],
)
def test_a_table_checks_itself(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError, match=message):
        made(np.full((2, 2), 0.5), np.zeros((2, 2)), **fields)
    with pytest.raises(TableError, match="quality: expected a number everywhere, got NaN"):
        made([[np.nan]], [[0.0]])


def test_the_callers_array_stays_writeable() -> None:
    quality = np.full((1, 1), 0.5)
    table = made(quality, [[0.0]])
    quality[0, 0] = 0.7
    assert table.quality[0, 0] == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 5))
def test_taking_all_rows_changes_no_reward(quality: list[float], weight: float) -> None:
    table = made(np.array(quality)[:, None], np.linspace(0.1, 1.0, len(quality))[:, None])
    order = np.random.default_rng(0).permutation(len(quality))
    np.testing.assert_allclose(table.take(order).reward(weight), table.reward(weight)[order], atol=1e-9)
