"""Files that are no tables, pickles, and RouterBench's own columns."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from bandit_router.errors import TableError
from simulations.tables import read_table


def routerbench() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": ["mmlu.1", "mmlu.2", "mtbench.3", "gsm8k.4"],
            "prompt": ["['One\\nline']", "['First turn', 'Second turn']", "[not a list", "[4]"],
            "eval_name": ["mmlu", "mmlu", "mtbench", "gsm8k"],
            "gpt-4": [1.0, 0.0, 0.5, np.nan],
            "mistralai/mistral-7b-chat": pd.Series(["0.25", True, 1, None], dtype=object),
            "gpt-4|model_response": ["a", "b", "c", "d"],
            "mistralai/mistral-7b-chat|model_response": ["a", "b", "c", "d"],
            "gpt-4|total_cost": [0.01, 0.02, 0.03, 0.04],
            "mistralai/mistral-7b-chat|total_cost": [0.001, 0.002, 0.003, 0.004],
            "oracle_model_to_route_to": ["gpt-4", "no_model_correct", "gpt-4", "gpt-4"],
        }
    )


def test_routerbench_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "routerbench_0shot.pkl"
    routerbench().to_pickle(path)
    table = read_table(path, trust_pickle=True)
    assert table.names == ("gpt-4", "mistralai/mistral-7b-chat")
    assert table.prompts == ("One\nline", "First turn\nSecond turn", "[not a list")
    assert (table.tasks, table.dropped) == (("mmlu", "mmlu", "mtbench"), 1)
    assert table.prompt_ids[0] == "mmlu.1"
    np.testing.assert_array_equal(table.quality[:, 1], [0.25, 1.0, 1.0])
    np.testing.assert_array_equal(table.cost_usd[:, 0], [0.01, 0.02, 0.03])
    assert len(read_table(path, trust_pickle=True, where={"eval_name": "mmlu"})) == 2


def test_routerbench_as_csv(tmp_path: Path) -> None:
    routerbench().to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", pool="gpt-4")
    assert (len(table), table.dropped, table.prompts[1]) == (3, 1, "First turn\nSecond turn")


def test_a_pickle_is_not_opened_untrusted(tmp_path: Path) -> None:
    path = tmp_path / "t.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(TableError, match=r"runs whatever code.*trust_pickle=True \(--trust-pickle\)"):
        read_table(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"nonsense", "not a pickle that can be read"), (pickle.dumps([1]), "data frame, got list")],
)
def test_a_pickle_of_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.pkl").write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / "t.pkl", trust_pickle=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"nonsense", "not a table"),
        ("t.csv", b"", "not a table"),
        ("t.csv", b"a,b\n1\n", "not a table"),
        ("t.txt", b"x", r"expected a \.parquet, \.csv or \.pkl file, got \.txt"),
        ("t", b"x", "got no ending"),
    ],
)
def test_not_a_table(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / name)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("prompt,quality__m\nHi,1\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'bandit-router\[simulate\]'"):
        read_table(tmp_path / "t.csv")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "t.parquet", tmp_path):
        with pytest.raises(TableError, match="no such file"):
            read_table(path)


def test_a_column_twice(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,quality__m,quality__m\nHi,1,0\n")
    with pytest.raises(TableError, match="column 'quality__m' is there 2 times"):
        read_table(tmp_path / "t.csv")
    arrays = [pa.array(["Hi"]), pa.array([1.0]), pa.array([0.0])]
    twice = pa.Table.from_arrays(arrays, names=["prompt", "quality__m", "quality__m"])
    parquet.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(TableError, match="column 'quality__m' is there 2 times"):
        read_table(tmp_path / "t.parquet")


def test_missing_numbers_in_a_csv(tmp_path: Path) -> None:
    rows = ["Hi,1", "Ho,", "Ha,NaN", "Hu,null", "He,0.5"]
    (tmp_path / "t.csv").write_text("\n".join(["prompt,quality__m", *rows]) + "\n")
    table = read_table(tmp_path / "t.csv")
    assert (table.prompts, table.dropped) == (("Hi", "He"), 3)
