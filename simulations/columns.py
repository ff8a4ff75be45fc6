"""Files as columns: Parquet, CSV, and RouterBench's pickle, in this project's own words."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import TableError
from bandit_router.values import Array
from simulations.catalogue import some

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = frozenset(("", "nan", "na", "n/a", "null", "none"))
TRUTH = {"true": 1.0, "false": 0.0}
BLOCK_BYTES = 1 << 26  # a row of a CSV must fit into one block


def read_columns(path: Path, *, trust_pickle: bool) -> pa.Table:
    """Read a file as columns; RouterBench's and Not Diamond's appear under this project's names too.

    Parameters
    ----------
    path : Path
        A ``.parquet``, ``.csv`` or ``.pkl`` file, by its name.
    trust_pickle : bool
        A pickle runs whatever code it holds: True says that the file is trusted.

    Raises
    ------
    TableError
        The file is missing, is no table, has a column twice, or is a pickle that is not trusted.
    ImportError
        pyarrow, or pandas for a pickle, is not installed.
    """
    _need("pyarrow")
    if not path.is_file():
        raise TableError("no such file")
    kind = path.suffix.lower()
    if kind in (".pkl", ".pickle"):
        columns = _read_pickle(path, trust_pickle)
    elif kind in (".parquet", ".pq", ".csv"):
        columns = _read_arrow(path, kind)
    else:
        raise TableError(f"expected a .parquet, .csv or .pkl file, got {kind or 'no ending'}")
    _check_unique(columns.column_names)
    return _from_not_diamond(_from_routerbench(columns))


def texts(columns: pa.Table, name: str) -> list[str]:
    """Return a column as text; a missing value is an empty one."""
    values = columns.column(name).to_pylist()
    return ["" if value is None else str(value) for value in values]


def numbers(columns: pa.Table, name: str) -> Array:
    """Return a column as float64 of shape (n,); a missing value is NaN.

    Raises
    ------
    TableError
        A value is not a number; the message says which and where.
    """
    import pyarrow as pa

    column = columns.column(name)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return np.array(column.to_numpy(), dtype=np.float64)
    values = column.to_pylist()
    return np.array([_number(value, name, row) for row, value in enumerate(values)], dtype=np.float64)


def measure(columns: pa.Table, name: str, models: Sequence[str]) -> Array:
    """Return ``<name>__<model>`` of shape (n, K), NaN where the file has none."""
    values = np.full((columns.num_rows, len(models)), np.nan)
    for i, model in enumerate(models):
        if f"{name}__{model}" in columns.column_names:
            values[:, i] = numbers(columns, f"{name}__{model}")
    return values


def matching(columns: pa.Table, where: Mapping[str, str]) -> NDArray[np.bool_]:
    """Return which rows have these texts in these columns, of shape (n,).

    A text that ends in ``*`` stands for all that begin so; ``mmlu/*`` is every part of MMLU.

    Raises
    ------
    TableError
        There is no such column, or no such row.
    """
    asked = np.ones(columns.num_rows, dtype=np.bool_)
    for name, wanted in where.items():
        if name not in columns.column_names:
            raise TableError(f"no column {name!r}; columns: {some(columns.column_names)}")
        asked &= np.array([_is(value, wanted) for value in texts(columns, name)], dtype=np.bool_)
    if where and not asked.any():
        raise TableError("no row where " + " and ".join(f"{k} is {v!r}" for k, v in where.items()))
    return asked


def _is(value: str, wanted: str) -> bool:
    return value == wanted or (wanted.endswith("*") and value.startswith(wanted[:-1]))


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"this needs {package}: pip install 'bandit-router[simulate]'")


def _number(value: object, name: str, row: int) -> float:
    if value is None:
        return math.nan
    text = str(value).strip().lower()
    if text in MISSING:
        return math.nan
    try:
        return TRUTH[text] if text in TRUTH else float(text)
    except ValueError:
        raise TableError(f"column {name!r}, row {row}: expected a number, got {value!r:.40}") from None


def _read_arrow(path: Path, kind: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # ParquetFile takes a column that is there twice; read_table reports it less clearly.
        return _read_csv(path) if kind == ".csv" else parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"not a table: {_first_line(error)}") from error


def _read_csv(path: Path) -> pa.Table:
    from pyarrow import csv, string

    reading = csv.ReadOptions(block_size=BLOCK_BYTES)
    parsing = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, read_options=reading, parse_options=parsing) as file:
        names = file.schema.names
    # As text: a guess at the types would read the id "007" as 7.
    types = csv.ConvertOptions(column_types=dict.fromkeys(names, string()))
    return csv.read_csv(path, read_options=reading, parse_options=parsing, convert_options=types)


def _read_pickle(path: Path, trusted: bool) -> pa.Table:
    if not trusted:
        raise TableError(
            "a pickle runs whatever code it holds when it is opened; "
            "if you trust where it comes from, say trust_pickle=True (--trust-pickle)"
        )
    _need("pandas")
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_pickle(path)
    except Exception as error:  # a pickle can raise anything
        raise TableError(f"not a pickle that can be read: {_first_line(error)}") from error
    if not isinstance(frame, pd.DataFrame):
        raise TableError(f"expected a pickled data frame, got {type(frame).__name__}")
    names = [str(name) for name in frame.columns]
    return pa.Table.from_arrays([_array(frame.iloc[:, i]) for i in range(len(names))], names=names)


def _array(series: Any) -> Any:  # Any: pandas' and pyarrow's stubs do not know each other
    import pyarrow as pa

    try:
        return pa.array(series, from_pandas=True)
    except (pa.ArrowException, UnicodeError):
        # RouterBench has columns that mix numbers, booleans and texts.
        missing = series.isna()
        values = [None if none else _clean(value) for value, none in zip(series, missing, strict=True)]
        return pa.array(values, type=pa.string())


def _clean(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _from_routerbench(columns: pa.Table) -> pa.Table:
    """Add what RouterBench calls otherwise (Hu et al. 2024) under this project's names."""
    import pyarrow as pa

    names = columns.column_names
    models = [name for name in names if _is_routerbench_model(name, names)]
    if not models or any(name.startswith("quality__") for name in names):
        return columns
    alias = {"prompt_id": "sample_id", "task": "eval_name"}
    for model in models:
        alias |= {f"quality__{model}": model, f"cost_usd__{model}": f"{model}|total_cost"}
    for ours, theirs in alias.items():
        if theirs in names and ours not in names:
            columns = columns.append_column(ours, columns.column(theirs))
    if "prompt" in names:
        plain = pa.array([_plain_prompt(text) for text in texts(columns, "prompt")], type=pa.string())
        columns = columns.set_column(names.index("prompt"), "prompt", plain)
    return columns


def _from_not_diamond(columns: pa.Table) -> pa.Table:
    """Add Not Diamond's columns, ``<provider>/<model>/score``, under this project's names.

    The prompt is in the one column that is no model's, where it is not called so.
    """
    names = columns.column_names
    models = [name.removesuffix("/score") for name in names if name.endswith("/score")]
    if not models or any(name.startswith("quality__") for name in names):
        return columns
    for model in models:
        columns = columns.append_column(f"quality__{model}", columns.column(f"{model}/score"))
    others = [name for name in names if not name.endswith(("/score", "/response"))]
    if "prompt" not in names and len(others) == 1:
        columns = columns.append_column("prompt", columns.column(others[0]))
    return columns


def _is_routerbench_model(name: str, names: list[str]) -> bool:
    return f"{name}|total_cost" in names or f"{name}|model_response" in names


def _plain_prompt(text: str) -> str:
    """RouterBench writes a prompt as the text of a Python list of its turns."""
    if not text.startswith("["):
        return text
    try:
        turns = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        return text
    return "\n".join(turns)


def _check_unique(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TableError(f"column {twice[0]!r} is there {names.count(twice[0])} times")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
