"""Answers that wait for a judge: found, claimed, paid for, finished.

A judgement is a job in a table. Whoever grades claims it for a while; a claim that ends without a word, because
its worker died, may be claimed again. Claims pass over rows that another worker holds, and wait for nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from bandit_router.events import new_id
from bandit_router.log import tables as t
from bandit_router.log.archiving import closing
from bandit_router.log.rows import Row, to_us

DAY_S = 86_400.0
JudgementState = Literal["waiting", "graded", "malformed", "failed"]
Refusal = Literal["busy", "spent"]
_job = t.judgements.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Which judgements: those of one judge over one router's answers.

    Parameters
    ----------
    router : str
    judge : str
        The model that grades.
    """

    router: str
    judge: str

    def holds(self) -> sa.ColumnElement[bool]:
        """Whether a row is one of them."""
        return sa.and_(_job.router == self.router, _job.judge == self.judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A judgement that one worker may work on until its claim ends.

    Attributes
    ----------
    attempts : int
        This one included.
    claimed_us : int
        When; no two claims of one judgement have the same.
    reserved_usd : float
        Counted as spent for this attempt, until it is known what it cost [USD].
    """

    id: str
    decision_id: str
    attempts: int
    claimed_us: int
    reserved_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a claim ended.

    Attributes
    ----------
    state : str
        "waiting": it shall be tried again.
    cost_usd : float, optional
        What the attempt cost [USD]; None where nobody knows: what was reserved stays spent.
    grade : float, optional
        In [0, 1].
    error : str, optional
        Why there is no grade; no text of anybody's.
    after_s : float
        When to try again [s from now].
    counts : bool
        Whether it was an attempt at all.
    """

    state: JudgementState
    cost_usd: float | None = None
    grade: float | None = None
    error: str | None = None
    after_s: float = 0.0
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeStatus:
    """How far a judge is.

    Attributes
    ----------
    waiting, graded, malformed, failed : int
        Judgements; those that are being worked on wait too.
    spent_today_usd : float
        Since midnight UTC, by all workers, with what is reserved for calls under way [USD].
    """

    waiting: int = 0
    graded: int = 0
    malformed: int = 0
    failed: int = 0
    spent_today_usd: float = 0.0


def outcome_before(connection: sa.Connection, router: str, since: float) -> int:
    """Return the number of a router's last outcome before a moment [s], or 0."""
    o = t.outcomes.c
    statement = (
        sa.select(o.seq)
        .where(o.router == router, o.at_us < to_us(since))
        .order_by(o.seq.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar() or 0


def unjudged(
    connection: sa.Connection, queue: Queue, after: int, *, limit: int
) -> tuple[list[str], int, bool]:
    """Look through a router's outcomes for answers that have no judgement yet.

    Parameters
    ----------
    after : int
        The number of an outcome.
    limit : int
        How many outcomes are looked at.

    Returns
    -------
    decisions : list of str
        Their ids.
    last : int
        The number of the last outcome that was looked at; `after` where there is none.
    more : bool
        Whether there may be more.
    """
    o, x = t.outcomes.c, t.texts.c
    answered = sa.exists().where(x.decision_id == o.decision_id, x.answer.is_not(None))
    known = sa.exists().where(_job.decision_id == o.decision_id, _job.judge == queue.judge)
    statement = (
        sa.select(o.seq, o.decision_id, sa.and_(answered, ~known).label("wanted"))
        .where(o.router == queue.router, o.seq > after)
        .order_by(o.seq)
        .limit(limit)
    )
    rows = connection.execute(statement).all()
    wanted = [row.decision_id for row in rows if row.wanted]
    return list(dict.fromkeys(wanted)), rows[-1].seq if rows else after, len(rows) == limit


def enqueue(
    connection: sa.Connection, queue: Queue, decisions: Sequence[str], *, probability: float, now: float
) -> int:
    """Make judgements of decisions that were sampled, unless another worker has; return how many.

    Decisions that were erased or archived since they were looked up get none: they are held until this is
    committed, so that none goes meanwhile.
    """
    d = t.decisions.c
    there = sa.select(d.id).where(d.id.in_(decisions), ~closing(d.id)).order_by(d.id)
    stay = set(connection.execute(there.with_for_update(read=True)).scalars())
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(t.judgements).on_conflict_do_nothing().returning(_job.id)
    common = {
        "router": queue.router,
        "judge": queue.judge,
        "probability": probability,
        "state": "waiting",
        "attempts": 0,
        "created_us": to_us(now),
        "due_us": to_us(now),
    }
    rows = [{**common, "id": new_id(now), "decision_id": of} for of in decisions if of in stay]
    return len(connection.execute(statement, rows).all()) if rows else 0


def claim(
    connection: sa.Connection, queue: Queue, *, now: float, lease_s: float, attempts: int
) -> Claim | None:
    """Claim the judgement that has been due for longest, or return None.

    Parameters
    ----------
    lease_s : float
        How long the claim holds [s].
    attempts : int
        One that was claimed so often, and whose claims all ended without a word, fails.
    """
    while (row := _due(connection, queue, now)) is not None:
        mine = sa.update(t.judgements).where(_job.id == row["id"])
        if row["attempts"] < attempts:
            stamp = max(to_us(now), (row["claimed_us"] or 0) + 1)
            claimed = {"attempts": row["attempts"] + 1, "claimed_us": stamp}
            connection.execute(mine.values(due_us=to_us(now + lease_s), **claimed))
            return Claim(id=row["id"], decision_id=row["decision_id"], **claimed)
        connection.execute(mine.values(state="failed", error="its workers died", finished_us=to_us(now)))
    return None


def _due(connection: sa.Connection, queue: Queue, now: float) -> Row | None:
    statement = (
        sa.select(_job.id, _job.decision_id, _job.attempts, _job.claimed_us)
        .where(queue.holds(), _job.state == "waiting", _job.due_us <= to_us(now))
        .order_by(_job.due_us, _job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().first()


def reserve(
    connection: sa.Connection,
    queue: Queue,
    claimed: Claim,
    usd: float,
    *,
    budget_usd: float | None,
    now: float,
) -> Claim | Refusal:
    """Count what an attempt may cost as spent, before it is made.

    Parameters
    ----------
    usd : float
        The most that it may cost [USD].
    budget_usd : float, optional
        What all workers together may spend in a day, which begins at midnight UTC [USD].

    Returns
    -------
    Claim or {"busy", "spent"}
        Why not: another worker is reserving at this moment, or the budget cannot pay it today.
    """
    if budget_usd is not None:
        if not _alone(connection, queue.router):
            return "busy"
        if spent_today(connection, queue, now) + usd > budget_usd:
            return "spent"
    _spend(connection, claimed, usd)
    return replace(claimed, reserved_usd=usd)


def _alone(connection: sa.Connection, router: str) -> bool:
    """Whether nobody else reserves before this transaction ends; never waits, so that nothing can deadlock."""
    r = t.routers.c
    statement = sa.select(r.name).where(r.name == router).with_for_update(skip_locked=True)
    return connection.execute(statement).first() is not None


def spent_today(connection: sa.Connection, queue: Queue, now: float) -> float:
    """Return what was spent since midnight UTC [USD]; all that a judgement cost counts for its last day."""
    midnight = to_us(now // DAY_S * DAY_S)
    statement = sa.select(sa.func.sum(_job.cost_usd)).where(queue.holds(), _job.claimed_us >= midnight)
    return float(connection.execute(statement).scalar() or 0.0)


def _spend(connection: sa.Connection, claimed: Claim, usd: float) -> None:
    if usd:
        cost = sa.func.coalesce(_job.cost_usd, 0.0) + usd
        mine = sa.update(t.judgements).where(_job.id == claimed.id)
        connection.execute(mine.values(cost_usd=cost))


def settle(connection: sa.Connection, claimed: Claim, ending: Ending, *, now: float) -> None:
    """Write down how a claim ended; a judgement that another worker has finished meanwhile stays finished."""
    if ending.cost_usd is not None:
        _spend(connection, claimed, ending.cost_usd - claimed.reserved_usd)
    mine = sa.and_(_job.id == claimed.id, _job.state == "waiting")
    values: dict[str, object] = {"state": ending.state, "error": ending.error}
    if ending.state == "waiting":
        mine = sa.and_(mine, _job.claimed_us == claimed.claimed_us)  # else it is somebody else's by now
        values["attempts"] = claimed.attempts if ending.counts else claimed.attempts - 1
        values["due_us"] = to_us(now + ending.after_s)
    else:
        values |= {"finished_us": to_us(now), "grade": ending.grade}
    connection.execute(sa.update(t.judgements).where(mine).values(**values))


def drop(connection: sa.Connection, claimed: Claim) -> None:
    """Let a judgement vanish whose decision was erased."""
    connection.execute(sa.delete(t.judgements).where(_job.id == claimed.id))


def read_graded(connection: sa.Connection, queue: Queue, *, newest: int) -> dict[str, float]:
    """Return a judge's last grades of answers whose texts are kept, by decision: at most so many."""
    x = t.texts.c
    there = sa.join(t.judgements, t.texts, x.decision_id == _job.decision_id)
    statement = (
        sa.select(_job.decision_id, _job.grade)
        .select_from(there)
        .where(queue.holds(), _job.state == "graded", x.prompt.is_not(None), x.answer.is_not(None))
        .order_by(_job.finished_us.desc(), _job.id)
        .limit(newest)
    )
    return {row.decision_id: row.grade for row in connection.execute(statement)}


def status(connection: sa.Connection, queue: Queue, now: float) -> JudgeStatus:
    """Return how far a judge is."""
    counted = sa.select(_job.state, sa.func.count()).where(queue.holds()).group_by(_job.state)
    counts = {state: int(n) for state, n in connection.execute(counted).all()}
    return JudgeStatus(**counts, spent_today_usd=spent_today(connection, queue, now))
