"""What raters have used of their allowance: one counter each, kept in the transaction that records a word.

A transaction reads the counters as it needs them and adds what was used at its very end, in one order for
all, so that two workers never wait for each other in a circle. Two that hear the same rater in the same
instant do not see each other's words yet: each of them may give the rest of the allowance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from bandit_router.log import tables as t
from bandit_router.log.rows import from_us, to_us
from bandit_router.rewards import Allowance

Rater = tuple[str, str]  # router, and the source or key
_TALLY = "bandit_router.raters"
_SPENT = 0.01  # observations below which a counter is not worth keeping
_r = t.raters.c
_ADD_SQLITE, _ADD_POSTGRESQL = sqlite.insert(t.raters), postgresql.insert(t.raters)
_KEY = ["router", "rater"]
# Where another worker was faster with a rater's first row, both count.
_ADD: Mapping[str, sa.Insert] = {
    "sqlite": _ADD_SQLITE.on_conflict_do_update(
        index_elements=_KEY, set_={"used": _r.used + _ADD_SQLITE.excluded.used}
    ),
    "postgresql": _ADD_POSTGRESQL.on_conflict_do_update(
        index_elements=_KEY, set_={"used": _r.used + _ADD_POSTGRESQL.excluded.used}
    ),
}
_CHANGE = (
    sa.update(t.raters)
    .where(_r.router == sa.bindparam("of_router"), _r.rater == sa.bindparam("of_rater"))
    .values(used=sa.bindparam("now_used"), at_us=sa.bindparam("now_at"))
)


class _Tally:
    """What one transaction knows of raters: as they were, and what it has added since."""

    def __init__(self) -> None:
        self.known: dict[Rater, Allowance] = {}
        self.added: dict[Rater, float] = {}


@contextmanager
def tallying(connection: sa.Connection) -> Iterator[None]:
    """Add what the words of one transaction have used, when all are recorded."""
    known = connection.info  # a connection that is lost meanwhile has none any more
    known[_TALLY] = tally = _Tally()
    try:
        yield
        _settle(connection, tally)
    finally:
        known.pop(_TALLY, None)


@contextmanager
def undone_together(connection: sa.Connection) -> Iterator[None]:
    """Forget what was charged inside, where that fails: as a savepoint does with what was written."""
    tally: _Tally | None = connection.info.get(_TALLY)
    before = None if tally is None else (dict(tally.known), dict(tally.added))
    try:
        yield
    except BaseException:
        if tally is not None and before is not None:
            tally.known, tally.added = before
        raise


def allowances(connection: sa.Connection, router: str, raters: Sequence[str]) -> Mapping[str, Allowance]:
    """Return what some raters have used, with what this transaction has added."""
    tally: _Tally = connection.info.get(_TALLY) or _Tally()
    unknown = [rater for rater in raters if (router, rater) not in tally.known]
    if unknown:
        found = sa.select(t.raters).where(_r.router == router, _r.rater.in_(unknown))
        rows = {row.rater: row for row in connection.execute(found)}
        for rater in unknown:
            row = rows.get(rater)
            used = Allowance() if row is None else Allowance(used=row.used, at=from_us(row.at_us))
            tally.known[router, rater] = used
    return {rater: tally.known[router, rater] for rater in raters}


def charge(
    connection: sa.Connection, router: str, raters: Sequence[str], weight: float, now: float
) -> None:
    """Charge some raters for a word [observations]; outside `tallying`, at once."""
    outer: _Tally | None = connection.info.get(_TALLY)
    tally = outer or _Tally()
    for rater in raters:
        of = (router, rater)
        tally.added[of] = tally.added.get(of, 0.0) + weight
        tally.known[of] = tally.known.get(of, Allowance()).charged(weight, now=now)
    if outer is None:
        _settle(connection, tally)


def drop_spent(connection: sa.Connection, router: str, now: float) -> int:
    """Let go of counters of which nothing is left to say; return how many."""
    c = t.raters.c
    rows = connection.execute(sa.select(t.raters).where(c.router == router)).all()
    old = [r.rater for r in rows if Allowance(used=r.used, at=from_us(r.at_us)).used_at(now) < _SPENT]
    for rater in old:
        connection.execute(sa.delete(t.raters).where(c.router == router, c.rater == rater))
    return len(old)


def _settle(connection: sa.Connection, tally: _Tally) -> None:
    """Write what was added, rater by rater in one order, onto what others have written meanwhile."""
    for router in sorted({router for router, _ in tally.added}):
        added = {rater: weight for (of, rater), weight in sorted(tally.added.items()) if of == router}
        now_us = max(to_us(tally.known[router, rater].at) for rater in added)
        held = sa.select(t.raters).where(_r.router == router, _r.rater.in_(list(added)))
        rows = connection.execute(held.order_by(_r.rater).with_for_update()).all()
        before = {row.rater: Allowance(used=row.used, at=from_us(row.at_us)) for row in rows}
        after = {
            rater: used.charged(added[rater], now=from_us(now_us)) for rater, used in before.items()
        }
        changes = [
            {"of_router": router, "of_rater": rater, "now_used": used.used, "now_at": to_us(used.at)}
            for rater, used in after.items()
        ]
        if changes:
            connection.execute(_CHANGE, changes)
        _insert(connection, router, {r: w for r, w in added.items() if r not in before}, now_us)


def _insert(connection: sa.Connection, router: str, added: Mapping[str, float], now_us: int) -> None:
    rows = [
        {"router": router, "rater": rater, "used": used, "at_us": now_us}
        for rater, used in added.items()
    ]
    if rows:
        connection.execute(_ADD[connection.dialect.name], rows)
