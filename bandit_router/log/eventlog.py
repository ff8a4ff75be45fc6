"""EventLog: one connection to the log, with one thread that writes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from bandit_router.breaker import Breaker
from bandit_router.errors import BanditRouterError, LogUnavailableError
from bandit_router.log.draining import Drain
from bandit_router.log.engine import check_exists, check_schema, connect, translated
from bandit_router.log.forking import unforked
from bandit_router.log.frames import Row
from bandit_router.log.journal import Journal, default_folders
from bandit_router.log.patience import Patience, remaining
from bandit_router.log.writer import Writer, acommitted, committed
from bandit_router.tracing import span

logger = logging.getLogger(__name__)
T = TypeVar("T")

READERS = 8  # requests that read at the same time; the writer and the learner need connections too
REST_S = 0.5  # how long a log that is away is left alone before it is tried again


class EventLog:
    """The log of all routers in one database.

    What is written goes through one group-committing thread (`write`); what is read has a transaction of
    its own (`read`). The statements are functions of a connection, in the modules beside this one.

    A request waits for it only so long (`Patience`): for what it reads in `ask`, for what it writes in
    `result`. When that was too long a few times in a row, or has failed, the log is said to be away
    (`trouble`): then writing is refused at once, and decisions are kept in the journal (`keep`) until the log
    answers again.

    Parameters
    ----------
    engine : Engine
    url : str
        Any SQLAlchemy URL; in a file's the path is absolute.
    patience : Patience

    Attributes
    ----------
    journal : Journal
        What waits for the log in this process.

    Examples
    --------
    >>> from bandit_router.log.registration import router_names
    >>> with EventLog.open("sqlite://") as log:
    ...     log.read(router_names)
    []
    """

    def __init__(self, engine: sa.Engine, url: str, patience: Patience | None = None) -> None:
        self.engine, self.url, self.patience = engine, url, patience or Patience()
        # One state of the log for a whole reading transaction; in SQLite it always is.
        level = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reader = engine.execution_options(**level)
        self.journal = Journal(
            _folders(self.patience, engine.url), limit_bytes=self.patience.journal_bytes
        )
        self._writing = Breaker(slow_s=self.patience.timeout_s, rest_s=REST_S)
        self._reading = Breaker(slow_s=self.patience.timeout_s, rest_s=REST_S)
        self.writer = Writer(engine, told=self._told)
        self._drain = Drain(self.journal, self.writer, self._writing, timeout_s=self.patience.timeout_s)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="bandit-router-reader")

    @classmethod
    def open(
        cls,
        url: str,
        *,
        migrate: bool | None = None,
        create: bool = True,
        patience: Patience | None = None,
    ) -> EventLog:
        """Connect, and see that the schema is this program's.

        Parameters
        ----------
        url : str
        migrate : bool, optional
            Bring the schema up to date; by default only an embedded (SQLite) log's.
        create : bool
            False: refuse a file that is not there, instead of making it.
        patience : Patience, optional
            What is borne while the log is slow or away.

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
            return cls(engine, whole.render_as_string(hide_password=False), patience)
        except BanditRouterError:
            engine.dispose()
            raise

    def __repr__(self) -> str:
        return f"EventLog.open({self.engine.url.set(query={}).render_as_string(hide_password=True)!r})"

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ----------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, within_s: float | None = None) -> Iterator[sa.Connection]:
        """A connection with one reading transaction: it sees one state of the log, for so long [s] at most."""
        options = {} if within_s is None else {"until": time.monotonic() + within_s}
        with translated("reading"), unforked(), self._reader.connect() as connection:
            connection.execution_options(**options)
            with connection.begin():
                yield connection

    def read(self, query: Callable[[sa.Connection], T]) -> T:
        """Return what `query` finds, however long that takes.

        Raises
        ------
        LogUnavailableError
            The log does not answer.
        """
        with self.reading() as connection:
            return query(connection)

    def ask(self, query: Callable[[sa.Connection], T]) -> T:
        """As `read`, for a request: it waits no longer than it may, and not at all while reading is in vain.

        Raises
        ------
        LogUnavailableError
            The log does not answer, or not in time.
        """
        within_s = remaining(self.patience.timeout_s)
        return committed(self._asking(query, within_s), within_s)

    async def aask(self, query: Callable[[sa.Connection], T]) -> T:
        """As `ask`, without blocking the event loop."""
        within_s = remaining(self.patience.timeout_s)
        return await acommitted(self._asking(query, within_s), within_s)

    def _asking(self, query: Callable[[sa.Connection], T], within_s: float) -> Future[T]:
        if not self._reading.allows():
            raise LogUnavailableError(f"log: it is away: {self._reading.trouble}")
        return self._readers.submit(self._read_in_time, query, time.monotonic() + within_s)

    def _read_in_time(self, query: Callable[[sa.Connection], T], until: float) -> T:
        began = time.monotonic()
        try:
            with self.reading(within_s=until - began) as connection:
                found = query(connection)
        except LogUnavailableError as error:
            self._reading.failed(str(error))
            raise
        except BanditRouterError:  # it has answered, though not with what was wanted
            self._reading.succeeded(took_s=time.monotonic() - began)
            raise
        self._reading.succeeded(took_s=time.monotonic() - began)
        return found

    # -- writing ----------------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written; None where it can. Meanwhile decisions are kept in the journal."""
        return self._writing.trouble

    def write(self, job: Callable[[sa.Connection], T], *, of: str = "") -> Future[T]:
        """Run `job` in the next transaction; the future has its result once that is committed.

        `of` names the row that it will hold, such as a decision's id.

        Raises
        ------
        LogUnavailableError
            The log is away, or too much waits already.
        """
        self._check()
        return self.writer.submit(job, of=of)

    def insert(self, *rows: tuple[sa.Table, Row]) -> Future[None]:
        """Insert rows, all or none; as `write`."""
        self._check()
        return self.writer.insert(*rows)

    def result(self, future: Future[T]) -> T:
        """Return the result of what was written, if that is committed in the time that a request has.

        Raises
        ------
        LogUnavailableError
            It was not. What had not begun is dropped; the rest may still come.
        """
        within_s = remaining(self.patience.timeout_s)
        try:
            with span("log commit"):
                return committed(future, within_s)
        except LogUnavailableError:
            self._heard_nothing(future, within_s)
            raise

    async def aresult(self, future: Future[T]) -> T:
        """As `result`, without blocking the event loop."""
        within_s = remaining(self.patience.timeout_s)
        try:
            with span("log commit"):
                return await acommitted(future, within_s)
        except LogUnavailableError:
            self._heard_nothing(future, within_s)
            raise

    def keep(self, rows: Sequence[tuple[sa.Table, Row]]) -> Row | None:
        """Keep the rows of a decision in the journal, from which they come into the log by themselves.

        Returns
        -------
        mapping or None
            The row of a decision that is kept already under the same key; then nothing is added.

        Raises
        ------
        ConflictError
            The same key came before with another body.
        LogUnavailableError
            The journal is full, or cannot be written.
        """
        earlier = self.journal.keep([(table.name, row) for table, row in rows])
        self._drain.wake()
        return earlier

    def adopt(self) -> None:
        """Record what processes that are gone have left in the journal, now and from time to time."""
        self._drain.start()

    def close(self) -> None:
        """Commit what waits, and disconnect; what the log does not take stays in the journal."""
        self._drain.close()
        self.writer.close()
        decisions, size = self.journal.waiting
        if decisions:
            logger.warning(
                "%d decisions (%d bytes) stay in the journal, for the next process", decisions, size
            )
        self.journal.close()
        self._readers.shutdown(cancel_futures=True)
        self.engine.dispose()

    def _check(self) -> None:
        trouble = self._writing.trouble
        if trouble is not None:
            raise LogUnavailableError(f"log: it is away: {trouble}")

    def _told(self, took_s: float, trouble: str | None) -> None:
        """Hear from the writer how a transaction went."""
        if trouble is not None:
            self._failed(trouble)
        elif self._writing.trouble is None:  # else the drain closes it, when all is recorded
            self._writing.succeeded(took_s=took_s)

    def _heard_nothing(self, future: Future[T], within_s: float) -> None:
        if within_s < min(1.0, self.patience.timeout_s / 2):
            return  # the request's time went elsewhere: that says nothing of writing
        if future.cancelled() or not future.done():
            self._failed(f"no answer within {within_s:.3g} s")

    def _failed(self, trouble: str) -> None:
        self._writing.failed(trouble)
        if self._writing.trouble is not None:
            self._drain.wake()


def _folders(patience: Patience, url: sa.URL) -> tuple[Path, ...]:
    return (
        default_folders(url, os.environ)
        if patience.journal is None
        else (Path(patience.journal).absolute(),)
    )
