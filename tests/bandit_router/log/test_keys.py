"""Keys and secrets in the log, on SQLite and PostgreSQL."""

from __future__ import annotations

import hmac
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


def test_a_key_is_followed_by_one_that_may_the_same(log: EventLog) -> None:
    old, new, newer = (keys.new_key() for _ in range(3))

    def rotate(of: str, key: str, *, now: float = NOW, **given: float) -> keys.Key | None:
        job = log.write(lambda c: keys.rotate_key(c, of, key, now=now, overlap_s=60.0, **given))
        return committed(job)

    first = committed(
        log.write(
            lambda c: keys.add_key(
                c, old, name="n", scopes=["feedback"], now=NOW - 10, expires=NOW + 90, influence=7.0
            )
        )
    )
    second = rotate(first.id, new)
    assert second is not None
    assert (second.name, second.scopes, second.influence) == ("n", {"feedback"}, 7.0)
    assert second.expires == NOW + 100  # as long as the first was made for
    first, _ = log.read(keys.read_keys)
    assert (first.valid(NOW + 59), first.valid(NOW + 60)) == (True, False)
    third = rotate(first.id, newer, now=NOW + 50, expires=NOW + 1e6)
    assert third is not None
    assert third.expires == NOW + 1e6
    assert log.read(keys.read_keys)[0].expires == NOW + 60  # what ends sooner stays so
    assert rotate(first.id, keys.new_key(), now=NOW + 60) is None
    assert rotate("nobody", keys.new_key()) is None
    assert len(log.read(keys.read_keys)) == 3


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [keys.new_key() for _ in range(3)]
    known = [
        keys.Key(id=str(i), name="n", hash=keys.hash_key(key), scopes=frozenset(), created=NOW)
        for i, key in enumerate(made)
    ]
    compared, compare = [], hmac.compare_digest

    def spied(a: str, b: str) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spied)
    for key, found in [*zip(made, known, strict=True), ("br_" + "x" * 43, None), ("é", None)]:
        compared.clear()
        assert keys.find_key(known, key) is found
        assert compared == [(entry.hash, keys.hash_key(key)) for entry in known]
        assert {len(text) for pair in compared for text in pair} == {64}


def test_secrets_rotate(log: EventLog) -> None:
    def rotate(now: float, overlap_s: float) -> None:
        committed(log.write(lambda c: keys.rotate_secret(c, now, overlap_s=overlap_s)))

    def valid(now: float) -> tuple[bytes, ...]:
        return log.read(lambda c: keys.read_secrets(c, now))

    committed(log.write(lambda c: keys.ensure_secret(c, NOW)))
    committed(log.write(lambda c: keys.ensure_secret(c, NOW)))
    (first,) = valid(NOW)
    rotate(NOW + 1, 60.0)
    second, old = valid(NOW + 60)
    assert (len(second), old) == (32, first)
    assert valid(NOW + 61) == (second,)
    rotate(NOW + 2, 3_600.0)  # the first still ends when it was to end
    third = valid(NOW + 61)[0]
    assert (valid(NOW + 61), valid(NOW + 3_602)) == ((third, second), (third,))
    rotate(NOW + 3, 0.0)
    (fourth,) = valid(NOW + 3)
    assert fourth not in (first, second, third)


def test_workers_that_begin_together_verify_each_other(log_url: str) -> None:
    def begin(_: int) -> bytes:
        with EventLog.open(log_url) as log:
            committed(log.write(lambda c: keys.ensure_secret(c, NOW)))
            return log.read(lambda c: keys.read_secrets(c, NOW))[0]

    with EventLog.open(log_url), ThreadPoolExecutor(4) as pool:
        used = set(pool.map(begin, range(4)))
    with EventLog.open(log_url) as log:
        assert used <= set(log.read(lambda c: keys.read_secrets(c, NOW)))
