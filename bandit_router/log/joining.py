"""Whether feedback finds its decisions: how many of the latest ones have heard anything."""

from __future__ import annotations

import sqlalchemy as sa

from bandit_router.log import tables as t
from bandit_router.log.rows import to_us


def join_counts(
    connection: sa.Connection, router: str, *, before: float, newest: int
) -> tuple[int, int]:
    """Return how many of a router's newest decisions there are, and how many of them have feedback.

    Parameters
    ----------
    connection : Connection
    router : str
    before : float
        Younger decisions do not count: their users have not spoken yet [s since 1970].
    newest : int
        How many are looked at, at most.
    """
    d, f = t.decisions.c, t.feedback.c
    old_enough = sa.select(d.id).where(d.router == router, d.at_us < to_us(before))
    looked_at = old_enough.order_by(d.at_us.desc()).limit(newest).subquery()
    heard = sa.exists().where(f.decision_id == looked_at.c.id, f.retracted_us.is_(None))
    counts = sa.select(sa.func.count(), sa.func.count().filter(heard)).select_from(looked_at)
    there, joined = connection.execute(counts).one()
    return int(there), int(joined)
