"""Checkpoints: the fold up to some place in the log, so that a start reads only the tail."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa

from bandit_router.drift import Drift
from bandit_router.errors import FormatError, LogUnavailableError
from bandit_router.evidence import Evidence, evidence_from_bytes, evidence_to_bytes
from bandit_router.log import tables as t
from bandit_router.log.archiving import ends_at, read_entries
from bandit_router.log.bases import Base
from bandit_router.log.eventlog import EventLog
from bandit_router.log.folding import Fold, contributions_of, fold, spend_all, tail
from bandit_router.log.following import SETTLE_S, Place, last_row, settled
from bandit_router.log.lens import Lens
from bandit_router.log.rows import Row, to_us
from bandit_router.predictions import Predictions

logger = logging.getLogger(__name__)
_KEEP = 2  # checkpoints of one router
_HEAD = 6  # bytes that tell kind and version
_AT_ONCE = 2_000  # rows read in one transaction


def write_checkpoint(
    connection: sa.Connection, lens: Lens, state: Fold, generation: int, now: float
) -> None:
    """Keep a fold, and let go of those before the last two; refused when its generation is over.

    Those that a newer version of this program wrote are that one's to let go of.
    """
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
    }
    connection.execute(sa.insert(t.checkpoints), row | _sums(state))
    old = _own_ids(connection, lens.router)[_KEEP:]
    connection.execute(sa.delete(t.checkpoints).where(t.checkpoints.c.id.in_(old)))


def _own_ids(connection: sa.Connection, router: str) -> list[int]:
    """A router's checkpoints, the newest first, without those of a newer version."""
    c = t.checkpoints.c
    heads = [
        sa.func.substr(column, 1, _HEAD, type_=sa.LargeBinary) for column in (c.evidence, c.predictions)
    ]
    rows = connection.execute(sa.select(c.id, *heads).where(c.router == router).order_by(c.id.desc()))
    ours = (evidence_to_bytes({})[:_HEAD], Predictions().to_bytes()[:_HEAD])
    return [row[0] for row in rows if not any(map(_is_newer, (bytes(row[1]), bytes(row[2])), ours))]


def _is_newer(head: bytes, ours: bytes) -> bool:
    """Whether the same kind of bytes has a higher version, which stands after four bytes of magic."""
    versions = [int.from_bytes(data[4:], "little") for data in (head, ours)]
    return head[:4] == ours[:4] and versions[0] > versions[1]


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
    predictions = Predictions.from_bytes(row["predictions"])
    if not bytes(row["predictions"]).startswith(Predictions().to_bytes()[:_HEAD]):
        raise FormatError("predictions: of an earlier version, which knew nothing of prompts")
    return Fold(
        evidence=evidence_from_bytes(row["evidence"]),
        predictions=predictions,
        rewards=Place(complete=row["reward_seq"]),
        outcomes=Place(complete=row["outcome_seq"], seen=seen),
        keys=set(beyond.get("keys", ())),
    )


def _sums(state: Fold) -> dict[str, bytes]:
    evidence, predictions = evidence_to_bytes(state.evidence), state.predictions.to_bytes()
    return {"evidence": evidence, "predictions": predictions}


def fold_now(log: EventLog, lens: Lens, generation: int) -> Fold:
    """Return the fold of everything that the log has by now, from its newest checkpoint if there is one.

    Raises
    ------
    LogUnavailableError
        A transaction that was running when this began does not end.
    """
    last = [log.read(partial(last_row, table=of, router=lens.router)) for of in (t.rewards, t.outcomes)]
    places = settled(log, lens.router)
    state = log.read(lambda connection: read_checkpoint(connection, lens, generation))
    if state is None:
        state = log.read(lambda connection: fold(connection, lens, *places))
    deadline, more = time.monotonic() + SETTLE_S, True
    while more or state.rewards.complete < last[0] or state.outcomes.complete < last[1]:
        if not more and time.monotonic() > deadline:
            raise LogUnavailableError(f"log: router {lens.router!r}: a transaction does not end")
        with log.reading() as connection:
            news = tail(connection, lens, state.rewards, state.outcomes, limit=_AT_ONCE)
        state.add(news, lens)
        more = news.more
        time.sleep(0 if more else 0.005)
    return state


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
        connection.execute(sa.update(t.checkpoints).where(c.id == row["id"]).values(_sums(state)))


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
    spend_all(state.predictions, spendings, sign=-1.0)
    return state


def exchange(connection: sa.Connection, lens: Lens, old: Base, new: Base) -> None:
    """Put one base in the place of another in every checkpoint; those of another lens are dropped."""
    c = t.checkpoints.c
    mine = sa.select(t.checkpoints).where(c.router == lens.router)
    for row in connection.execute(mine).mappings().all():
        same = row["features_version"] == lens.features_version
        try:
            state = _state(row) if same and row["half_life_s"] == lens.half_life_s else None
        except FormatError:
            state = None
        if state is None:
            connection.execute(sa.delete(t.checkpoints).where(c.id == row["id"]))
            continue
        for base, sign in ((new, 1.0), (old, -1.0)):
            state.merge(base.under(lens), base.predictions, lens, sign=sign)
        connection.execute(sa.update(t.checkpoints).where(c.id == row["id"]).values(_sums(state)))


def scale_checkpoints(
    connection: sa.Connection, router: str, drift: Drift, *, generation: int, into: int
) -> None:
    """Carry a generation's checkpoints on into the next, where all that they hold lies before a model changed.

    Where a decision may lie after it they are let go of: the next fold reads the whole log.
    """
    c, d = t.checkpoints.c, t.decisions.c
    after = sa.select(d.id).where(d.router == router, d.at_us >= to_us(drift.at)).limit(1)
    archived = any(ends_at(entry.before) > drift.at for entry in read_entries(connection))
    if archived or connection.execute(after).first() is not None:
        drop_checkpoints(connection, router)
        return
    drop_checkpoints(connection, router, but=generation)
    for row in connection.execute(sa.select(t.checkpoints).where(c.router == router)).mappings().all():
        try:
            state = _state(row)
        except FormatError:
            connection.execute(sa.delete(t.checkpoints).where(c.id == row["id"]))
            continue
        if drift.model in state.evidence:
            state.evidence[drift.model].scale(drift.factor)
        values = {"generation": into, **_sums(state)}
        connection.execute(sa.update(t.checkpoints).where(c.id == row["id"]).values(values))


def drop_checkpoints(connection: sa.Connection, router: str, *, but: int | None = None) -> None:
    """Let go of a router's checkpoints (but those of one generation): the next fold reads the whole log."""
    c = t.checkpoints.c
    statement = sa.delete(t.checkpoints).where(c.router == router)
    connection.execute(statement if but is None else statement.where(c.generation != but))
