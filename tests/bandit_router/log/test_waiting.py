"""Waiting for PostgreSQL: a server that keeps silent is given up, one that is busy is not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from bandit_router import EventLog, LogUnavailableError
from bandit_router.log import waiting


def sleeping(seconds: float) -> Callable[[sa.Connection], None]:
    return lambda c: c.execute(sa.text(f"SELECT pg_sleep({seconds})")).scalar()


def test_a_transaction_ends_when_its_time_is_over(postgres_url: str) -> None:
    with EventLog.open(postgres_url) as log:
        began = time.monotonic()
        with pytest.raises(LogUnavailableError, match="nothing for"), log.reading(within_s=0.3) as c:
            sleeping(20)(c)
        assert time.monotonic() - began < 10
        assert log.read(lambda c: c.execute(sa.text("SELECT 1")).scalar()) == 1
        log.read(sleeping(0.5))  # the time was that transaction's alone


def test_a_server_that_keeps_silent_is_given_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SILENCE_S", 1.0)
    with EventLog.open(postgres_url) as log:
        with pytest.raises(LogUnavailableError, match="nothing for"):
            log.write(sleeping(60)).result(20)
        # All in all longer, and it has said something in between.
        log.write(lambda c: [sleeping(0.4)(c) for _ in range(4)]).result(20)
        many = sa.text("SELECT sum(i) FROM generate_series(1, 300000) AS i")
        assert log.read(lambda c: c.execute(many).scalar()) == 300_000 * 300_001 // 2
