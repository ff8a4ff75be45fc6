"""Full-information tables: every model's outcome for every prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_router.errors import TableError
from bandit_router.events import Model
from bandit_router.values import Array, check_amount
from simulations.catalogue import check_models, read_catalogue, some, write_catalogue
from simulations.columns import matching, measure, read_columns, texts

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

CATALOGUE = "models.json"
MEASURES = ("quality", "cost_usd", "latency_s", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """What every model answers to every prompt: n prompts, K models.

    Attributes
    ----------
    name : str
        What to call it in results.
    prompt_ids, prompts : tuple of str
        One per row; a file without ids gets the row numbers.
    tasks : tuple of str, optional
        A label per row.
    models : tuple of Model
        The K arms, in the order of the table or of the pool.
    quality : ndarray of shape (n, K)
        In [0, 1].
    cost_usd : ndarray of shape (n, K)
        What each answer costs [USD]; all zeros where the costs are not known.
    latency_s, input_tokens, output_tokens : ndarray of shape (n, K), optional
        [s] and counts; NaN where missing.
    dropped : int
        Rows left out because a quality or a cost was missing.
    pool : str, optional
        The pool or the model names that were asked for.
    unit_usd : float, optional
        A cost unit of its own [USD], where costs change and the unit must not.

    Raises
    ------
    TableError
        A quality is not in [0, 1], a cost is negative or infinite, there is no row, no model, a
        model twice, or a shape does not fit.

    Examples
    --------
    >>> table = Table(
    ...     name="two", prompt_ids=("a", "b"), prompts=("Hi", "2 + 2?"),
    ...     models=(Model("small"), Model("large")),
    ...     quality=np.array([[0.5, 0.6], [0.1, 1.0]]), cost_usd=np.array([[1e-4, 1e-3], [1e-4, 3e-3]]),
    ... )
    >>> table.cost_unit_usd
    0.002
    >>> table.reward(0.2)
    array([[0.49, 0.5 ],
           [0.09, 0.7 ]])
    """

    name: str
    prompt_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    models: tuple[Model, ...]
    quality: Array
    cost_usd: Array
    tasks: tuple[str, ...] | None = None
    latency_s: Array | None = None
    input_tokens: Array | None = None
    output_tokens: Array | None = None
    dropped: int = 0
    pool: str | None = None
    unit_usd: float | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise TableError("expected at least one row, got none")
        if not self.models or len(set(self.names)) < len(self.models):
            raise TableError(f"expected different models, got {self.names}")
        for name in ("prompt_ids", "tasks"):
            if getattr(self, name) is not None and len(getattr(self, name)) != len(self.prompts):
                raise TableError(f"{name}: expected {len(self.prompts)}, got {len(getattr(self, name))}")
        for name in MEASURES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._checked(name))

    def _checked(self, name: str) -> Array:
        values = np.array(getattr(self, name), dtype=np.float64)
        shape = (len(self.prompts), len(self.models))
        if values.shape != shape:
            raise TableError(f"{name}: expected shape {shape}, got {values.shape}")
        if name in ("quality", "cost_usd") and np.isnan(values).any():
            raise TableError(f"{name}: expected a number everywhere, got NaN")
        _check_range(name, values, self.names, self.prompt_ids)
        values.flags.writeable = False
        return values

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(model.name for model in self.models)

    @property
    def has_cost(self) -> bool:
        """Whether any answer costs anything."""
        return bool(self.cost_usd.any())

    @property
    def cost_unit_usd(self) -> float:
        """The mean cost of the dearest model [USD], or `unit_usd`; 0 where the costs are not known."""
        if self.unit_usd is not None:
            return self.unit_usd
        return float(self.cost_usd.mean(axis=0).max())

    def reward(self, price_weight: float, *, cost_unit_usd: float | None = None) -> Array:
        """Return quality less what the answer cost, of shape (n, K): q - price_weight * cost / unit.

        Parameters
        ----------
        price_weight : float
            The reward that one cost unit is worth.
        cost_unit_usd : float, optional
            The unit [USD]; by default this table's own. A part of a table has another one than the
            whole: give the whole's where they are compared.

        Raises
        ------
        TableError
            `price_weight` is positive and the costs are not known.
        """
        price_weight = check_amount("price_weight", price_weight)
        if price_weight == 0.0:
            return self.quality
        if not self.has_cost:
            raise TableError(
                f"{self.name}: has no costs, so price_weight must be 0, got {price_weight:g}"
            )
        unit = self.cost_unit_usd if cost_unit_usd is None else cost_unit_usd
        if not 0.0 < unit < np.inf:
            raise ValueError(f"cost_unit_usd: expected a positive number, got {unit:g}")
        reward: Array = self.quality - price_weight * self.cost_usd / unit
        reward.flags.writeable = False
        return reward

    def take(self, indices: ArrayLike) -> Table:
        """Return the rows at `indices`, in that order."""
        rows: NDArray[np.int64] = np.arange(len(self))[np.asarray(indices)]
        tasks = None if self.tasks is None else tuple(self.tasks[i] for i in rows)
        return replace(
            self,
            prompt_ids=tuple(self.prompt_ids[i] for i in rows),
            prompts=tuple(self.prompts[i] for i in rows),
            tasks=tasks,
            **{name: values[rows] for name, values in self.measures().items()},
        )

    def with_pool(self, names: Sequence[str]) -> Table:
        """Return the table of these models only, in that order; rows dropped before stay dropped."""
        check_models(names, self.names)
        at = [self.names.index(name) for name in names]
        models = tuple(self.models[i] for i in at)
        chosen = {name: values[:, at] for name, values in self.measures().items()}
        return replace(self, models=models, pool=",".join(names), **chosen)

    def measures(self) -> dict[str, Any]:  # Any: keywords of replace()
        """Return the arrays of shape (n, K) that are there, by name."""
        return {name: values for name in MEASURES if (values := getattr(self, name)) is not None}


def read_table(
    path: str | Path,
    *,
    pool: str | Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
    rows: int | None = None,
    trust_pickle: bool = False,
) -> Table:
    """Read a full-information table from Parquet, CSV or RouterBench's pickle.

    Columns are ``prompt``, ``prompt_id``?, ``task``? and per model ``quality__<model>``,
    ``cost_usd__<model>``?, ``latency_s__<model>``?, ``input_tokens__<model>``?,
    ``output_tokens__<model>``?; RouterBench's own are recognised. Prices and named pools come from
    ``models.json`` beside the file.

    Rows in which a quality of the pool is missing are dropped and counted, never read as 0. So are
    rows in which a cost is missing: a mean in its place would hide that dear prompts are missing
    more often, and a 0 would make them look free. A cost that is missing is first made of tokens
    times prices where both are known. If a model of the pool has no cost at all, no model's cost is
    used: costs are compared, and the table counts as one without costs.

    Parameters
    ----------
    path : str or Path
        The file.
    pool : str or sequence of str, optional
        A pool of ``models.json``, or model names, or one text of them with commas; all by default.
    where : mapping of str to str, optional
        Column to the text that its value must equal, for any column of the file.
    rows : int, optional
        At most that many rows, spread evenly over the table (tables are often sorted by task).
    trust_pickle : bool
        A pickle runs whatever code it holds: True says that the file is trusted.

    Raises
    ------
    TableError
        The file is missing or malformed, a name is unknown, or no row is left.
    """
    path = Path(path)
    try:
        return _read(path, pool, where or {}, rows, trust_pickle)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error


def write_table(table: Table, path: str | Path) -> None:
    """Write a table to ``.parquet`` or ``.csv``, and its prices into ``models.json`` beside it.

    An existing ``models.json`` keeps its pools and the models that are not of this table.

    Raises
    ------
    TableError
        The file's ending is another one.
    OSError
        It cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise TableError(f"{path}: expected a .parquet or .csv file, got {path.suffix or 'no ending'}")
    _write(table, path)
    write_catalogue(table.models, path.parent / CATALOGUE)


def _write(table: Table, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import csv, parquet

    data: dict[str, Any]  # Any: texts and numbers
    data = {"prompt_id": table.prompt_ids, "prompt": table.prompts}
    if table.tasks is not None:
        data["task"] = table.tasks
    for name, values in table.measures().items():
        if name != "cost_usd" or table.has_cost:
            data |= {f"{name}__{model}": values[:, i] for i, model in enumerate(table.names)}
    columns = pa.table({name: pa.array(values, from_pandas=True) for name, values in data.items()})
    if path.suffix.lower() == ".csv":
        csv.write_csv(columns, path)
    else:
        parquet.write_table(columns, path, compression="zstd")


def _read(
    path: Path,
    pool: str | Sequence[str] | None,
    where: Mapping[str, str],
    rows: int | None,
    trust_pickle: bool,
) -> Table:
    columns = read_columns(path, trust_pickle=trust_pickle)
    have = columns.column_names
    catalogue = read_catalogue(path.parent / CATALOGUE)
    models = tuple(catalogue.model(name) for name in catalogue.pick(pool, _models(have)))
    numbers = [str(row) for row in range(columns.num_rows)]
    ids = texts(columns, "prompt_id") if "prompt_id" in have else numbers
    measures = _measures(columns, models, ids)
    asked = matching(columns, where)
    kept = _kept(measures, asked)
    dropped = int(asked.sum()) - len(kept)
    if dropped:
        logger.warning("%s: %d rows dropped because a quality or a cost is missing", path, dropped)
    kept = _spread(kept, rows)
    prompts = _prompts(columns)
    tasks = texts(columns, "task") if "task" in have else None
    return Table(
        name=path.stem,
        prompt_ids=tuple(ids[i] for i in kept),
        prompts=tuple(prompts[i] for i in kept),
        tasks=None if tasks is None else tuple(tasks[i] for i in kept),
        models=models,
        dropped=dropped,
        pool=pool if pool is None or isinstance(pool, str) else ",".join(pool),
        **{name: values[kept] for name, values in measures.items()},
    )


def _models(columns: Sequence[str]) -> tuple[str, ...]:
    """The models that have a quality."""
    if "prompt" not in columns:
        raise TableError(f"no column 'prompt'; columns: {some(columns)}")
    models = tuple(name.removeprefix("quality__") for name in columns if name.startswith("quality__"))
    if not models:
        raise TableError(f"no column 'quality__<model>'; columns: {some(columns)}")
    return models


def _prompts(columns: pa.Table) -> list[str]:
    missing = columns.column("prompt").is_null().to_pylist()
    if True in missing:
        raise TableError(f"row {missing.index(True)} has no prompt")
    return texts(columns, "prompt")


def _measures(
    columns: pa.Table, models: Sequence[Model], ids: Sequence[str]
) -> dict[str, Any]:  # Any: keywords of Table
    """All measures that the file has, and the costs."""
    names = tuple(model.name for model in models)
    measures = {name: measure(columns, name, names) for name in MEASURES}
    for name, values in measures.items():
        _check_range(name, values, names, ids)
    measures["cost_usd"] = _cost(measures, models)
    optional = MEASURES[2:]
    return {k: v for k, v in measures.items() if k not in optional or not np.isnan(v).all()}


def _cost(measures: Mapping[str, Array], models: Sequence[Model]) -> Array:
    """Fill missing costs from tokens and prices; all zeros unless every model has some."""
    prices = np.array([(m.input_usd_per_mtok, m.output_usd_per_mtok) for m in models]) / 1e6
    made = measures["input_tokens"] * prices[:, 0] + measures["output_tokens"] * prices[:, 1]
    made[:, ~prices.any(axis=1)] = np.nan  # without a price, not free
    cost = np.where(np.isnan(measures["cost_usd"]), made, measures["cost_usd"])
    without = [m.name for i, m in enumerate(models) if np.isnan(cost[:, i]).all()]
    if without and len(without) < len(models):
        logger.warning("no costs are used, because these models have none: %s", some(without))
    return np.zeros_like(cost) if without else cost


def _kept(measures: Mapping[str, Array], asked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rows asked for that are whole."""
    whole = ~np.isnan(measures["quality"] + measures["cost_usd"]).any(axis=1)
    if not asked.any():
        raise TableError("has no rows")
    if not (asked & whole).any():
        raise TableError(f"each of its {asked.sum()} rows lacks a quality or a cost")
    return np.flatnonzero(asked & whole)


def _spread(kept: NDArray[np.int64], rows: int | None) -> NDArray[np.int64]:
    """At most that many of the rows, evenly spread."""
    if rows is None or rows >= len(kept):
        return kept
    if rows < 1:
        raise TableError(f"rows: expected at least 1, got {rows}")
    return kept[np.arange(rows) * len(kept) // rows]


def _check_range(measure: str, values: Array, models: Sequence[str], ids: Sequence[str]) -> None:
    """Refuse what cannot be: NaN is let through, it is missing."""
    top = 1.0 if measure == "quality" else np.finfo(np.float64).max
    wrong = np.argwhere((values < 0) | (values > top))
    if len(wrong):
        row, at = wrong[0]
        wanted = "a number from 0 to 1" if measure == "quality" else "a finite number, not negative"
        where = f"{measure} of model {models[at]!r} in row {row} (prompt_id {ids[row]!r:.60})"
        raise TableError(f"{where}: expected {wanted}, got {values[row, at]:g}")
