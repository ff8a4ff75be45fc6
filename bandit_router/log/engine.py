"""Connecting to the log, on SQLite or PostgreSQL: many processes, errors in one language, migrations."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from bandit_router.errors import LogUnavailableError, LogVersionError, SettingsError
from bandit_router.log.forking import close_before_fork, unforked
from bandit_router.log.tables import HEAD, routers

logger = logging.getLogger(__name__)
BUSY_TIMEOUT_S = 30.0  # how long SQLite waits for another process's lock
CONNECT_S = 5  # how long a connection to PostgreSQL may take
LOCK_S = 10  # how long a writer waits for a row before it tries its batch again
IDLE_S = 300  # after which a transaction of a worker that stands still is ended
POOL_S = 5.0  # how long one waits for a free connection
_MIGRATING = 0x62616E646974  # the lock that migrating processes take in turn


def connect(url: str) -> sa.Engine:
    """Return an engine for a log; creates the file of an embedded one, but no tables.

    Parameters
    ----------
    url : str
        Any SQLAlchemy URL. ``sqlite:///file.db`` is the embedded default; ``sqlite://`` keeps the log in
        a temporary file. ``?synchronous=FULL`` makes SQLite survive a loss of power too.

    Raises
    ------
    SettingsError
        Not a URL, or its driver is not installed.
    LogUnavailableError
        It cannot be reached.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed)
        if parsed.get_backend_name() == "postgresql":
            return _postgresql(parsed)
        raise SettingsError(f"log: expected sqlite or postgresql, got {parsed.get_backend_name()!r}")
    except ArgumentError as error:
        hint = "expected a URL such as sqlite:///chat.db"
        raise SettingsError(f"log: {hint}, got {str(url)!r:.80}") from error
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        hint = "pip install 'bandit-router[postgres]'; SQLite needs nothing"
        raise SettingsError(f"log: {error}: its driver must be installed: {hint}") from error


def _sqlite(url: sa.URL) -> sa.Engine:
    synchronous = str(url.query.get("synchronous", "NORMAL")).upper()
    if synchronous not in ("NORMAL", "FULL"):
        raise SettingsError(f"log: synchronous: expected NORMAL or FULL, got {synchronous!r}")
    url = url.difference_update_query(["synchronous"])
    if url.database in (None, "", ":memory:"):
        folder = tempfile.mkdtemp(prefix="bandit-router-")
        url = url.set(database=str(Path(folder) / "log.db"))
    else:
        folder = None
        url = _absolute(url)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=8)
    close_before_fork(engine)
    if folder is not None:
        weakref.finalize(engine, _remove, folder, os.getpid())

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: object) -> None:  # Any: sqlite3's, or another driver's
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        for pragma in (f"synchronous={synchronous}", "temp_store=MEMORY", "cache_size=-16000"):
            cursor.execute(f"PRAGMA {pragma}")
        _use_wal(cursor)
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once, so that no transaction dies when it turns from reading to writing.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    patience = {
        "connect_timeout": CONNECT_S,
        "application_name": "bandit_router",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # [ms]
        "options": f"-c lock_timeout={LOCK_S}s -c idle_in_transaction_session_timeout={IDLE_S}s",
    }
    arguments = {name: value for name, value in patience.items() if name not in url.query}
    engine = sa.create_engine(
        url, connect_args=arguments, pool_size=8, max_overflow=8, pool_timeout=POOL_S, pool_pre_ping=True
    )
    close_before_fork(engine)

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        # A writer takes its transaction's number before any row's, so that followers know what to wait for.
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql("SELECT pg_current_xact_id()")

    return engine


def _absolute(url: sa.URL) -> sa.URL:
    """The same file, also after the process has changed its folder."""
    database = str(url.database)
    return url if database.startswith("file:") else url.set(database=str(Path(database).absolute()))


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not a forked child that ends earlier
        shutil.rmtree(folder, ignore_errors=True)


def _use_wal(cursor: Any) -> None:  # Any: a cursor of sqlite3, or of another driver
    """Switch to write-ahead logging; SQLite answers "locked" at once while another process does the same."""
    import sqlite3

    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn database errors into `LogUnavailableError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise LogUnavailableError(f"log: {doing}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return what a database said, without statement, values or further lines."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).strip().split("\n")[0] or type(cause).__name__


def check_exists(engine: sa.Engine) -> None:
    """See that the file of an embedded log is there.

    Raises
    ------
    LogUnavailableError
        It is not.
    """
    database = str(engine.url.database)
    if (
        engine.dialect.name == "sqlite"
        and not database.startswith("file:")
        and not Path(database).exists()
    ):
        raise LogUnavailableError(f"log: there is no file {database}")


def check_schema(engine: sa.Engine, *, migrate: bool) -> None:
    """See that the log has this program's schema.

    Parameters
    ----------
    engine : Engine
    migrate : bool
        Bring a missing or older schema up to date.

    Raises
    ------
    LogVersionError
        The schema is newer; or it is older or missing and `migrate` is False.
    LogUnavailableError
        The log cannot be reached, or holds something else.
    """
    with translated("reading its version"), unforked():
        found = schema_version(engine)
    if found == HEAD:
        return
    if found is not None and (not found.isdigit() or int(found) > int(HEAD)):
        raise LogVersionError(
            f"log: its schema is version {found}, this program knows up to {HEAD}: upgrade bandit-router"
        )
    if not migrate:
        raise LogVersionError(
            f"log: its schema is {'missing' if found is None else 'version ' + found}, "
            f"this program needs {HEAD}: run `bandit-router migrate --log URL`"
        )
    upgrade(engine)


def schema_version(engine: sa.Engine) -> str | None:
    """Return the newest migration that the log has had, or None."""
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        if "alembic_version" not in names:
            if routers.name in names:
                raise LogVersionError("log: it has tables of other origin: choose an empty database")
            return None
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return None if version is None else str(version)


def upgrade(engine: sa.Engine) -> None:
    """Bring the schema up to date, in one transaction that other processes wait for."""
    from alembic import command

    writing = engine.execution_options(writes=True)
    with translated("migrating"), unforked(), writing.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
        command.upgrade(alembic_config(connection), "head")
    logger.info("log migrated to schema %s", HEAD)


def alembic_config(connection: sa.Connection | None = None) -> Any:  # Any: alembic is imported late
    """Return Alembic's configuration for the migrations that this package carries."""
    from alembic.config import Config

    packed = Path(__file__).parents[1] / "migrations"
    beside = Path(__file__).parents[2] / "migrations"
    config = Config()
    config.set_main_option(
        "script_location", str(packed if packed.is_dir() else beside).replace("%", "%%")
    )
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
