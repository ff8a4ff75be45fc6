"""What a database's error means: others stand in the way, the log is away, or this one statement is wrong."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InvalidRequestError,
    OperationalError,
    StatementError,
    TimeoutError,
)

_BUSY = ("40001", "40P01", "55P03")  # PostgreSQL: serialization failure, deadlock, lock timeout
# PostgreSQL: connection lost, read-only, out of disk or connections, shutting down or starting, failing
_AWAY = ("08", "25006", "53", "57P", "58", "XX")
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_AWAY_CODES = (
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL),
    *(sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOTADB),
)


def is_busy(error: Exception) -> bool:
    """Whether other writers stood in the way, so that the same transaction may pass a moment later."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _BUSY_CODES
    return getattr(error.orig, "sqlstate", None) in _BUSY


def is_away(error: Exception) -> bool:
    """Whether the log cannot be used now, rather than that it refuses this one statement."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, TimeoutError | InvalidRequestError)  # no connection, or a lost one
    if error.connection_invalidated:
        return True
    code, state = (getattr(error.orig, name, None) for name in ("sqlite_errorcode", "sqlstate"))
    if code is not None:
        return code & 0xFF in _AWAY_CODES
    if state is not None:
        return str(state).startswith(_AWAY)
    return isinstance(error, OperationalError | InterfaceError)


def fatal_in(error: BaseException) -> BaseException | None:
    """Return the error by which a whole transaction was lost, not only one statement of it, or None.

    A disk that is full makes SQLite end the transaction by itself, so that the next thing to fail is the
    rollback to a savepoint; and what would follow would not be in any transaction.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, Exception) and (is_away(found) or is_busy(found)):
            return found
        found = _before(found)
    return None


def _before(error: BaseException) -> BaseException | None:
    """The error that came before; what is wrong with values that were never sent is none of the database's."""
    if (
        isinstance(error, StatementError)
        and not isinstance(error, DBAPIError)
        and error.orig is not None
    ):
        return error.orig.__context__
    return error.__context__
