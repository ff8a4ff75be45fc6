"""One thread that writes the log: whatever waits is committed together, and only then acknowledged."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import groupby
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from bandit_router.errors import ClosedError, LogUnavailableError
from bandit_router.log.engine import reason
from bandit_router.log.faults import fatal_in, is_busy
from bandit_router.log.forking import unforked
from bandit_router.log.raters import tallying, undone_together
from bandit_router.tracing import span

logger = logging.getLogger(__name__)
T = TypeVar("T")
Job = Callable[[sa.Connection], Any]  # Any: each job has a result of its own
Row = Mapping[str, Any]  # Any: a value of each column's own type

QUEUE_LIMIT = 20_000  # what may wait; more is refused, never dropped
BATCH_LIMIT = 1_000
BUSY_PATIENCE_S = 60.0  # how long a locked log is tried again
PATIENCE_S = (
    90.0  # how long a caller waits for a commit before it hears that there was none, unless it says so
)


class RefusedRowError(LogUnavailableError):
    """Raised when the log works, but will not have this one row."""


class _Item:
    """A job, or rows to insert."""

    __slots__ = ("future", "job", "of", "rows")

    def __init__(
        self, job: Job | None, rows: Sequence[tuple[sa.Table, Row]] = (), *, of: str = ""
    ) -> None:
        self.future: Future[Any] = Future()  # Any: the result of any job
        self.job, self.rows, self.of = job, rows, of


class Writer:
    """Group commit: jobs and rows of one kind in the order in which they came, in one transaction.

    A bad row or job fails alone: each runs in a savepoint of its own when its batch fails. A result is set
    only when the transaction has been committed. What is cancelled before its transaction begins is dropped.
    The thread outlives whatever the log does.

    Parameters
    ----------
    engine : Engine
    told : callable
        Called after each transaction with how long it took [s], and what was wrong or None.
    """

    def __init__(
        self, engine: sa.Engine, told: Callable[[float, str | None], None] = lambda *_: None
    ) -> None:
        self._engine, self._told = engine.execution_options(writes=True), told
        self._queue: queue.Queue[_Item | None] = queue.Queue(QUEUE_LIMIT)
        self._closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="bandit-router-log", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[sa.Connection], T], *, of: str = "") -> Future[T]:
        """Run `job` inside the next transaction; the future has its result once that is committed.

        Parameters
        ----------
        job : callable
            Of a connection. It may run again, from nothing, where it met other writers.
        of : str
            The row that it will hold, such as a decision's id. Jobs about one row stay in their order; rows
            are taken in the order of their names, so that two workers do not wait for each other.

        Raises
        ------
        LogUnavailableError
            Too much waits already.
        ClosedError
            The log was closed.
        """
        return self._put(_Item(job, of=of))

    def insert(self, *rows: tuple[sa.Table, Row]) -> Future[None]:
        """Insert rows, all or none; those of neighbouring calls travel in one statement for each table."""
        return self._put(_Item(None, rows))

    def _put(self, item: _Item) -> Future[Any]:  # Any: the result of any job
        with self._gate:
            if self._closed:
                raise ClosedError("the log was closed")
            try:
                self._queue.put_nowait(item)
            except queue.Full:
                raise LogUnavailableError(f"log: {QUEUE_LIMIT} writes wait already") from None
        return item.future

    def close(self) -> None:
        """Commit what waits, and stop."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batch, last = self._gather(first)
            # From here on nobody can cancel: an item is either dropped now or gets its result.
            running = [item for item in batch if item.future.set_running_or_notify_cancel()]
            self._commit(sorted(running, key=lambda item: item.of))
            if last:
                return

    def _gather(self, first: _Item) -> tuple[list[_Item], bool]:
        batch = [first]
        while len(batch) < BATCH_LIMIT:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _commit(self, batch: list[_Item]) -> None:
        if not batch:
            return
        began = time.monotonic()
        try:
            results = self._try(batch, began + BUSY_PATIENCE_S)
        except Exception as error:  # even a bug must not end the thread that everything waits for
            if not isinstance(error, SQLAlchemyError):
                logger.exception("log: a batch of %d failed", len(batch))
            self._told(time.monotonic() - began, reason(error))
            self._refuse(batch, error)
            return
        self._told(time.monotonic() - began, None)
        for item, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                item.future.set_exception(result)
            else:
                item.future.set_result(result)

    def _try(self, batch: list[_Item], deadline: float) -> list[Any]:  # Any: the results of the jobs
        while True:
            try:
                with span("log transaction", writes=len(batch)):
                    return self._transact(batch)
            except SQLAlchemyError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def _transact(self, batch: list[_Item]) -> list[Any]:  # Any: the results of the jobs
        results: list[Any] = []  # Any: see above
        with unforked(), self._engine.connect() as connection, connection.begin(), tallying(connection):
            for key, group in groupby(batch, key=lambda item: item.job):
                items = list(group)
                results += _insert_all(connection, items) if key is None else _run_all(connection, items)
        return results

    def _refuse(self, batch: list[_Item], error: Exception) -> None:
        for item in batch:
            refusal = LogUnavailableError(f"log: no commit: {reason(error)}")
            refusal.__cause__ = error
            item.future.set_exception(refusal)


def _insert_all(connection: sa.Connection, items: list[_Item]) -> list[Any]:  # Any: results of jobs
    try:
        with connection.begin_nested():
            _insert(connection, [row for item in items for row in item.rows])
        return [None] * len(items)
    except Exception as error:
        fatal = fatal_in(error)
        if fatal is not None:
            raise fatal from None
        return _run_all(connection, items)  # each alone: only the bad one fails


def _insert(connection: sa.Connection, rows: Sequence[tuple[sa.Table, Row]]) -> None:
    for table in dict.fromkeys(table for table, _ in rows):
        connection.execute(sa.insert(table), [row for of, row in rows if of is table])


def _run_all(connection: sa.Connection, items: list[_Item]) -> list[Any]:  # Any: results of jobs
    return [_run_one(connection, item) for item in items]


def _run_one(connection: sa.Connection, item: _Item) -> Any:  # Any: the result of a job
    try:
        return _run(connection, item)
    except SQLAlchemyError as error:
        fatal = fatal_in(error)
        if fatal is not None:
            raise fatal from None
        refusal = RefusedRowError(f"log: this row was refused: {reason(error)}")
        refusal.__cause__ = error
        return refusal
    except Exception as error:
        return error


def _run(connection: sa.Connection, item: _Item) -> Any:  # Any: the result of a job
    if item.job is None:
        with connection.begin_nested():
            return _insert(connection, item.rows)
    try:
        with undone_together(connection), connection.begin_nested():
            return item.job(connection)
    except IntegrityError:  # another worker wrote the same key meanwhile: now the job sees it
        with undone_together(connection), connection.begin_nested():
            return item.job(connection)


def committed(future: Future[T], within_s: float = PATIENCE_S) -> T:
    """Wait for a job's result, but only so long [s].

    Raises
    ------
    LogUnavailableError
        There was no commit in time. A job that had not begun is dropped; another may still come.
    """
    try:
        return future.result(within_s)
    except FutureTimeoutError as error:
        if not future.cancel() and future.done():  # just now
            return future.result()
        raise LogUnavailableError(f"log: no answer within {within_s:.3g} s") from error


async def acommitted(future: Future[T], within_s: float = PATIENCE_S) -> T:
    """As `committed`, without blocking the event loop."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), within_s)  # cancels it where it ends
    except TimeoutError as error:
        raise LogUnavailableError(f"log: no answer within {within_s:.3g} s") from error
