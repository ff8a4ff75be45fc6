"""An archive: rows of the log as Parquet files, one for each table, written once and checked by reading back.

A folder of archives is partitioned as polars, DuckDB and Spark read it::

    FOLDER/decisions/week=2026-01-12/<archive>-0.parquet
    FOLDER/rewards/week=2026-01-12/<archive>-0.parquet

Files never change: what an erasure or other features make of one is a new file, and the log's table of
archives says which are its files now. Whatever else carries an archive's name was left by a run that died.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import ArchiveError, SettingsError
from bandit_router.log import tables as t
from bandit_router.log.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 16_384  # in one row group, which is what is held in memory
# What is archived, and in which order its rows stand.
TABLES: Mapping[str, tuple[str, ...]] = {
    "decisions": ("id",),
    "texts": ("decision_id",),
    "outcomes": ("decision_id", "revision"),
    "feedback": ("decision_id", "seq"),
    "rewards": ("decision_id", "revision"),
    "judgements": ("decision_id", "id"),
}
LOCK_S = 10.0  # how long another one who changes files is waited for
_WEEK_S = 604_800.0
_PIECE = 2**20  # bytes that are hashed at once


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    """One file, as it was when it was written.

    Attributes
    ----------
    path : str
        In the folder of archives.
    """

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The files of one range of decisions.

    Attributes
    ----------
    id : str
    folder : Path
        Of all archives.
    week : str
        The day on which the range's last week began.
    files : mapping of str to ArchiveFile
        Of each table.
    """

    id: str
    folder: Path
    week: str
    files: Mapping[str, ArchiveFile] = field(default_factory=dict)

    def reachable(self) -> bool:
        """Whether all files can be seen from here."""
        return all((self.folder / file.path).is_file() for file in self.files.values())

    def check(self) -> None:
        """See that all files are as they were written.

        Raises
        ------
        ArchiveError
            One is missing or damaged.
        """
        for file in self.files.values():
            found = self._seen(file)
            if found != file:
                raise ArchiveError(f"archive {self.id}: {self.folder / file.path} is damaged")

    def _seen(self, file: ArchiveFile) -> ArchiveFile:
        path = self.folder / file.path
        try:
            return replace(file, bytes=path.stat().st_size, sha256=_sha256(path))
        except OSError as error:
            raise ArchiveError(f"archive {self.id}: {path} cannot be read: {error.strerror}") from error

    def groups(self, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read a table's rows, one row group after another, in their order."""
        from pyarrow import parquet

        path = self.folder / self.files[table].path
        with parquet.ParquetFile(path) as file:
            for i in range(file.num_row_groups):
                yield file.read_row_group(i, columns=None if columns is None else list(columns))

    def between(self, table: str, router: str, first: str, last: str) -> list[Row]:
        """Read a router's rows about decisions in a range of ids, both included."""
        from pyarrow import dataset

        about, of = dataset.field("decision_id"), dataset.field("router")
        found = dataset.dataset(self.folder / self.files[table].path, format="parquet").to_table(
            filter=(of == router) & (about >= first) & (about <= last)
        )
        return list(found.to_pylist())

    def write(
        self, table: str, groups: Iterable[pa.Table], *, number: int, like: pa.Schema | None = None
    ) -> Archive:
        """Write a table's rows as a new file; return the archive that has it.

        The file has its name only once it is whole and on the disk.
        """
        from pyarrow import parquet

        path = f"{table}/week={self.week}/{self.id}-{number}.parquet"
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, rows = target.with_name(f".{target.name}.tmp"), 0
        with temporary.open("wb") as file:
            with parquet.ParquetWriter(file, like or schema_of(table), compression="zstd") as writer:
                for group in groups:
                    if group.num_rows:
                        writer.write_table(group, row_group_size=max(ROWS, group.num_rows))
                        rows += group.num_rows
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync(target.parent)
        size, sha256 = target.stat().st_size, _sha256(target)
        written = ArchiveFile(path=path, rows=rows, bytes=size, sha256=sha256)
        return replace(self, files={**self.files, table: written})

    def sweep(self) -> list[str]:
        """Delete every file of this archive that is none of its own; return which."""
        kept, gone = {file.path for file in self.files.values()}, []
        for path in sorted(self.folder.glob(f"*/week=*/*{self.id}-*")):
            relative = path.relative_to(self.folder).as_posix()
            if relative not in kept and relative.split("/")[0] in TABLES:
                path.unlink(missing_ok=True)
                _sync(path.parent)
                gone.append(relative)
        return gone


def week_of(before: float) -> str:
    """Return the name of the week that ends at a moment [s since 1970].

    Examples
    --------
    >>> week_of(1_769_385_600.0)
    '2026-01-19'
    """
    return f"{datetime.fromtimestamp(before - _WEEK_S, UTC):%Y-%m-%d}"


def schema_of(table: str) -> pa.Schema:
    """Return the columns of a table's files: those of the log, and features as a list of float64."""
    import pyarrow as pa

    kinds: dict[type, Any] = {
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
        bool: pa.bool_(),
        bytes: pa.binary(),
    }  # Any: Arrow's types
    columns = t.metadata.tables[table].columns
    return pa.schema(
        [
            (c.name, pa.list_(pa.float64()) if c.name == "features" else kinds[c.type.python_type])
            for c in columns
        ]
    )


def read_groups(connection: sa.Connection, table: str, before: str) -> Iterator[pa.Table]:
    """Read a table's rows about decisions before an id from the log, in their order."""
    found = t.metadata.tables[table]
    order = [found.c[name] for name in TABLES[table]]
    statement = sa.select(found).where(order[0] < before).order_by(*order)
    streamed = statement.execution_options(yield_per=ROWS)
    for rows in connection.execute(streamed).mappings().partitions():
        yield _group(rows, schema_of(table))


def _group(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = [
        pack_features([row["features"] for row in rows])
        if column.name == "features"
        else pa.array([row[column.name] for row in rows], type=column.type)
        for column in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def pack_features(vectors: Sequence[bytes | None]) -> pa.Array[Any]:  # Any: a list of float64
    """Return vectors, as the log has them, as a column; one that is no float64 vector is null."""
    import pyarrow as pa

    whole = [None if x is None or len(x) % 8 else x for x in vectors]
    lengths = np.array([0 if x is None else len(x) // 8 for x in whole], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = np.frombuffer(b"".join(x or b"" for x in whole), dtype="<f8")
    missing = pa.array([x is None for x in whole], type=pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets, type=pa.int32()), pa.array(values, type=pa.float64()), mask=missing
    )


def unpack_features(column: Any) -> list[bytes]:  # Any: an Arrow column of lists; the stubs lack them
    """Return what `pack_features` was given; a null becomes no bytes."""
    array = column.combine_chunks()
    values, offsets = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    return [values[start:end].astype("<f8", copy=False).tobytes() for start, end in pairwise(offsets)]


def export(connection: sa.Connection, archive: Archive, before: str, number: int) -> Archive:
    """Write all rows about decisions before an id, and read them back; in one reading transaction.

    Raises
    ------
    ArchiveError
        What was read back is not what the log has.
    """
    for table in TABLES:
        archive = archive.write(table, read_groups(connection, table, before), number=number)
    archive.check()
    for table in TABLES:
        again = read_groups(connection, table, before)
        for written, read in zip(archive.groups(table), again, strict=True):
            if not written.equals(read):
                raise ArchiveError(f"archive {archive.id}: {table} came back with other rows")
    return archive


def readable() -> bool:
    """Whether what reads and writes Parquet is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def check_installed() -> None:
    """See that Parquet can be written.

    Raises
    ------
    SettingsError
        pyarrow is missing; the message says how to get it.
    """
    if not readable():
        raise SettingsError("archives: pyarrow must be installed: pip install 'bandit-router[archive]'")


@contextmanager
def alone(folder: Path, *, patience_s: float = LOCK_S) -> Iterator[None]:
    """Hold a folder of archives against everybody else who changes its files; death lets go of it.

    Raises
    ------
    ArchiveError
        Another one holds it, or the folder is not there.
    """
    import fcntl

    deadline = time.monotonic() + patience_s
    try:
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise ArchiveError(f"archives: {folder} cannot be written: {error.strerror}") from error
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ArchiveError(f"archives: another run is at work in {folder}") from None
                time.sleep(0.02)
        yield


def kept(group: pa.Table, keep: Callable[[Row], bool], columns: Collection[str]) -> pa.Table:
    """Return the rows of a group whose named columns satisfy a condition."""
    import pyarrow as pa

    rows = group.select(list(columns)).to_pylist()
    return group.filter(pa.array([keep(row) for row in rows], type=pa.bool_()))


def as_json(archive: Archive) -> dict[str, Any]:  # Any: numbers and texts
    """Return which files an archive has, as the log keeps it."""
    return {table: [f.path, f.rows, f.bytes, f.sha256] for table, f in archive.files.items()}


def files_of(body: Mapping[str, Sequence[Any]]) -> dict[str, ArchiveFile]:  # Any: as above
    """Return what `as_json` was given."""
    return {
        table: ArchiveFile(path=path, rows=rows, bytes=size, sha256=sha256)
        for table, (path, rows, size, sha256) in body.items()
    }


def _sha256(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            hashed.update(piece)
    return hashed.hexdigest()


def _sync(folder: Path) -> None:
    """See that a file's name is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
