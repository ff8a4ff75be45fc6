"""Forgotten: who asked to be erased, and when; so that nothing of theirs comes back, or is left behind."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from bandit_router.log import tables as t
from bandit_router.log.rows import Row, digest, to_us

_e = t.erasures.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One user who asked to be erased from a router.

    Attributes
    ----------
    user_hash : str
        All that is kept of the name.
    left : frozenset of str
        Archives that were not looked through yet.
    """

    router: str
    user_hash: str
    left: frozenset[str]


def hash_user(router: str, user: str) -> str:
    """Return what is kept of the name of somebody who was erased: SHA-256, with the router's name."""
    return digest(json.dumps([router, user]))


def note_erasure(
    connection: sa.Connection, router: str, user: str, *, asked: float, left: Collection[str]
) -> None:
    """Write down that a user is to be erased, and from which archives still."""
    mine = (_e.router == router, _e.user_hash == hash_user(router, user))
    connection.execute(sa.delete(t.erasures).where(*mine))
    row = {"router": router, "user_hash": hash_user(router, user), "asked_us": to_us(asked)}
    row |= {"left": json.dumps(sorted(left)), "counts": "{}", "done_us": None if left else to_us(asked)}
    connection.execute(sa.insert(t.erasures), row)


def read_erasures(connection: sa.Connection) -> list[Erasure]:
    """Return the erasures that are not done."""
    rows = connection.execute(sa.select(t.erasures).where(_e.done_us.is_(None))).mappings()
    return [
        Erasure(
            router=row["router"], user_hash=row["user_hash"], left=frozenset(json.loads(row["left"]))
        )
        for row in rows
    ]


def strike_off(
    connection: sa.Connection,
    erasure: Erasure,
    archive: str,
    erased: Sequence[tuple[str, int]],
    now: float,
) -> None:
    """Write down that an archive holds nothing of a user any more, and how many rows of each kind it had."""
    mine = (_e.router == erasure.router, _e.user_hash == erasure.user_hash)
    row = connection.execute(sa.select(t.erasures).where(*mine).with_for_update()).mappings().first()
    if row is None:
        return
    left = [other for other in json.loads(row["left"]) if other != archive]
    counts = json.loads(row["counts"])
    for kind, n in erased:
        counts[kind] = counts.get(kind, 0) + n
    values = {"left": json.dumps(left), "counts": json.dumps(counts)}
    done = None if left else to_us(now)
    connection.execute(sa.update(t.erasures).where(*mine).values(**values, done_us=done))


def refuse_erased(connection: sa.Connection, rows: Sequence[Row]) -> list[Row]:
    """Return those of some decisions' rows whose users were not erased after they were made.

    The routers are held until the transaction ends, so that no erasure slips in between.
    """
    for router in sorted({row["router"] for row in rows}):
        c = t.routers.c
        connection.execute(sa.select(c.name).where(c.name == router).with_for_update(read=True))
    asked = _asked(connection, {(row["router"], row["user"]) for row in rows if row["user"]})
    return [row for row in rows if row["at_us"] > asked.get((row["router"], row["user"]), -1)]


def erased_since(connection: sa.Connection, router: str, sources: Collection[str]) -> dict[str, int]:
    """Return those of some users who asked to be erased, and when [us since 1970]."""
    asked = _asked(connection, {(router, source) for source in sources})
    return {source: moment for (_, source), moment in asked.items()}


def _asked(connection: sa.Connection, users: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
    if not users:
        return {}
    hashes = {(router, hash_user(router, user)): user for router, user in users}
    found = sa.select(_e.router, _e.user_hash, _e.asked_us).where(
        _e.user_hash.in_({user_hash for _, user_hash in hashes})
    )
    return {
        (str(row.router), hashes[row.router, row.user_hash]): row.asked_us
        for row in connection.execute(found)
        if (row.router, row.user_hash) in hashes
    }
