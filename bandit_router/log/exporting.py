"""A period of the log as partitioned Parquet, for polars, DuckDB, Spark, and for reading it back fast.

One row is a decision with its candidates and what came of it by now::

    FOLDER/day=2026-01-12/part-000000.parquet

The folder gets its name when all of it is written: what bears that name is whole. It holds no texts, users or
feedback, and no erasure reaches it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import FormatError, SettingsError
from bandit_router.log.archive import check_installed
from bandit_router.log.rounds import NUMBERS, Candidates, Part, count_rounds, read_parts

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "1"  # of the columns; stands in each file
_KEY = b"bandit_router.export"
_DAY_US = 86_400_000_000
_TEXTS = ("id", "model", "reason", "features_version", "head", "conversation", "served")
_FLOATS = ("probability", "reward", "weight", "cost_usd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes
    ----------
    rows, files, bytes : int
    """

    rows: int
    files: int
    bytes: int


def export(
    connection: sa.Connection,
    router: str,
    folder: Path,
    *,
    since: float | None = None,
    until: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Write a router's decisions of a period [s since 1970] into a new folder.

    Memory does not grow with the log.

    Parameters
    ----------
    connection : Connection
    router : str
    folder : Path
        Must not exist yet.
    since, until : float, optional
    progress : callable, optional
        Called with how many decisions are written.

    Raises
    ------
    SettingsError
        The folder is there already, what it is to be in is not, nothing was decided, or pyarrow is missing.
    OSError
        It cannot be written; nothing is left of it then.
    """
    check_installed()
    if folder.exists():
        raise SettingsError(f"export: {folder} is there already; an export is a new folder")
    if not folder.parent.is_dir():
        raise SettingsError(f"export: no such folder: {folder.parent}")
    if not count_rounds(connection, router, since=since, until=until):
        raise SettingsError(f"export: router {router!r} decided nothing in that period")
    rows = 0
    with _whole(folder) as place, _Files(place) as files:
        for part in read_parts(connection, router, since=since, until=until):
            files.write(part)
            rows += len(part)
            progress(rows)
        files.close()
        sizes = [path.stat().st_size for path in place.rglob("*.parquet")]
    return Exported(rows=rows, files=len(sizes), bytes=sum(sizes))


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside the one that is meant, which gets that name at the end."""
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent))
    try:
        yield place
        place.chmod(0o755)
        place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


class _Files:
    """The file that is written at present, one for each day on end."""

    def __init__(self, place: Path) -> None:
        self._place, self._day, self._count = place, "", 0
        self._writer: Any = None  # Any: pyarrow's writer

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, part: Part) -> None:
        """Write some decisions, each to its day."""
        table, days = _table(part), part.at_us // _DAY_US
        ends = [*(np.flatnonzero(np.diff(days)) + 1).tolist(), len(part)]
        for start, end in pairwise([0, *ends]):
            self._open(_day(int(part.at_us[start])), table.schema)
            self._writer.write_table(table.slice(start, end - start))

    def _open(self, day: str, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        if self._writer is not None and day == self._day:
            return
        self.close()
        path = self._place / f"day={day}" / f"part-{self._count:06d}.parquet"
        path.parent.mkdir(exist_ok=True)
        self._writer, self._day = pq.ParquetWriter(path, schema, compression="zstd"), day
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%d")


def _table(part: Part) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {name: pa.array(getattr(part, name), pa.string()) for name in _TEXTS}
    columns |= {name: _nullable(getattr(part, name)) for name in _FLOATS}
    columns["at"] = pa.array(part.at_us, pa.timestamp("us", tz="UTC"))
    columns["features"] = _lists(part.features)
    columns["candidates"] = _structs(part.candidates, len(part))
    return pa.table(columns).replace_schema_metadata({_KEY: FORMAT.encode()})


def _nullable(values: np.ndarray[Any, np.dtype[np.float64]]) -> pa.Array[Any]:
    import pyarrow as pa

    return pa.array(values, pa.float64(), from_pandas=True)  # NaN is null


def _lists(vectors: Any) -> pa.Array[Any]:  # Any: a sequence of bytes
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(vector) // 8 for vector in vectors])])
    values = np.frombuffer(b"".join(vectors), dtype="<f8")
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))


def _structs(found: Candidates, n: int) -> pa.Array[Any]:
    import pyarrow as pa

    offsets = np.searchsorted(found.row, np.arange(n + 1))
    names = pa.array([found.names[code] for code in found.code.tolist()], pa.string())
    numbers = [_nullable(found.numbers[:, at]) for at in range(len(NUMBERS))]
    each = pa.StructArray.from_arrays([names, *numbers], ["model", *NUMBERS])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), each)


# -- reading it back ---------------------------------------------------------------------------------


def count_exported(folder: Path) -> int:
    """Return how many decisions an export holds.

    Raises
    ------
    FormatError
        It is none, or a newer version wrote it.
    """
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in _paths(folder))


def read_exported(folder: Path) -> Iterator[Part]:
    """Yield the decisions of an export, in the order in which they were written.

    Raises
    ------
    FormatError
        It is none, or a newer version wrote it.
    """
    import pyarrow.parquet as pq

    for path in _paths(folder):
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(_KEY) != FORMAT.encode():
                raise FormatError(f"export: {path} is none of this version's")
            for at in range(file.num_row_groups):
                yield _part(file.read_row_group(at))


def _paths(folder: Path) -> list[Path]:
    check_installed()
    found = sorted(folder.glob("day=*/part-*.parquet"), key=lambda path: path.name)
    if not found:
        raise FormatError(f"export: nothing of one is in {folder}")
    return found


def _part(table: pa.Table) -> Part:
    import pyarrow as pa

    table = table.combine_chunks()
    told: dict[str, Any] = {name: table[name].to_pylist() for name in _TEXTS}
    told |= {name: table[name].to_numpy() for name in _FLOATS}
    lists: Any = table["features"].combine_chunks()  # Any: a list, which its type does not know
    vectors = lists.flatten().to_numpy().astype("<f8").tobytes()
    ends = (8 * np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])).tolist()
    told["features"] = [vectors[a:b] for a, b in pairwise(ends)]
    at_us = table["at"].cast(pa.int64()).to_numpy()
    return Part(at_us=at_us, candidates=_candidates(table["candidates"].combine_chunks()), **told)


def _candidates(lists: Any) -> Candidates:  # Any: pyarrow's list of structs
    each = lists.flatten()
    names = each.field("model").dictionary_encode()
    return Candidates(
        names=tuple(names.dictionary.to_pylist()),
        code=names.indices.to_numpy().astype(np.int64),
        row=np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy()),
        numbers=np.stack([each.field(name).to_numpy(zero_copy_only=False) for name in NUMBERS], axis=1),
    )
