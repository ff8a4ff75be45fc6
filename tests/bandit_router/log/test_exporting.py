"""An export holds what the log says, is whole or not there, and is what others read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from weeks import Clock

from bandit_router import EventLog, Model, Outcome, Router, Uniform
from bandit_router.errors import FormatError, SettingsError
from bandit_router.log import tables as t
from bandit_router.log.exporting import count_exported, export, read_exported
from simulations.rounds import read, read_folder

DAY_S = 86_400.0


@pytest.fixture
def url(log_url: str) -> str:
    """A log in which something is known of some decisions."""
    models = [Model("a", output_usd_per_mtok=1.0), Model('b "], ["')]
    with Router.open(log_url, models=models, policy=Uniform()) as router:
        for i in range(7):
            decision = router.choose(f"x {i}", models=["a"] if i == 5 else None)
            if i % 2:
                router.feedback(decision.id, "rating", 0.25)
                router.report(decision.id, Outcome(input_tokens=10, output_tokens=i))
        router.choose("and", conversation="talk")
        router.choose("on", conversation="talk")
    return log_url


def test_what_comes_back_is_what_the_log_says(url: str, tmp_path: Path) -> None:
    with EventLog.open(url) as log, log.reading() as connection:
        told = export(connection, "default", tmp_path / "out")
    with EventLog.open(url) as log:
        here = read(log)
    back = read_folder(tmp_path / "out")
    assert (told.rows, count_exported(tmp_path / "out"), len(back)) == (9, 9, 9)
    assert back.models == here.models
    for name in ("x", "at", "chosen", "probability", "probabilities", "mean", "std", "cost_usd"):
        np.testing.assert_array_equal(getattr(back, name), getattr(here, name))
    for name in ("reward", "weight", "paid_usd", "reason", "moved", "head", "cluster"):
        np.testing.assert_array_equal(getattr(back, name), getattr(here, name))


def test_days_are_folders(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    clock = Clock(datetime(2026, 1, 31, 23, tzinfo=UTC).timestamp())
    with clock.in_force(), Router.open(url, models=[Model("a"), Model("b")]) as router:
        for _ in range(3):
            router.choose("x")
            clock.wait(1 / 20)
    with EventLog.open(url) as log, log.reading() as connection:
        export(connection, "default", tmp_path / "out")
        later = export(connection, "default", tmp_path / "later", since=clock.now - DAY_S / 20)
    days = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert days == ["day=2026-01-31", "day=2026-02-01"]
    assert later.rows == 1
    whole = pq.read_table(tmp_path / "out")  # as any reader of partitions does
    assert whole.column("day").to_pylist().count("2026-02-01") == 2
    assert {"id", "at", "model", "probability", "candidates", "features", "reward"} <= {
        *whole.column_names
    }


def test_nothing_is_left_of_a_run_that_fails(url: str, tmp_path: Path) -> None:
    with EventLog.open(url) as log, log.reading() as connection:

        def full(_: int) -> None:
            raise OSError("No space left on device")

        with pytest.raises(OSError, match="No space"):
            export(connection, "default", tmp_path / "out", progress=full)
        assert list(tmp_path.glob("*out*")) == []
        (tmp_path / "out").mkdir()
        with pytest.raises(SettingsError, match="is there already"):
            export(connection, "default", tmp_path / "out")
        with pytest.raises(SettingsError, match="decided nothing in that period"):
            export(connection, "default", tmp_path / "none", until=0.0)
        assert not (tmp_path / "none").exists()
        with pytest.raises(SettingsError, match="no such folder"):
            export(connection, "default", tmp_path / "nowhere" / "out")


def test_what_is_no_export_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nothing of one"):
        count_exported(tmp_path)
    with EventLog.open(url) as log, log.reading() as connection:
        export(connection, "default", tmp_path / "out")
        assert connection.execute(sa.select(sa.func.count()).select_from(t.decisions)).scalar_one() == 9
    (path,) = (tmp_path / "out").glob("*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata({"bandit_router.export": "2"}), path)
    with pytest.raises(FormatError, match="none of this version's"):
        list(read_exported(tmp_path / "out"))
