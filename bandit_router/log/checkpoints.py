"""Checkpoints: the fold up to some place in the log, so that a start reads only the tail."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import sqlalchemy as sa

from bandit_router.errors import FormatError
from bandit_router.evidence import Evidence, evidence_from_bytes, evidence_to_bytes
from bandit_router.log import tables as t
from bandit_router.log.folding import Fold, Lens, contributions_of
from bandit_router.log.following import Place
from bandit_router.log.rows import Row, to_us
from bandit_router.predictions import Predictions

logger = logging.getLogger(__name__)
_KEEP = 2  # checkpoints of one router


def write_checkpoint(
    connection: sa.Connection, lens: Lens, state: Fold, generation: int, now: float
) -> None:
    """Keep a fold, and let go of those before the last two; refused when its generation is over."""
    generations = sa.select(t.routers.c.generation).where(t.routers.c.name == lens.router)
    current = connection.execute(generations.with_for_update(read=True)).scalar()  # and it stays
    if current != generation:
        return
    row = {
        "router": lens.router,
        "at_us": to_us(now),
        "generation": generation,
        "features_version": lens.features_version,
        "half_life_s": lens.half_life_s,
        "reward_seq": state.rewards.complete,
        "outcome_seq": state.outcomes.complete,
        "beyond": json.dumps({"keys": sorted(state.keys), "outcomes": sorted(state.outcomes.seen)}),
        "evidence": evidence_to_bytes(state.evidence),
        "predictions": state.predictions.to_bytes(),
    }
    connection.execute(sa.insert(t.checkpoints), row)
    c = t.checkpoints.c
    newest = sa.select(c.id).where(c.router == lens.router).order_by(c.id.desc()).limit(_KEEP)
    kept = [row.id for row in connection.execute(newest)]
    connection.execute(sa.delete(t.checkpoints).where(c.router == lens.router, c.id.not_in(kept)))


def read_checkpoint(connection: sa.Connection, lens: Lens, generation: int) -> Fold | None:
    """Return the newest fold that was made through the same lens, or None."""
    c = t.checkpoints.c
    rows = connection.execute(
        sa.select(t.checkpoints)
        .where(
            c.router == lens.router,
            c.generation == generation,
            c.features_version == lens.features_version,
            c.half_life_s.is_not_distinct_from(lens.half_life_s),
        )
        .order_by(c.id.desc())
    ).mappings()
    for row in rows:
        try:
            state = _state(row)
        except FormatError as error:
            logger.warning("checkpoint %s of router %s is not usable: %s", row["id"], lens.router, error)
            continue
        if all(evidence.dim == lens.dim for evidence in state.evidence.values()):
            return state
    return None


def _state(row: Row) -> Fold:
    beyond = json.loads(row["beyond"] or "{}")
    seen = frozenset(beyond.get("outcomes", ()))
    return Fold(
        evidence=evidence_from_bytes(row["evidence"]),
        predictions=Predictions.from_bytes(row["predictions"]),
        rewards=Place(complete=row["reward_seq"]),
        outcomes=Place(complete=row["outcome_seq"], seen=seen),
        keys=set(beyond.get("keys", ())),
    )


def subtract_from_checkpoints(
    connection: sa.Connection, lens: Lens, decision_ids: Sequence[str]
) -> None:
    """Take what some decisions contributed out of every checkpoint; those of another lens are dropped."""
    c = t.checkpoints.c
    mine = sa.select(t.checkpoints).where(c.router == lens.router)
    for row in connection.execute(mine).mappings().all():
        state = None
        if row["features_version"] == lens.features_version and row["half_life_s"] == lens.half_life_s:
            state = _without(connection, lens, row, decision_ids)
        if state is None:
            connection.execute(sa.delete(t.checkpoints).where(c.id == row["id"]))
            continue
        body = {
            "evidence": evidence_to_bytes(state.evidence),
            "predictions": state.predictions.to_bytes(),
        }
        connection.execute(sa.update(t.checkpoints).where(c.id == row["id"]).values(body))


def _without(
    connection: sa.Connection, lens: Lens, row: Row, decision_ids: Sequence[str]
) -> Fold | None:
    try:
        state = _state(row)
    except FormatError:
        return None
    deltas, spendings = contributions_of(connection, lens, state, decision_ids)
    for delta in deltas:
        evidence = state.evidence.setdefault(delta.model, Evidence(lens.dim, half_life=lens.half_life_s))
        evidence.add(-delta.observation)
    for spending in spendings:
        state.predictions.add(spending.model, spending.amounts, at=spending.at, sign=-spending.sign)
    return state


def drop_checkpoints(connection: sa.Connection, router: str, *, but: int | None = None) -> None:
    """Let go of a router's checkpoints (but those of one generation): the next fold reads the whole log."""
    c = t.checkpoints.c
    statement = sa.delete(t.checkpoints).where(c.router == router)
    connection.execute(statement if but is None else statement.where(c.generation != but))
