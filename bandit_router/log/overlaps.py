"""Overlaps: what several signals said about the same decisions, and which rewards new trust makes other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import sqlalchemy as sa

from bandit_router.errors import ArchivedDecisionError, UnknownDecisionError
from bandit_router.events import Reward
from bandit_router.log import tables as t
from bandit_router.log.archiving import closing
from bandit_router.log.hearing import find_decision, revise, votes_of
from bandit_router.log.rows import Row, candidates_of
from bandit_router.rewards import Metric, Vote, reward

_CHUNK = 500  # ids in one statement
_d, _f, _r = t.decisions.c, t.feedback.c, t.rewards.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, and all that is said about it at present.

    Attributes
    ----------
    model : str
        Which is credited with it.
    level : float
        What the decision promised of all its candidates, on average.
    votes : tuple of Vote
        The active words; never empty.
    """

    model: str
    level: float
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Decisions of one reading.

    Attributes
    ----------
    ids : tuple of str
        Those whose reward is other by now.
    last : str
        The last one that was looked at.
    more : bool
        Whether there may be more.
    """

    ids: tuple[str, ...]
    last: str
    more: bool


def read_answers(connection: sa.Connection, router: str, *, newest: int) -> list[Answer]:
    """Return the newest answers that somebody said something about, at most so many."""
    statement = _spoken_of(router).order_by(_f.decision_id.desc()).limit(newest)
    ids = list(connection.execute(statement).scalars())
    return [answer for some in _chunked(ids) for answer in _answers(connection, some)]


def _answers(connection: sa.Connection, ids: Sequence[str]) -> Iterator[Answer]:
    said, made = _said(connection, ids), _made(connection, ids)
    wanted = sa.select(_d.id, _d.model, _d.candidates).where(_d.id.in_(ids)).order_by(_d.id)
    for row in connection.execute(wanted):
        votes = votes_of(said[row.id])
        if votes:
            yield Answer(
                model=made[row.id]["model"] if row.id in made else row.model,
                level=fmean(candidate.mean for candidate in candidates_of(row.candidates)),
                votes=tuple(votes),
            )


def read_outdated(
    connection: sa.Connection, router: str, metrics: Mapping[str, Metric], *, after: str, limit: int
) -> Page:
    """Look at decisions whose ids are above `after`, in order: which rewards are other by these metrics?"""
    statement = _spoken_of(router).where(_f.decision_id > after).order_by(_f.decision_id).limit(limit)
    ids = list(connection.execute(statement).scalars())
    outdated: list[str] = []
    for some in _chunked(ids):
        said, made = _said(connection, some), _made(connection, some)
        closed = set(
            connection.execute(sa.select(_d.id).where(_d.id.in_(some), closing(_d.id))).scalars()
        )
        outdated += [
            of
            for of in some
            if of not in closed and _is_other(reward(votes_of(said[of]), metrics), made.get(of))
        ]
    return Page(ids=tuple(outdated), last=ids[-1] if ids else after, more=len(ids) == limit)


def reweigh(
    connection: sa.Connection, router: str, ids: Sequence[str], metrics: Mapping[str, Metric], now: float
) -> int:
    """Revise the rewards of some decisions; return how many became other.

    A decision that was erased or closed meanwhile is passed over; one that was revised already stays.
    """
    revised = 0
    for of in sorted(ids):  # in one order for all, so that two never wait for each other
        try:
            decision = find_decision(connection, router, of)
        except (UnknownDecisionError, ArchivedDecisionError):
            continue
        revised += revise(connection, decision, metrics, now)
    return revised


def _is_other(new: Reward | None, made: Row | None) -> bool:
    old = None if made is None or made["value"] is None else (made["value"], made["weight"])
    return (None if new is None else (new.value, new.weight)) != old


def _spoken_of(router: str) -> sa.Select[Any]:  # Any: a column
    return sa.select(_f.decision_id).where(_f.router == router).group_by(_f.decision_id)


def _said(connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, list[Row]]:
    """The words about decisions, in the order in which they were said, and arrived."""
    statement = sa.select(t.feedback).where(_f.decision_id.in_(ids)).order_by(_f.at_us, _f.seq)
    said: dict[str, list[Row]] = defaultdict(list)
    for row in connection.execute(statement).mappings():
        said[row["decision_id"]].append(row)
    return said


def _made(connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, Row]:
    """The latest reward row of each decision."""
    statement = sa.select(t.rewards).where(_r.decision_id.in_(ids)).order_by(_r.revision)
    return {row["decision_id"]: row for row in connection.execute(statement).mappings()}


def _chunked(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
