"""Drifts in the log: which models have changed, and when; and what their rewards were promised to be."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from bandit_router.drift import Drift
from bandit_router.log import tables as t
from bandit_router.log.rows import Row, from_us, to_us

KNOWS_DRIFTS = "0007"  # the oldest schema whose programs know what an event makes of earlier decisions
_CHUNK = 500  # ids in one statement
_c, _d, _r = t.drifts.c, t.decisions.c, t.rewards.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """A reward, and what was promised of it when the decision was made.

    Attributes
    ----------
    at : float
        When the decision was made [s since 1970].
    value, weight : float
        The reward, and its likelihood power.
    mean, std : float
    """

    model: str
    at: float
    value: float
    weight: float
    mean: float
    std: float


def read_drifts(connection: sa.Connection, router: str) -> tuple[Drift, ...]:
    """Return which of a router's models have changed, and when, the earliest first."""
    rows = connection.execute(
        sa.select(t.drifts).where(_c.router == router).order_by(_c.at_us, _c.model)
    )
    return tuple(
        Drift(
            model=row.model,
            at=from_us(row.at_us),
            factor=row.factor,
            origin=row.origin,
            why=row.why,
            created=from_us(row.created_us),
        )
        for row in rows
    )


def write_drift(connection: sa.Connection, router: str, drift: Drift) -> None:
    """Write down that a model has changed."""
    row = {
        "router": router,
        "model": drift.model,
        "at_us": to_us(drift.at),
        "factor": drift.factor,
        "origin": drift.origin,
        "why": drift.why,
        "created_us": to_us(drift.created),
    }
    connection.execute(sa.insert(t.drifts), row)


def read_promised(
    connection: sa.Connection, router: str, *, since: Mapping[str, float], newest: int
) -> list[Promised]:
    """Return the newest rewards of decisions that were made after a moment of each model [s], in their order.

    Parameters
    ----------
    since : mapping of str to float
        Rewards of other models are left out, and of models that were no candidates: a fallback promises
        nothing.
    newest : int
        How many of the router's reward rows are looked at.
    """
    columns = (_r.decision_id, _r.revision, _r.model, _r.value, _r.weight, _r.at_us)
    last = sa.select(*columns).where(_r.router == router).order_by(_r.seq.desc()).limit(newest)
    rows: dict[str, Row] = {}
    for row in connection.execute(last).mappings():
        held = rows.get(row["decision_id"])
        if held is None or row["revision"] > held["revision"]:
            rows[row["decision_id"]] = row
    wanted = {
        of: row
        for of, row in rows.items()
        if row["value"] is not None and row["weight"] > 0 and row["model"] in since
        if from_us(row["at_us"]) > since[row["model"]]
    }
    thought = _candidates(connection, sorted(wanted))
    found = [_promised(row, thought.get(of, {})) for of, row in wanted.items()]
    return sorted((one for one in found if one is not None), key=lambda one: one.at)


def _promised(row: Row, thought: Mapping[str, tuple[float, float]]) -> Promised | None:
    if row["model"] not in thought:
        return None
    mean, std = thought[row["model"]]
    at, value, weight = from_us(row["at_us"]), row["value"], row["weight"]
    return Promised(model=row["model"], at=at, value=value, weight=weight, mean=mean, std=std)


def _candidates(
    connection: sa.Connection, ids: Collection[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """What some decisions were promised of each of their candidates."""
    ids, found = list(ids), dict[str, dict[str, tuple[float, float]]]()
    for start in range(0, len(ids), _CHUNK):
        some = sa.select(_d.id, _d.candidates).where(_d.id.in_(ids[start : start + _CHUNK]))
        for row in connection.execute(some):
            thought = json.loads(row.candidates)
            found[row.id] = {model: (mean, std) for model, _, mean, std, *_ in thought}
    return found


def decided_since(connection: sa.Connection, router: str, moment: float, *, most: int) -> int:
    """Return how many decisions were made after a moment [s]; no more than `most` are counted."""
    some = sa.select(_d.id).where(_d.router == router, _d.at_us > to_us(moment)).limit(most)
    return int(connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one())
