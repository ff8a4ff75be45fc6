"""Decisions: their rows, their texts, and what later decisions ask of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bandit_router.errors import ConflictError
from bandit_router.events import Decision, Feedback, Outcome, Reward, id_floor
from bandit_router.log import tables as t
from bandit_router.log.archiving import no_decision
from bandit_router.log.bases import archived_changes, archived_spending, has_bases
from bandit_router.log.folding import latest
from bandit_router.log.hearing import feedback_of, latest_outcome, reward_of
from bandit_router.log.rows import (
    Row,
    decision_of,
    decision_row,
    digest,
    from_us,
    outcome_of,
    pack,
    to_us,
)
from bandit_router.settings import TextPolicy
from bandit_router.values import clean_text

KEYS_KEPT_S = 30 * 86_400.0  # how long a decision's idempotency key holds
SWEEP_LIMIT = 10_000  # keys let go in one transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The decision whose draw the later turns of a conversation repeat."""

    head: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One word of feedback, and whether it was taken back."""

    feedback: Feedback
    retracted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that is known of one decision.

    Attributes
    ----------
    prompt : object
        The text, or the messages; None where no text is kept.
    prompt_hash : str, optional
        SHA-256 of the prompt as JSON; None where nothing is kept.
    feedback : tuple of Said
        Every word, in the order of arrival, and whether it was taken back.
    revisions : tuple of (Reward or None)
        What was made of it, revision by revision; the last one counts.
    reward_seq : int
        Where in the log the last of them stands; 0 where there is none.
    """

    decision: Decision
    prompt: object = None
    prompt_hash: str | None = None
    answer: str | None = None
    outcome: Outcome | None = None
    feedback: tuple[Said, ...] = ()
    reward: Reward | None = None
    revisions: tuple[Reward | None, ...] = ()
    reward_seq: int = 0


def decision_rows(
    decision: Decision, prompt: object, *, keep: TextPolicy, input_tokens: float, body_hash: str | None
) -> list[tuple[sa.Table, Row]]:
    """Return what is to be inserted for a decision: its row, and its text if that is kept."""
    text = None if prompt is None or keep == "none" else json.dumps(prompt, ensure_ascii=False)
    row = decision_row(
        decision,
        input_tokens=input_tokens,
        body_hash=body_hash,
        prompt_hash=None if text is None else digest(text),
    )
    rows: list[tuple[sa.Table, Row]] = [(t.decisions, row)]
    if text is not None and keep == "full":
        body = {"decision_id": decision.id, "router": decision.router, "at_us": row["at_us"]}
        rows.append((t.texts, {**body, "prompt": clean_text("prompt", text, 2**31), "answer": None}))
    return rows


def record_keyed(
    connection: sa.Connection, decision: Decision, rows: Sequence[tuple[sa.Table, Row]], body_hash: str
) -> Decision:
    """Record a decision under its idempotency key, or return the one that was made before.

    Raises
    ------
    ConflictError
        The key came before with another body.
    """
    earlier = _decided_under(connection, decision.router, decision.key, body_hash)
    if earlier is not None:
        return earlier
    used = {"router": decision.router, "key": decision.key}
    used |= {"decision_id": decision.id, "body_hash": body_hash}
    connection.execute(sa.insert(t.decision_keys), used)  # unique: of two at once, one is refused here
    for table, row in rows:
        connection.execute(sa.insert(table), row)
    return decision


def _decided_under(
    connection: sa.Connection, router: str, key: str | None, body_hash: str
) -> Decision | None:
    c, d = t.decision_keys.c, t.decisions
    mine = (c.router == router, c.key == key)
    used = connection.execute(sa.select(c.decision_id, c.body_hash).where(*mine)).first()
    if used is None:
        return None
    row = connection.execute(sa.select(d).where(d.c.id == used.decision_id)).mappings().first()
    if row is None:  # it has left the log since: the key is free again
        connection.execute(sa.delete(t.decision_keys).where(*mine))
        return None
    if used.body_hash != body_hash:
        raise ConflictError(f"key {key!r}: it came before with another body")
    return decision_of(row, duplicate=True)


def has_old_keys(connection: sa.Connection, now: float) -> bool:
    """Return whether there are idempotency keys of decisions that are older than 30 days."""
    return connection.execute(_old_keys(now).limit(1)).first() is not None


def sweep_keys(connection: sa.Connection, now: float) -> int:
    """Let go of them, not of too many at once; return of how many."""
    c = t.decision_keys.c
    some = _old_keys(now).order_by(c.decision_id).limit(SWEEP_LIMIT)
    return int(connection.execute(sa.delete(t.decision_keys).where(c.decision_id.in_(some))).rowcount)


def _old_keys(now: float) -> sa.Select[tuple[str]]:
    c = t.decision_keys.c
    return sa.select(c.decision_id).where(c.decision_id < id_floor(now - KEYS_KEPT_S))


def find_turn(connection: sa.Connection, router: str, conversation: str) -> Turn | None:
    """Return the draw that a conversation holds to, or None: the one of its latest turn."""
    c = t.decisions.c
    row = connection.execute(
        sa.select(c.id, c.head, c.model)
        .where(c.router == router, c.conversation == conversation)
        .order_by(c.at_us.desc(), c.id.desc())
        .limit(1)
    ).first()
    return None if row is None else Turn(head=row.head or row.id, model=row.model)


def read_story(connection: sa.Connection, router: str, decision_id: str) -> Story:
    """Return all that is known of one decision.

    Raises
    ------
    UnknownDecisionError
        No such decision in this router.
    """
    c, f = t.decisions.c, t.feedback.c
    mine = sa.select(t.decisions).where(c.id == decision_id, c.router == router)
    row = connection.execute(mine).mappings().first()
    if row is None:
        raise no_decision(connection, router, decision_id)
    kept = sa.select(t.texts.c.prompt, t.texts.c.answer).where(t.texts.c.decision_id == decision_id)
    text = connection.execute(kept).first()
    words = sa.select(t.feedback).where(f.decision_id == decision_id).order_by(f.seq)
    said = [
        Said(feedback=feedback_of(word), retracted=word["retracted_us"] is not None)
        for word in connection.execute(words).mappings()
    ]
    r = t.rewards.c
    made = sa.select(t.rewards).where(r.decision_id == decision_id).order_by(r.revision)
    rewards = connection.execute(made).mappings().all()
    outcome = latest_outcome(connection, decision_id)
    return Story(
        decision=decision_of(row),
        prompt=json.loads(text.prompt) if text is not None and text.prompt is not None else None,
        prompt_hash=row["prompt_hash"],
        answer=None if text is None else text.answer,
        outcome=None if outcome is None else outcome_of(outcome),
        feedback=tuple(said),
        reward=reward_of(rewards[-1] if rewards else None),
        revisions=tuple(reward_of(row) for row in rewards),
        reward_seq=rewards[-1]["seq"] if rewards else 0,
    )


def read_rounds(
    connection: sa.Connection,
    router: str,
    *,
    since: float | None = None,
    until: float | None = None,
    chunk: int = 2_048,
) -> Iterator[Sequence[Row]]:
    """Stream a router's decisions in the order of time, each with the outcome and reward that count.

    Yields
    ------
    sequence of rows
        Columns of ``decisions``, and ``served``, ``cost_usd``, ``latency_s``, ``error``, ``reward`` and
        ``reward_weight``, null where nothing was heard.
    """
    c, o, r = t.decisions.c, t.outcomes, t.rewards
    first = id_floor(since or 0.0)
    statement = (
        sa.select(
            *(c.id, c.at_us, c.model, c.probability, c.reason, c.features, c.features_version),
            *(c.candidates, c.head, c.user, c.cost_unit_usd),
            o.c.model.label("served"),
            *(o.c.cost_usd, o.c.latency_s, o.c.error),
            r.c.value.label("reward"),
            r.c.weight.label("reward_weight"),
        )
        .select_from(
            t.decisions.outerjoin(o, sa.and_(o.c.decision_id == c.id, latest(o, since=first))).outerjoin(
                r, sa.and_(r.c.decision_id == c.id, latest(r, since=first))
            )
        )
        .where(c.router == router)
        .order_by(c.at_us, c.id)
        .execution_options(yield_per=chunk)
    )
    if since is not None:
        statement = statement.where(c.at_us >= to_us(since), c.id >= first)
    if until is not None:
        statement = statement.where(c.at_us < to_us(until))
    yield from connection.execute(statement).mappings().partitions()


def read_prompts(
    connection: sa.Connection, router: str, *, but: Sequence[str] = (), newest: int | None = None
) -> list[tuple[str, Any]]:
    """Return (decision id, prompt) of decisions whose text was kept, the newest first.

    Parameters
    ----------
    but : sequence of str
        Leave out decisions whose features have one of these versions already.
    newest : int, optional
        At most so many.
    """
    c, d = t.texts.c, t.decisions.c
    statement = (
        sa.select(c.decision_id, c.prompt)
        .join(t.decisions, d.id == c.decision_id)
        .where(c.router == router, c.prompt.is_not(None))
        .order_by(c.at_us.desc())
        .limit(newest)
    )
    if but:
        statement = statement.where(d.features_version.not_in(but))
    return [(row.decision_id, json.loads(row.prompt)) for row in connection.execute(statement)]


def has_decisions(connection: sa.Connection, router: str) -> bool:
    """Return whether a router has decided anything yet."""
    mine = sa.select(t.decisions.c.id).where(t.decisions.c.router == router).limit(1)
    return connection.execute(mine).first() is not None or has_bases(connection, router)


def write_features(connection: sa.Connection, version: str, vectors: Mapping[str, Any]) -> None:
    """Replace the features of decisions by those of another extractor."""
    c = t.decisions.c
    statement = (
        sa.update(t.decisions)
        .where(c.id == sa.bindparam("of"))
        .values(features=sa.bindparam("x"), features_version=version)
    )
    if vectors:
        connection.execute(statement, [{"of": key, "x": pack(x)} for key, x in vectors.items()])


def textless_ids(connection: sa.Connection, router: str, but: Sequence[str]) -> list[str]:
    """Return decisions of other features that have no text to encode again."""
    c = t.decisions.c
    missing = sa.and_(t.texts.c.decision_id == c.id, t.texts.c.prompt.is_not(None))
    statement = sa.select(c.id).where(
        c.router == router, c.features_version.not_in(but), ~sa.exists().where(missing)
    )
    return list(connection.execute(statement).scalars())


def spent_since(connection: sa.Connection, router: str, since: float) -> tuple[int, float]:
    """Return (requests, dollars) since a moment [s]; a request without an outcome costs what was predicted."""
    c, o, first = t.decisions.c, t.outcomes, id_floor(since)
    paid = sa.func.coalesce(o.c.cost_usd, c.predicted_usd, 0.0)
    statement = (
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(paid), 0.0))
        .select_from(t.decisions.outerjoin(o, sa.and_(o.c.decision_id == c.id, latest(o, since=first))))
        .where(c.router == router, c.at_us >= to_us(since), c.id >= first)
    )
    requests, dollars = connection.execute(statement).one()
    earlier, paid_usd = archived_spending(connection, router, since)
    return int(requests) + earlier, float(dollars) + paid_usd


def last_changes(connection: sa.Connection, router: str) -> dict[str, float]:
    """Return when the reward rows of each model last changed [s since 1970]."""
    c = t.rewards.c
    statement = sa.select(c.model, sa.func.max(c.made_us)).where(c.router == router).group_by(c.model)
    changed = archived_changes(connection, router)
    changed |= {row[0]: row[1] for row in connection.execute(statement)}
    return {model: from_us(made) for model, made in changed.items()}
