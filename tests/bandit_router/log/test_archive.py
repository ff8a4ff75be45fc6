"""Archives: files that anybody can read, without loss, and that change for nobody unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from pyarrow import dataset, parquet
from weeks import Clock, archive, talk

from bandit_router import ArchiveError, EventLog, Router
from bandit_router.log import tables as t
from bandit_router.log.archive import TABLES, Archive, alone, export, pack_features, unpack_features
from bandit_router.log.rows import pack, unpack

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def test_every_column_of_every_table_comes_back(url: str, open_router: Open, tmp_path: Path) -> None:
    clock = Clock()
    with clock.in_force():
        router = open_router()
        router.choose("of another kind", tags={"a": "b"}, conversation="talk", key="k")
        talk(router, clock, weeks=1)
        router.close()
    rows = {}
    with EventLog.open(url) as log:
        for name in TABLES:
            select = sa.select(t.metadata.tables[name])
            rows[name] = [
                dict(row) for row in log.read(lambda c, s=select: c.execute(s).mappings().all())
            ]
    clock.wait(8.0)
    archive(url, tmp_path / "archive", clock)
    for name, order in TABLES.items():
        (file,) = (tmp_path / "archive" / name).glob("week=2026-02-*/*.parquet")
        found = parquet.ParquetFile(file).read().to_pylist()
        if name == "decisions":
            found = [row | {"features": pack(np.array(row["features"]))} for row in found]
        assert found == sorted(rows[name], key=lambda row: [row[column] for column in order])
    whole = dataset.dataset(tmp_path / "archive" / "decisions", partitioning="hive").to_table()
    assert whole.column("week").to_pylist() == ["2026-02-02"] * 5


def test_features_come_back_to_the_bit() -> None:
    vectors = [np.array([-0.0, 5e-324, 1e308, 1 / 3]), np.array([]), np.array([1.0])]
    packed = [pack(x) for x in vectors]
    column = pa.chunked_array([pack_features([*packed, b"damaged"])])
    assert column.to_pylist()[-1] is None
    assert unpack_features(column) == [*packed, b""]
    assert [unpack(x).tobytes() for x in unpack_features(column.slice(1, 2))] == packed[1:]


@pytest.fixture
def written(open_router: Open, tmp_path: Path) -> Archive:
    """An archive that was written, and is not in the log."""
    router = open_router()
    router.choose("x")
    with router.log.reading() as connection:
        return export(connection, Archive(id="id", folder=tmp_path, week="2026-01-05"), "f", 0)


def test_damage_does_not_go_unnoticed(written: Archive) -> None:
    written.check()
    path = written.folder / written.files["decisions"].path
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(ArchiveError, match="is damaged"):
        written.check()
    path.unlink()
    assert not written.reachable()
    with pytest.raises(ArchiveError, match="cannot be read"):
        written.check()


def test_only_what_a_run_has_left_is_swept_away(written: Archive) -> None:
    place = (written.folder / written.files["texts"].path).parent
    for name in ("id-7.parquet", ".id-8.parquet.tmp", "other-0.parquet"):
        (place / name).write_bytes(b"")
    assert len(written.sweep()) == 2
    written.check()
    assert (place / "other-0.parquet").exists()


def test_one_at_a_time_changes_files(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(ArchiveError, match="another run"),
        alone(tmp_path, patience_s=0),
    ):
        raise AssertionError
    order = []

    def wait() -> None:
        with alone(tmp_path):
            order.append("second")

    with alone(tmp_path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    with pytest.raises(ArchiveError, match="cannot be written"), alone(tmp_path / "nowhere"):
        raise AssertionError
