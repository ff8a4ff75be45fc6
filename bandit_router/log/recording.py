"""Recording a decision: in the log, or where that is away in the journal, which brings it there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from bandit_router.errors import BanditRouterError, LogUnavailableError
from bandit_router.events import Decision
from bandit_router.log.deciding import record_keyed
from bandit_router.log.eventlog import EventLog
from bandit_router.log.rows import Row, decision_of
from bandit_router.log.writer import RefusedRowError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A decision that is not recorded yet.

    Attributes
    ----------
    decision : Decision
    rows : sequence of (Table, row)
        What is to be inserted for it, its own row first.
    body_hash : str, optional
        Of the request, where it has an idempotency key.
    """

    decision: Decision
    rows: Sequence[tuple[sa.Table, Row]]
    body_hash: str | None = None

    def degraded(self) -> Draft:
        """Return the same, said to be made while the log was away."""
        (table, row), *others = self.rows
        decision = replace(self.decision, reason="degraded")
        return replace(self, decision=decision, rows=[(table, {**row, "reason": "degraded"}), *others])


def record(
    log: EventLog, draft: Draft
) -> Future[Any]:  # Any: the decision that was recorded under a key before, else None
    """Begin to record a decision; the future has the one that was made before under its key, or None.

    Raises
    ------
    LogUnavailableError
        The log is away, or too much waits already.
    """
    key, body_hash = draft.decision.key, draft.body_hash
    if key is None or body_hash is None:
        return log.insert(*draft.rows)
    return log.write(lambda c: record_keyed(c, draft.decision, draft.rows, body_hash), of=f"key {key}")


def find_kept(log: EventLog, draft: Draft) -> Decision | None:
    """Return the decision that waits in this process's journal under the same key, or None.

    Raises
    ------
    ConflictError
        The same key came before with another body.
    """
    if draft.body_hash is None:
        return None
    row = log.journal.find(draft.decision.router, draft.decision.key, draft.body_hash)
    return None if row is None else decision_of(row, duplicate=True)


def keep(log: EventLog, draft: Draft, error: LogUnavailableError) -> Decision:
    """Keep a decision that could not be recorded, and return it as degraded, or the one before under its key.

    Parameters
    ----------
    error : LogUnavailableError
        Why it could not; where the log works but refuses this decision, that is raised.

    Raises
    ------
    ConflictError
        The same key came before with another body.
    LogUnavailableError
        The journal is full, or cannot be written.
    """
    if isinstance(error, RefusedRowError):
        raise error
    kept = draft.degraded()
    earlier = log.keep(kept.rows)
    return kept.decision if earlier is None else decision_of(earlier, duplicate=True)


def rescue(log: EventLog, draft: Draft, recorded: Future[Any]) -> None:  # Any: as `record`
    """Keep a decision that was handed over without waiting, where its commit has failed."""
    error = None if recorded.cancelled() else recorded.exception()
    if error is None:
        return
    try:
        if not isinstance(error, LogUnavailableError) or isinstance(error, RefusedRowError):
            raise error
        log.keep(draft.rows)
    except BanditRouterError as lost:
        logger.error("decision %s is lost: %s", draft.decision.id, lost)
