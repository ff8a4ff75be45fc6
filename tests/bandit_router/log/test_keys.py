"""Keys and secrets in the log, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bandit_router import EventLog
from bandit_router.errors import SettingsError
from bandit_router.log import keys
from bandit_router.log.writer import committed

NOW = 1_800_000_000.0


@pytest.fixture
def log(log_url: str) -> Iterator[EventLog]:
    with EventLog.open(log_url) as opened:
        yield opened


def test_a_key_is_kept_as_its_hash_and_can_end(log: EventLog) -> None:
    assert log.read(keys.read_keys) == ()
    texts = [keys.new_key() for _ in range(2)]
    for age, text, expires in zip((1, 0), texts, (None, NOW + 60), strict=True):
        committed(
            log.write(
                lambda c, text=text, expires=expires, made=NOW - age: keys.add_key(
                    c, text, name="n", scopes=["route", "feedback"], now=made, expires=expires
                )
            )
        )
    for_ever, for_a_minute = log.read(keys.read_keys)
    assert for_ever.scopes == {"route", "feedback"}
    assert for_ever.hash == keys.hash_key(texts[0])
    assert len(texts[0]) == 46
    assert not any(text[3:] in repr(key) for text in texts for key in (for_ever, for_a_minute))
    assert for_ever.valid(NOW + 1e9)
    assert (for_a_minute.valid(NOW + 59), for_a_minute.valid(NOW + 60)) == (True, False)
    assert committed(log.write(lambda c: keys.revoke_key(c, for_ever.id, NOW))) is True
    assert committed(log.write(lambda c: keys.revoke_key(c, for_ever.id, NOW))) is False
    assert committed(log.write(lambda c: keys.revoke_key(c, "nobody", NOW))) is False
    assert not log.read(keys.read_keys)[0].valid(NOW)


@pytest.mark.parametrize("scopes", [[], ["all"], ["route", "x"]])
def test_scopes_that_there_are_not(log: EventLog, scopes: list[str]) -> None:
    job = log.write(lambda c: keys.add_key(c, "br_x", name="n", scopes=scopes, now=NOW))
    with pytest.raises(SettingsError, match="scope"):
        committed(job)


def test_secrets_rotate(log: EventLog) -> None:
    committed(log.write(lambda c: keys.ensure_secret(c, NOW)))
    committed(log.write(lambda c: keys.ensure_secret(c, NOW)))
    (first,) = log.read(keys.read_secrets)
    committed(log.write(lambda c: keys.rotate_secret(c, NOW + 1)))
    second, old = log.read(keys.read_secrets)
    assert (len(second), old) == (32, first)
    committed(log.write(lambda c: keys.rotate_secret(c, NOW + 2, retire_old=True)))
    (third,) = log.read(keys.read_secrets)
    assert third not in (first, second)


def test_workers_that_begin_together_verify_each_other(log_url: str) -> None:
    def begin(_: int) -> bytes:
        with EventLog.open(log_url) as log:
            committed(log.write(lambda c: keys.ensure_secret(c, NOW)))
            return log.read(keys.read_secrets)[0]

    with EventLog.open(log_url), ThreadPoolExecutor(4) as pool:
        used = set(pool.map(begin, range(4)))
    with EventLog.open(log_url) as log:
        assert used <= set(log.read(keys.read_secrets))
