"""What happened lately, as a sample: some of a router's latest decisions, and what was heard of them.

The window is cut into slices of equal length, and of each slice the newest decisions are looked at, so many at
most; of the latest slice five times as many, so that what begins is seen soon. Where there is less traffic than
that the sample is everything; where there is more, it still spans the window, and costs the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import FormatError
from bandit_router.events import id_floor
from bandit_router.features.vectors import STOPGAP
from bandit_router.log import tables as t
from bandit_router.log.rows import Row, from_us, to_us, unpack
from bandit_router.values import Array

Word = tuple[str, str, float]

_LATEST = 5
_CHUNK = 500  # ids in one statement
_WORDS = 10_000  # that are counted one by one
_JUDGES = 20
_GRADED = 1_000  # of a judge's latest judgements
_d, _f, _r, _o, _j = t.decisions.c, t.feedback.c, t.rewards.c, t.outcomes.c, t.judgements.c


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """One decision of the sample.

    Attributes
    ----------
    at : float
        When it was made [s since 1970].
    place : int
        The slice that it stands in; 0 is the oldest.
    probabilities : dict of str to float
        Of each eligible model.
    features : ndarray of shape (dim,), optional
        None where they cannot be read.
    outcome : bool
        Whether it is known how the call went.
    cost_known : bool
        Whether it is known what it cost.
    reward : float, optional
        What all words about it amount to.
    words : tuple of (str, str, float)
        Name, value as JSON, and how much of a full word it counts, of every active word.
    """

    id: str
    at: float
    place: int
    model: str
    reason: str
    probabilities: dict[str, float]
    features_version: str
    features: Array | None
    outcome: bool = False
    cost_known: bool = False
    reward: float | None = None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recent:
    """A sample of what happened lately.

    Attributes
    ----------
    since, until : float
        The window [s since 1970].
    slices : int
        Of equal length.
    seen : tuple of Seen
        The oldest first.
    decisions : float
        How many there were in the whole window: counted, or judged by how close the newest ones of each
        slice stand.
    waiting : int
        Words about decisions that have not appeared in `WAITED_S`.
    last_reward : int
        The number of the router's latest reward row.
    configured : float
        When its settings were last changed [s since 1970].
    judged : mapping of str to Counter
        Of each judge's latest judgements in the window: how many are in each state.
    """

    since: float
    until: float
    slices: int = 1
    seen: tuple[Seen, ...] = ()
    decisions: float = 0.0
    waiting: int = 0
    last_reward: int = 0
    configured: float = 0.0
    judged: Mapping[str, Counter[str]] = field(default_factory=dict)

    @property
    def moments(self) -> tuple[float, ...]:
        """When each slice begins [s since 1970]."""
        length = (self.until - self.since) / self.slices
        return tuple(self.since + length * k for k in range(self.slices))


WAITED_S = 900.0  # a word whose decision is younger than that may still be on its way


def read_recent(
    connection: sa.Connection,
    router: str,
    *,
    now: float,
    window_s: float = 86_400.0,
    slices: int = 24,
    each: int = 100,
) -> Recent:
    """Return a sample of a router's last `window_s` seconds.

    It takes `slices` range scans of an index for the decisions, and looks up what was heard of at most
    ``(slices + 4) * each`` of them by their ids: its cost does not grow with traffic or history.
    """
    since, rows, decisions = now - window_s, list[tuple[int, Row]](), 0.0
    for place in range(slices):
        low, high = (since + window_s * k / slices for k in (place, place + 1))
        last = place == slices - 1
        limit = _LATEST * each if last else each
        newest = _slice(connection, router, low, now + 1 if last else high, limit)
        rows += [(place, row) for row in reversed(newest)]
        decisions += _count(newest, low, high, limit)
    ids = [row["id"] for _, row in rows]
    outcomes, rewards = _outcomes(connection, ids), _rewards(connection, ids)
    words = _words(connection, ids)
    return Recent(
        since=since,
        until=now,
        slices=slices,
        seen=tuple(
            _seen(
                row,
                place,
                costs=outcomes.get(row["id"]),
                reward=rewards.get(row["id"]),
                words=words.get(row["id"], ()),
            )
            for place, row in rows
        ),
        decisions=decisions,
        waiting=_waiting(connection, router, now),
        last_reward=_last_reward(connection, router),
        configured=_configured(connection, router),
        judged=_judged(connection, router, since),
    )


def _slice(connection: sa.Connection, router: str, low: float, high: float, each: int) -> Sequence[Row]:
    # The ids say the same as the moments, and spare the database all other partitions.
    wanted = (
        _d.id,
        _d.at_us,
        _d.model,
        _d.reason,
        _d.candidates,
        _d.features,
        _d.features_version,
    )
    statement = (
        sa.select(*wanted)
        .where(_d.router == router, _d.at_us >= to_us(low), _d.at_us < to_us(high))
        .where(_d.id >= id_floor(low), _d.id < id_floor(high + 1.0))
        .order_by(_d.at_us.desc())
        .limit(each)
    )
    return connection.execute(statement).mappings().all()


def _count(newest: Sequence[Row], low: float, high: float, each: int) -> float:
    """How many decisions a slice has; where only the newest were read, as if all stood as close."""
    if len(newest) < each:
        return len(newest)
    spanned = max(high - from_us(newest[-1]["at_us"]), 1e-6)
    return each * max(1.0, (high - low) / spanned)


def _seen(
    row: Row,
    place: int,
    *,
    costs: bool | None,
    reward: float | None,
    words: tuple[Word, ...],
) -> Seen:
    return Seen(
        id=row["id"],
        at=from_us(row["at_us"]),
        place=place,
        model=row["model"],
        reason=row["reason"],
        probabilities={model: p for model, p, *_ in json.loads(row["candidates"])},
        features_version=row["features_version"],
        features=_vector(row["features"]),
        outcome=costs is not None,
        cost_known=bool(costs),
        reward=reward,
        words=words,
    )


def _vector(data: bytes) -> Array | None:
    try:
        return unpack(data)
    except FormatError:
        return None


def _of(
    connection: sa.Connection, statement: sa.Select[Any], key: sa.ColumnElement[str], ids: Sequence[str]
) -> Iterator[Row]:  # Any: whatever columns it selects
    for start in range(0, len(ids), _CHUNK):
        yield from connection.execute(statement.where(key.in_(ids[start : start + _CHUNK]))).mappings()


def _outcomes(connection: sa.Connection, ids: Sequence[str]) -> dict[str, bool]:
    """Of each decision that has an outcome, whether it is known what it cost."""
    statement = sa.select(_o.decision_id, _o.revision, _o.cost_usd, _o.reported_usd, _o.error)
    newest = _newest(_of(connection, statement, _o.decision_id, ids))
    # A call that failed may cost nothing; one that cost nothing by its prices has none.
    return {
        of: bool(row["cost_usd"]) or row["reported_usd"] is not None or row["error"] is not None
        for of, row in newest.items()
    }


def _rewards(connection: sa.Connection, ids: Sequence[str]) -> dict[str, float]:
    statement = sa.select(_r.decision_id, _r.revision, _r.value)
    newest = _newest(_of(connection, statement, _r.decision_id, ids))
    return {of: row["value"] for of, row in newest.items() if row["value"] is not None}


def _newest(rows: Iterator[Row]) -> dict[str, Row]:
    """The highest revision of each decision's rows."""
    found: dict[str, Row] = {}
    for row in rows:
        held = found.get(row["decision_id"])
        if held is None or row["revision"] > held["revision"]:
            found[row["decision_id"]] = row
    return found


def _words(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[Word, ...]]:
    """The active words of each decision: of one source under one name, the latest."""
    wanted = (_f.decision_id, _f.name, _f.source, _f.value, _f.share, _f.at_us, _f.seq)
    statement = sa.select(*wanted).where(_f.retracted_us.is_(None))
    rows = sorted(
        _of(connection, statement, _f.decision_id, ids), key=lambda row: (row["at_us"], row["seq"])
    )
    latest = {(row["decision_id"], row["name"], row["source"]): row for row in rows}
    found: dict[str, tuple[Word, ...]] = {}
    for (decision, name, _), row in latest.items():
        share = 1.0 if row["share"] is None else row["share"]
        found[decision] = (*found.get(decision, ()), (name, row["value"], share))
    return found


def _waiting(connection: sa.Connection, router: str, now: float) -> int:
    c = t.pending.c
    late = sa.select(c.id).where(c.router == router, c.received_us < to_us(now - WAITED_S))
    counted = sa.select(sa.func.count()).select_from(late.limit(_WORDS).subquery())
    return connection.execute(counted).scalar() or 0


def _last_reward(connection: sa.Connection, router: str) -> int:
    last = sa.select(_r.seq).where(_r.router == router).order_by(_r.seq.desc()).limit(1)
    return connection.execute(last).scalar() or 0


def _configured(connection: sa.Connection, router: str) -> float:
    c = t.settings.c
    last = sa.select(c.at_us).where(c.router == router).order_by(c.revision.desc()).limit(1)
    return from_us(connection.execute(last).scalar() or 0)


def _judged(connection: sa.Connection, router: str, since: float) -> dict[str, Counter[str]]:
    judged = {}
    for judge in _judges(connection):
        latest = (
            sa.select(_j.state, _j.router)
            .where(_j.judge == judge, _j.claimed_us >= to_us(since))
            .order_by(_j.claimed_us.desc())
            .limit(_GRADED)
        )
        states = [row.state for row in connection.execute(latest) if row.router == router]
        if states:
            judged[judge] = Counter(states)
    return judged


def _judges(connection: sa.Connection) -> Collection[str]:
    """The names of judges, from one to the next along the index instead of through all rows."""
    found: list[str] = []
    while len(found) < _JUDGES:
        following = sa.select(sa.func.min(_j.judge))
        name = connection.execute(following.where(_j.judge > found[-1]) if found else following).scalar()
        if name is None:
            break
        found.append(name)
    return found


def stacked(seen: Sequence[Seen]) -> tuple[Array, Array]:
    """Return places of shape (n,) and features of shape (n, dim) of those encoded like the newest one."""
    if not seen:
        return np.empty(0), np.empty((0, 0))
    versions = [s.features_version for s in seen]
    newest = next((v for v in reversed(versions) if not v.endswith(STOPGAP)), versions[-1])
    alike = [(s.place, s.features) for s in seen if s.features_version == newest]
    kept = [(place, x) for place, x in alike if x is not None]
    if not kept:
        return np.empty(0), np.empty((0, 0))
    places, vectors = zip(*kept, strict=True)
    return np.array(places, dtype=np.float64), np.vstack(vectors)
