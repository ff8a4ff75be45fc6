"""EventLog: one connection to the log, with one thread that writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa

from bandit_router.errors import BanditRouterError
from bandit_router.log.engine import check_exists, check_schema, connect, translated
from bandit_router.log.forking import unforked
from bandit_router.log.writer import Writer

T = TypeVar("T")


class EventLog:
    """The log of all routers in one database.

    What is written goes through one group-committing thread (`write`); what is read has a transaction of
    its own (`read`). The statements are functions of a connection, in the modules beside this one.

    Parameters
    ----------
    engine : Engine
    url : str
        Any SQLAlchemy URL; in a file's the path is absolute.

    Examples
    --------
    >>> from bandit_router.log.registration import router_names
    >>> with EventLog.open("sqlite://") as log:
    ...     log.read(router_names)
    []
    """

    def __init__(self, engine: sa.Engine, url: str) -> None:
        self.engine, self.url = engine, url
        # One state of the log for a whole reading transaction; in SQLite it always is.
        level = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reader = engine.execution_options(**level)
        self.writer = Writer(engine)

    @classmethod
    def open(cls, url: str, *, migrate: bool | None = None, create: bool = True) -> EventLog:
        """Connect, and see that the schema is this program's.

        Parameters
        ----------
        url : str
        migrate : bool, optional
            Bring the schema up to date; by default only an embedded (SQLite) log's.
        create : bool
            False: refuse a file that is not there, instead of making it.

        Raises
        ------
        SettingsError, LogUnavailableError, LogVersionError
        """
        engine = connect(url)
        try:
            if not create:
                check_exists(engine)
            embedded = engine.dialect.name == "sqlite"
            check_schema(engine, migrate=embedded if migrate is None else migrate)
            whole = engine.url.update_query_dict(dict(sa.make_url(url).query))
            return cls(engine, whole.render_as_string(hide_password=False))
        except BanditRouterError:
            engine.dispose()
            raise

    def __repr__(self) -> str:
        return f"EventLog.open({self.engine.url.render_as_string(hide_password=True)!r})"

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection with one reading transaction: it sees one state of the log."""
        with translated("reading"), unforked(), self._reader.connect() as connection, connection.begin():
            yield connection

    def read(self, query: Callable[[sa.Connection], T]) -> T:
        """Return what `query` finds.

        Raises
        ------
        LogUnavailableError
            The log does not answer.
        """
        with self.reading() as connection:
            return query(connection)

    def write(self, job: Callable[[sa.Connection], T], *, of: str = "") -> Future[T]:
        """Run `job` in the next transaction; the future has its result once that is committed.

        `of` names the row that it will hold, such as a decision's id.
        """
        return self.writer.submit(job, of=of)

    def close(self) -> None:
        """Commit what waits, and disconnect."""
        self.writer.close()
        self.engine.dispose()
