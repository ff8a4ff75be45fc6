"""Connecting and migrating: the schema in code is the schema that migrations make."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from bandit_router import EventLog, LogUnavailableError, LogVersionError, Model, Router, SettingsError
from bandit_router.log.engine import alembic_config, connect, schema_version, upgrade
from bandit_router.log.tables import HEAD, metadata


def test_upgrade_from_nothing_equals_the_tables_in_code(url: str) -> None:
    engine = connect(url)
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    other = connect(url.replace("chat", "other"))
    metadata.create_all(other)
    assert _schema(engine) - {"alembic_version"} == _schema(other)
    engine.dispose()
    other.dispose()


def _schema(engine: sa.Engine) -> set[str]:
    inspector = sa.inspect(engine)
    found = set()
    for table in inspector.get_table_names():
        found.add(table)
        if table == "alembic_version":
            continue
        found |= {
            f"{table}.{c['name']} {c['type']} {c['nullable']}" for c in inspector.get_columns(table)
        }
        found |= {f"{table} {i['name']} {i['column_names']}" for i in inspector.get_indexes(table)}
        found |= {f"{table} {u['column_names']}" for u in inspector.get_unique_constraints(table)}
        found |= {f"{table} {inspector.get_pk_constraint(table)['constrained_columns']}"}
    return found


def test_the_newest_migration_is_the_one_that_the_code_names() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_migrations_go_back_too(url: str) -> None:
    engine = connect(url)
    upgrade(engine)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        command.downgrade(alembic_config(connection), "base")
    assert set(sa.inspect(engine).get_table_names()) <= {"alembic_version", "sqlite_sequence"}
    engine.dispose()


def test_an_embedded_log_is_made_and_found_again(url: str, tmp_path: Path) -> None:
    EventLog.open(url).close()
    assert (tmp_path / "chat.db").exists()
    with EventLog.open(url, migrate=False) as log:
        assert schema_version(log.engine) == HEAD


def test_a_missing_schema_is_refused_where_nobody_may_migrate(url: str) -> None:
    with pytest.raises(LogVersionError, match="bandit-router migrate"):
        EventLog.open(url, migrate=False)


def test_a_newer_log_is_refused(url: str, tmp_path: Path) -> None:
    EventLog.open(url).close()
    with sqlite3.connect(tmp_path / "chat.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(LogVersionError, match="upgrade bandit-router"):
        Router.open(url, models=[Model("a")])


def test_a_database_of_other_origin_is_refused(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "chat.db") as raw:
        raw.execute("CREATE TABLE routers (id INTEGER)")
    raw.close()
    with pytest.raises(LogVersionError, match="other origin"):
        EventLog.open(url)


def test_a_file_that_is_no_database_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_bytes(
        b"This is not a database, and it is long enough to be sure. " * 50
    )
    with pytest.raises(LogUnavailableError):
        EventLog.open(url)


def test_a_place_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError):
        EventLog.open(f"sqlite:///{tmp_path / 'nowhere' / 'chat.db'}")


@pytest.mark.parametrize("url", ["", "nonsense", "mongodb://x", "sqlite:///x.db?synchronous=OFF"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        EventLog.open(url)


@pytest.mark.parametrize(("query", "level"), [("", 1), ("?synchronous=FULL", 2)])
def test_sqlite_is_set_up_for_many_processes(url: str, query: str, level: int) -> None:
    with EventLog.open(url + query) as log, log.reading() as connection:
        pragmas = {"journal_mode": "wal", "synchronous": level, "busy_timeout": 30_000}
        for pragma, wanted in pragmas.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == wanted


def test_the_memory_url_is_a_temporary_file_of_its_own() -> None:
    with EventLog.open("sqlite://") as one, EventLog.open("sqlite://") as two:
        assert one.engine.url.database != two.engine.url.database
        folder = Path(str(one.engine.url.database)).parent
        assert folder.is_dir()


def test_many_threads_may_open_at_once(url: str) -> None:
    errors: list[BaseException] = []

    def open_() -> None:
        try:
            EventLog.open(url).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
