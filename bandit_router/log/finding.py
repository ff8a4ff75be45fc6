"""Where something stands: which of the log's many routers has a decision, a conversation or a word."""

from __future__ import annotations

import json
from collections.abc import Collection

import sqlalchemy as sa

from bandit_router.events import Feedback
from bandit_router.log import tables as t
from bandit_router.log.archiving import archived_routers, no_feedback
from bandit_router.log.hearing import feedback_of

_CHUNK = 500  # ids in one statement


def routers_of(connection: sa.Connection, decision_ids: Collection[str]) -> dict[str, str]:
    """Return the router of each decision, archived ones too; those that nobody has are left out."""
    c, ids = t.decisions.c, list(decision_ids)
    found: dict[str, str] = {}
    for start in range(0, len(ids), _CHUNK):
        some = sa.select(c.id, c.router).where(c.id.in_(ids[start : start + _CHUNK]))
        found |= {row.id: row.router for row in connection.execute(some)}
    return found | archived_routers(connection, "decision", [of for of in ids if of not in found])


def router_of_feedback(connection: sa.Connection, feedback_id: str) -> str | None:
    """Return the router that took a word in, also one that waits for its decision; else None."""
    for table in (t.feedback, t.pending):
        mine = sa.select(table.c.router).where(table.c.id == feedback_id)
        found = connection.execute(mine).scalar()
        if found is not None:
            return str(found)
    return archived_routers(connection, "feedback", [feedback_id]).get(feedback_id)


def router_of_conversation(
    connection: sa.Connection, conversation: str, routers: Collection[str]
) -> str | None:
    """Return which of the routers had the latest turn of a conversation, or None."""
    c = t.decisions.c
    # The names are given, so that the index by router and conversation serves.
    turn = (
        sa.select(c.router)
        .where(c.router.in_(routers), c.conversation == conversation)
        .order_by(c.at_us.desc(), c.id.desc())
        .limit(1)
    )
    return connection.execute(turn).scalar()


def find_feedback(connection: sa.Connection, router: str, feedback_id: str) -> Feedback:
    """Return one word as it was recorded, also one that waits for its decision.

    Raises
    ------
    UnknownFeedbackError
        No such feedback in this router.
    """
    for table in (t.feedback, t.pending):
        mine = sa.select(table).where(table.c.id == feedback_id, table.c.router == router)
        row = connection.execute(mine).mappings().first()
        if row is not None:
            held = json.loads(row["body"]) if table is t.pending else {}
            return feedback_of({**row, **held})
    raise no_feedback(connection, router, feedback_id)
