"""Connecting to the log, on SQLite or PostgreSQL: many processes, errors in one language, migrations."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sqlite3
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from bandit_router.errors import LogUnavailableError, LogVersionError, SettingsError
from bandit_router.log.forking import close_before_fork, unforked
from bandit_router.log.partitions import ensure
from bandit_router.log.tables import HEAD, compatibility, routers

logger = logging.getLogger(__name__)
BUSY_TIMEOUT_S = 30.0  # how long SQLite waits for another process's lock
CONNECT_S = 5  # how long a connection to PostgreSQL may take
LOCK_S = 10  # how long a writer waits for a row before it tries its batch again
IDLE_S = 300  # after which a transaction of a worker that stands still is ended
POOL_S = 5.0  # how long one waits for a free connection
PING_S = 5.0  # how long a connection that was idle may take to answer
# Parameters are prompts and names; so are rows, which SQLAlchemy writes to its logger at DEBUG: that is ours.
_SILENT: dict[str, Any] = {
    "hide_parameters": True,
    "logging_name": "bandit_router",
}  # Any: each argument of create_engine has a type of its own
logging.getLogger("sqlalchemy.engine.Engine.bandit_router").setLevel(logging.WARNING)
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
    except SettingsError:  # a ValueError too
        raise
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        hint = "pip install 'bandit-router[postgres]'; SQLite needs nothing"
        raise SettingsError(f"log: {error}: its driver must be installed: {hint}") from error
    except (ArgumentError, ValueError):
        # Without a cause, and without saying what came: a password may be in it.
        raise SettingsError(
            "log: expected a URL such as sqlite:///chat.db or postgresql://user@host:5432/name"
        ) from None


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
    engine = sa.create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        pool_size=8,
        pool_timeout=POOL_S,
        **_SILENT,
    )
    close_before_fork(engine)
    if folder is not None:
        weakref.finalize(engine, _remove, folder, os.getpid())
    file = None if str(url.database).startswith("file:") else str(url.database)
    _keep_to_one_file(engine, file)

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


def _keep_to_one_file(engine: sa.Engine, file: str | None) -> None:
    """See that a log whose file was moved or deleted is away: SQLite would write on where nobody looks."""
    seen = False

    @event.listens_for(engine, "do_connect")
    def on_connecting(*_: object) -> None:
        if seen and file is not None and not Path(file).exists():  # SQLite would make an empty one
            raise _gone()

    @event.listens_for(engine, "connect")
    def on_connect(_: object, record: Any) -> None:  # Any: SQLAlchemy's own
        nonlocal seen
        seen, record.info["file"] = True, _identity(file)

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        if connection.info.get("file") != _identity(file):
            connection.invalidate()
            raise OperationalError("BEGIN", {}, _gone())


def _identity(file: str | None) -> tuple[int, int] | None:
    try:
        found = None if file is None else Path(file).stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _gone() -> sqlite3.OperationalError:
    return sqlite3.OperationalError("the database file was moved or deleted")


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
        url,
        connect_args=arguments,
        pool_size=8,
        max_overflow=8,
        pool_timeout=POOL_S,
        pool_pre_ping=True,
        **_SILENT,
    )
    close_before_fork(engine)
    if engine.driver == "psycopg":
        _bound(engine)

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        # A writer takes its transaction's number before any row's, so that followers know what to wait for.
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql("SELECT pg_current_xact_id()")

    return engine


def _bound(engine: sa.Engine) -> None:
    """Let no connection wait for ever; a transaction's options ``until`` and ``silence_s`` say how long."""
    from bandit_router.log.waiting import SILENCE_S, BoundedConnection  # after psycopg was found

    @event.listens_for(engine, "do_connect")
    def on_connecting(_: object, __: object, arguments: Any, options: Any) -> object:  # Any: psycopg's
        return BoundedConnection.connect(*arguments, **options)

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        options, bounded = connection.get_execution_options(), connection.connection.dbapi_connection
        assert isinstance(bounded, BoundedConnection)
        bounded.until = options.get("until", math.inf)
        bounded.silence_s = options.get("silence_s", SILENCE_S)

    @event.listens_for(engine, "checkin")
    def on_checkin(bounded: BoundedConnection | None, _: object) -> None:
        if bounded is not None:  # what comes next is a ping
            bounded.until, bounded.silence_s = math.inf, PING_S


def _absolute(url: sa.URL) -> sa.URL:
    """The same file, also after the process has changed its folder."""
    database = str(url.database)
    return url if database.startswith("file:") else url.set(database=str(Path(database).absolute()))


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not a forked child that ends earlier
        shutil.rmtree(folder, ignore_errors=True)


def _use_wal(cursor: Any) -> None:  # Any: a cursor of sqlite3, or of another driver
    """Switch to write-ahead logging; SQLite answers "locked" at once while another process does the same."""
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
    """See that the log has this program's schema, or a newer one on which this program still works.

    Parameters
    ----------
    engine : Engine
    migrate : bool
        Bring a missing or older schema up to date.

    Raises
    ------
    LogVersionError
        The schema is too new; or it is older or missing and `migrate` is False.
    LogUnavailableError
        The log cannot be reached, or holds something else.
    """
    with translated("reading its version"), unforked():
        found = schema_version(engine)
        if found == HEAD:
            return
        trouble = schema_fits(engine)
    if migrate and is_older(found):
        upgrade(engine)
    elif trouble is not None:
        raise LogVersionError(trouble)
    else:
        logger.warning(
            "log: its schema is version %s, newer than this program's %s, and fits", found, HEAD
        )


def schema_fits(engine: sa.Engine) -> str | None:
    """Return why this program cannot work on a log with its schema, or None where it can.

    It can on its own schema, and on a newer one that has only added what this program does not look at.
    """
    found = schema_version(engine)
    if found == HEAD:
        return None
    if is_older(found):
        what = "missing" if found is None else f"version {found}"
        needs = f"this program needs {HEAD}: run `bandit-router migrate --log URL`"
        return f"log: its schema is {what}, {needs}"
    oldest = _oldest(engine)
    if oldest is not None and int(oldest) <= int(HEAD):
        return None
    needs = f"on which programs of schema {oldest or found} or later work, not this one of {HEAD}"
    return f"log: its schema is version {found}, {needs}: upgrade bandit-router"


def is_older(version: str | None) -> bool:
    """Whether a schema is missing, or older than this program's."""
    return version is None or (version.isdigit() and int(version) < int(HEAD))


def _oldest(engine: sa.Engine) -> str | None:
    """The oldest schema whose programs work on the log's; None where it does not say."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(compatibility.name):
            return None
        said = connection.execute(sa.select(compatibility.c.oldest)).scalar()
        return said if said is not None and said.isdigit() else None


def need_program(connection: sa.Connection, schema: str) -> None:
    """Let only programs of this schema, or later, work on the log from now on."""
    c = compatibility.c
    connection.execute(sa.update(compatibility).where(c.oldest < schema).values(oldest=schema))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One migration that a log has not had yet.

    Attributes
    ----------
    version : str
    what : str
        What it does, in a sentence.
    oldest : str
        The oldest schema whose programs still work on what it makes.
    contracts : bool
        Whether some programs that work on the log before it no longer do.
    """

    version: str
    what: str
    oldest: str
    contracts: bool


def pending_steps(engine: sa.Engine, *, scripts: Path | None = None) -> list[Step]:
    """Return the migrations that a log has not had yet, in their order.

    Raises
    ------
    LogVersionError
        The log is newer than them, and this program does not work on it.
    LogUnavailableError
    """
    from alembic.script import ScriptDirectory

    with translated("reading its version"), unforked():
        found, oldest = schema_version(engine), _oldest(engine)
        trouble = None if is_older(found) else schema_fits(engine)
    if trouble is not None:
        raise LogVersionError(trouble)
    scripts_of = ScriptDirectory.from_config(alembic_config(scripts=scripts)).walk_revisions
    news = [script for script in scripts_of() if found is None or script.revision > found]
    steps: list[Step] = []
    for script in reversed(news):
        before = steps[-1].oldest if steps else oldest or found
        steps.append(_step(script, before if found else None))
    return steps


def _step(script: Any, before: str | None) -> Step:  # Any: alembic's script
    oldest = str(getattr(script.module, "oldest", script.revision))
    contracts = before is not None and oldest > before
    return Step(version=script.revision, what=script.doc, oldest=oldest, contracts=contracts)


def upgrade(engine: sa.Engine, *, scripts: Path | None = None) -> None:
    """Bring the schema up to date, in one transaction that other processes wait for; and create partitions.

    Parameters
    ----------
    engine : Engine
    scripts : Path, optional
        Alembic's folder, by default the one that this package carries.
    """
    from alembic import command

    writing = engine.execution_options(writes=True, silence_s=math.inf)  # an index takes its time
    with translated("migrating"), unforked(), writing.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
        command.upgrade(alembic_config(connection, scripts=scripts), "head")
    logger.info("log migrated to schema %s", HEAD)
    with translated("creating partitions"):
        ensure(engine)


def alembic_config(
    connection: sa.Connection | None = None, *, scripts: Path | None = None
) -> Any:  # Any: alembic is imported late
    """Return Alembic's configuration for the migrations in a folder, by default those of this package."""
    from alembic.config import Config

    packed = Path(__file__).parents[1] / "migrations"
    beside = Path(__file__).parents[2] / "migrations"
    config = Config()
    folder = scripts or (packed if packed.is_dir() else beside)
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
