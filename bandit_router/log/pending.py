"""Feedback as it comes in, also before its decision is visible: then it is kept, and applied when that is.

A worker answers a user as soon as its decision is on the way to the log, and the thumb may reach another
worker first. Such a word waits in a table of its own, where it can be repeated and taken back like any other.
Whoever applies words holds the decision's row first, so that they enter the log once and in the order of
their arrival.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bandit_router.errors import LogUnavailableError, UnknownDecisionError
from bandit_router.events import Feedback, Model, Outcome, id_time
from bandit_router.log import hearing
from bandit_router.log import tables as t
from bandit_router.log.archiving import closed_decision, closing, no_decision
from bandit_router.log.deciding import find_turn
from bandit_router.log.forgotten import erased_since
from bandit_router.log.hearing import Limits, Reported, Word
from bandit_router.log.rows import Row, to_us
from bandit_router.rewards import Channel, Metric

logger = logging.getLogger(__name__)
Said = dict[str, Any]  # Any: a value of each column's own type

YOUNG_S = 900.0  # how old a decision's id may be for its decision to be still on its way
AHEAD_S = YOUNG_S  # how far ahead of this clock it may be: clocks of workers differ either way
KEPT_S = 86_400.0  # how long a word waits for its decision
SWEEP_LIMIT = 500  # decisions looked after in one transaction

_waits, _decided = t.pending.c, t.decisions.c
_BODY = ("name", "value", "comment", "at_us", "received_us", "retracted_us")
_CHANNEL = "channel"  # in the body, where there was one
_COLUMNS = ("id", "router", "decision_id", "source", "key", "body_hash")
_HELD = (
    sa.select(t.pending)
    .where(_waits.decision_id == sa.bindparam("of"))
    .order_by(_waits.received_us, _waits.id)
    .with_for_update()
)
_DECISION = (
    hearing.DECISIONS.add_columns(sa.exists().where(_waits.decision_id == _decided.id).label("awaited"))
    .where(_decided.id == sa.bindparam("of"))
    .with_for_update()
)
_DELETE = sa.delete(t.pending).where(_waits.id == sa.bindparam("of"))
# Decisions that another worker is busy with are left to it.
_VISIBLE = (
    hearing.DECISIONS.where(_decided.id.in_(sa.select(_waits.decision_id)), ~closing(_decided.id))
    .order_by(_decided.id)
    .limit(SWEEP_LIMIT)
    .with_for_update(skip_locked=True)
)


def hear(
    connection: sa.Connection,
    router: str,
    word: Word,
    metrics: Mapping[str, Metric],
    rater_limit: float | None = None,
) -> Feedback:
    """Record one word about a decision, or keep it until its decision is visible.

    Raises
    ------
    UnknownDecisionError
        No such decision or conversation in this router, and no such decision can be on its way.
    ConflictError
        The same key came with another body.
    """
    decision_id = _about(connection, router, word)
    looked_for = {"of": decision_id, "router_name": router}
    decision = connection.execute(_DECISION, looked_for).mappings().first()
    if decision is None:
        if may_appear(connection, router, decision_id, word.received):
            return _hold(connection, router, decision_id, word)
        raise no_decision(connection, router, decision_id)
    if decision["closed"]:
        raise closed_decision(connection, decision_id)
    if decision["awaited"]:  # what came before is recorded before
        _apply(connection, decision, metrics, word.received, rater_limit)
    return hearing.record_feedback(connection, decision, word, metrics, rater_limit)


def report(
    connection: sa.Connection,
    router: str,
    decision_id: str,
    outcome: Outcome,
    *,
    answer: str | None,
    models: Mapping[str, Model],
    metrics: Mapping[str, Metric],
    now: float,
) -> Reported:
    """Record how the call went; a second, different outcome replaces the first.

    Raises
    ------
    UnknownDecisionError
        No such decision in this router, and none can be on its way.
    LogUnavailableError
        It may be on its way: another worker keeps it until the log answers there. Unlike a word, an outcome is
        not kept until then; whoever reports it comes again.
    """
    try:
        return hearing.record_outcome(
            connection,
            router,
            decision_id,
            outcome,
            answer=answer,
            models=models,
            metrics=metrics,
            now=now,
        )
    except UnknownDecisionError as error:
        if may_appear(connection, router, decision_id, now):
            raise LogUnavailableError(f"log: decision {decision_id!r} is not there yet") from error
        raise


def retract(
    connection: sa.Connection,
    router: str,
    feedback_id: str,
    metrics: Mapping[str, Metric],
    now: float,
    channel: Channel | None = None,
) -> Feedback:
    """Take one word back, whether it waits or not; what was said before it does not return.

    Raises
    ------
    UnknownFeedbackError
        No such feedback in this router.
    ConflictError
        It was said elsewhere, and this credential has used up what it may count for.
    """
    mine = sa.select(t.pending).where(_waits.id == feedback_id, _waits.router == router)
    held = connection.execute(mine.with_for_update()).mappings().first()
    if held is None:
        return hearing.retract(connection, router, feedback_id, metrics, now, channel)
    word = _unpack(held)
    duplicate = word["retracted_us"] is not None
    if not duplicate:  # it stays, taken back, lest an earlier word becomes the latest
        _change(connection, word, retracted_us=to_us(now))
    return _answer(word, duplicate=duplicate)


def has_pending(connection: sa.Connection, router: str) -> bool:
    """Return whether words wait that a router took in, or that are about its decisions."""
    decided = sa.exists().where(_decided.id == _waits.decision_id, _decided.router == router)
    waiting = sa.select(_waits.id).where((_waits.router == router) | decided).limit(1)
    return connection.execute(waiting).first() is not None


def apply_pending(
    connection: sa.Connection,
    router: str,
    metrics: Mapping[str, Metric],
    now: float,
    rater_limit: float | None = None,
) -> int:
    """Apply the words that wait for decisions which are visible by now, and drop those that waited too long.

    A router looks for its own decisions, whichever router took the words in: who says them need not know.

    Returns
    -------
    int
        How many words were applied.
    """
    decisions = connection.execute(_VISIBLE, {"router_name": router}).mappings().all()
    applied = sum(_apply(connection, decision, metrics, now, rater_limit) for decision in decisions)
    _drop_old(connection, router, now)
    return applied


def forget_pending(connection: sa.Connection, router: str, user: str) -> int:
    """Erase what waits from a user, or about a decision made for them; return how many words that were."""
    theirs = sa.select(_decided.id).where(_decided.router == router, _decided.user == user)
    said = sa.and_(_waits.router == router, _waits.source == user)
    found = connection.execute(sa.delete(t.pending).where(said | _waits.decision_id.in_(theirs)))
    return int(found.rowcount)


def _about(connection: sa.Connection, router: str, word: Word) -> str:
    """The decision that a word is about: named, or the draw that a conversation holds to."""
    if word.decision_id is not None:
        return word.decision_id
    assert word.conversation is not None
    earlier = None if word.key is None else _said_under(connection, router, word.conversation, word.key)
    if earlier is not None:  # the conversation may have gone on to another draw since
        return earlier
    turn = find_turn(connection, router, word.conversation)
    if turn is None:
        raise UnknownDecisionError(f"no conversation {word.conversation!r} in router {router!r}")
    return turn.head


def _said_under(connection: sa.Connection, router: str, conversation: str, key: str) -> str | None:
    """Which decision of a conversation a key was used for."""
    said, turns = t.feedback.c, (_decided.router == router, _decided.conversation == conversation)
    statement = (
        sa.select(said.decision_id)
        .join(t.decisions, _decided.id == said.decision_id)
        .where(said.key == key, *turns)
        .limit(1)
    )
    return connection.execute(statement).scalar()


def may_appear(connection: sa.Connection, router: str, decision_id: str, now: float) -> bool:
    """Whether a decision of this id may be on its way: one just made, that no other router has."""
    made = id_time(decision_id)
    if made is None or not now - YOUNG_S < made <= now + AHEAD_S:
        return False
    if str(uuid.UUID(decision_id)) != decision_id:  # written in another way than ids are
        return False
    # Not in this router either: it may have appeared since we looked.
    elsewhere = sa.select(_decided.id).where(_decided.id == decision_id, _decided.router != router)
    return connection.execute(elsewhere).first() is None


def _hold(connection: sa.Connection, router: str, decision_id: str, word: Word) -> Feedback:
    held = _held(connection, decision_id)
    words = [_unpack(row) for row in held]
    active = _active(words, word)
    earlier = _said_before(words, word, active)
    if earlier is not None:
        moments = word.moments(earlier)
        if word.key is None and moments["at_us"] > earlier["at_us"]:  # it holds from its latest time on
            _change(connection, earlier, **moments)
        return _answer(earlier, duplicate=True)
    row = word.row(router, decision_id, word.source, active)
    after = held[-1]["received_us"] + 1 if held else 0  # clocks differ, and may stand still
    kept = {name: row[name] for name in _COLUMNS} | {"body": _body(row | _channel(word))}
    order = {"received_us": max(row["received_us"], after)}
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(t.pending), kept | order)
    except IntegrityError:  # the same key came to another worker at the same moment
        return _hold(connection, router, decision_id, word)
    return _answer(row, duplicate=False)


def _active(held: Sequence[Said], word: Word) -> Said | None:
    """The latest word of the same source."""
    same = [said for said in held if (said["name"], said["source"]) == (word.name, word.source)]
    return max(reversed(same), key=lambda said: said["at_us"], default=None)  # ties: the last to come


def _said_before(held: Sequence[Said], word: Word, active: Said | None) -> Said | None:
    if word.key is not None:
        same_key = next((said for said in held if said["key"] == word.key), None)
        if same_key is not None:
            word.check_body(same_key)
        return same_key
    return active if active is not None and word.repeats(active) else None


def _apply(
    connection: sa.Connection,
    decision: Row,
    metrics: Mapping[str, Metric],
    now: float,
    rater_limit: float | None,
) -> int:
    """Record what waits for a decision, in the order of arrival; every word under its own id."""
    held = _held(connection, decision["id"])
    if not held:
        return 0
    said = t.feedback.c
    used = sa.select(said.key).where(said.decision_id == decision["id"], said.key.is_not(None))
    taken = set(connection.execute(used).scalars())
    words = [_settle(_unpack(row), decision, taken) for row in held]
    gone = erased_since(connection, decision["router"], {word["source"] for word in words})
    stay = [word for word in words if word["received_us"] > gone.get(word["source"], -1)]
    limited = [(word, _limits(word, rater_limit)) for word in stay]
    hearing.record_words(connection, decision, limited, metrics, now)
    connection.execute(_DELETE, [{"of": word["id"]} for word in words])
    return len(words)


def _settle(word: Said, decision: Row, taken: Collection[str]) -> Said:
    """A word as its decision makes it."""
    key = None if word["key"] in taken else word["key"]  # used elsewhere while the decision appeared
    source = word["source"] or hearing.default_source(decision)
    return word | {"router": decision["router"], "source": source, "key": key}


def _held(connection: sa.Connection, decision_id: str) -> Sequence[Row]:
    """What waits for a decision, in the order of arrival, held against other writers."""
    return connection.execute(_HELD, {"of": decision_id}).mappings().all()


def _body(word: Said) -> str:
    return json.dumps({name: word[name] for name in (*_BODY, _CHANNEL) if name in word})


def _channel(word: Word) -> Said:
    return {} if word.channel is None else {_CHANNEL: asdict(word.channel)}


def _limits(word: Said, rater_limit: float | None) -> Limits:
    """What a word that waited may count for."""
    channel = word.get(_CHANNEL)
    word[_CHANNEL] = None if channel is None else channel["name"]
    return Limits(
        rater=rater_limit, channel=None if channel is None else Channel(**channel), waited=True
    )


def _unpack(held: Row) -> Said:
    """The row of ``feedback`` that a row of ``pending`` will be."""
    return {name: held[name] for name in _COLUMNS} | dict(json.loads(held["body"]))


def _change(connection: sa.Connection, word: Said, **changes: int) -> None:
    changed = sa.update(t.pending).where(_waits.id == word["id"])
    connection.execute(changed.values(body=_body(word | changes)))


def _answer(word: Said, *, duplicate: bool) -> Feedback:
    return replace(hearing.feedback_of(word), duplicate=duplicate, pending=True)


def _drop_old(connection: sa.Connection, router: str, now: float) -> None:
    late = _waits.received_us < to_us(now - KEPT_S)
    decided = sa.exists().where(_decided.id == _waits.decision_id)
    old = sa.delete(t.pending).where(_waits.router == router, late, ~decided)
    dropped = connection.execute(old).rowcount
    if dropped:
        logger.warning(
            "router %s: %d words of feedback were dropped: their decisions never appeared",
            router,
            dropped,
        )
