"""Reader: looks at a log beside whoever uses it. It makes nothing, changes nothing, and runs no thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from bandit_router.log.engine import check_exists, connect, translated

T = TypeVar("T")


class Reader:
    """A log that is only read.

    Parameters
    ----------
    engine : Engine
    """

    def __init__(self, engine: sa.Engine) -> None:
        embedded = engine.dialect.name == "sqlite"
        still = {} if embedded else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self.engine, self._still, self._embedded = engine, engine.execution_options(**still), embedded

    @classmethod
    def open(cls, url: str) -> Reader:
        """Return the log at a URL; a file that is not there is not made.

        Raises
        ------
        SettingsError, LogUnavailableError
        """
        engine = connect(url)
        check_exists(engine)
        return cls(engine)

    def read(self, query: Callable[[sa.Connection], T]) -> T:
        """Return what a query finds.

        Raises
        ------
        LogUnavailableError
        """
        with translated("reading"), self._still.connect() as connection, connection.begin():
            if self._embedded:
                connection.exec_driver_sql("PRAGMA query_only=ON")
            return query(connection)

    def close(self) -> None:
        """Disconnect."""
        self.engine.dispose()
