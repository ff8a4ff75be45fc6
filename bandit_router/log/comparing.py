"""Comparisons: of two answers to one question somebody prefers one. Each side is a word about its decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa

from bandit_router.errors import LogUnavailableError
from bandit_router.events import Feedback
from bandit_router.log import pending
from bandit_router.log import tables as t
from bandit_router.log.archiving import no_decision
from bandit_router.log.hearing import Word
from bandit_router.log.rows import candidates_of
from bandit_router.rewards import Metric, verdict

VOTE = "vote"
_d = t.decisions.c
_PROMISE = sa.select(_d.model, _d.candidates).where(
    _d.id == sa.bindparam("of"), _d.router == sa.bindparam("router_name")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two words that are said at once.

    Attributes
    ----------
    winner, loser : Word
        Their values follow from what both decisions promised.
    tie : bool
        Neither is better.
    """

    winner: Word
    loser: Word
    tie: bool = False


def compare(
    connection: sa.Connection,
    router: str,
    said: Comparison,
    metrics: Mapping[str, Metric],
    rater_limit: float | None = None,
) -> tuple[Feedback, Feedback]:
    """Record both sides, or neither.

    Raises
    ------
    UnknownDecisionError
        This router has not made both decisions.
    ConflictError
        The same key came with another body.
    LogUnavailableError
        One of them may be on its way to the log: come again.
    """
    words = (said.winner, said.loser)
    mean = sum(_promise(connection, router, word) for word in words) / 2
    values = verdict(mean, tie=said.tie)
    both = [replace(word, value=value) for word, value in zip(words, values, strict=True)]
    # In the order of their ids, so that two that compare the same answers never wait for each other.
    heard = {
        word.decision_id: pending.hear(connection, router, word, metrics, rater_limit)
        for word in sorted(both, key=lambda word: str(word.decision_id))
    }
    return heard[said.winner.decision_id], heard[said.loser.decision_id]


def _promise(connection: sa.Connection, router: str, word: Word) -> float:
    """What a decision promised of the model that it drew."""
    assert word.decision_id is not None
    row = connection.execute(_PROMISE, {"of": word.decision_id, "router_name": router}).first()
    if row is None:
        if pending.may_appear(connection, router, word.decision_id, word.received):
            raise LogUnavailableError(f"log: decision {word.decision_id!r} is not there yet")
        raise no_decision(connection, router, word.decision_id)
    return next(c.mean for c in candidates_of(row.candidates) if c.model == row.model)
