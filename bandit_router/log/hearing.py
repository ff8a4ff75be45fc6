"""What is heard about a decision: outcomes, feedback, retractions, and the reward row that follows.

Each function runs inside one transaction of the writer, which sees all that was committed before; so that
revisions are counted, and new-minus-old is known, without a race.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from bandit_router.errors import ConflictError, UnknownDecisionError, UnknownFeedbackError
from bandit_router.events import Feedback, FeedbackValue, Model, Outcome, Reward, new_id
from bandit_router.log import tables as t
from bandit_router.log.rows import Row, digest, from_us, to_us, value_of, value_to_text
from bandit_router.rewards import Metric, Vote, reward
from bandit_router.values import check_amount

_OF: sa.BindParameter[str] = sa.bindparam("of")
_decision, _said = t.decisions.c, t.feedback.c


def _newest(table: sa.Table) -> sa.Select[Any]:  # Any: columns of any type
    of_it = table.c.decision_id == _OF
    return sa.select(table).where(of_it).order_by(table.c.revision.desc()).limit(1)


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
DECISIONS = sa.select(
    *(_decision.id, _decision.router, _decision.at_us, _decision.model),
    *(_decision.user, _decision.input_tokens),
).where(_decision.router == sa.bindparam("router_name"))  # with what hearing about one needs
_DECISION = DECISIONS.where(_decision.id == _OF).with_for_update()
_OUTCOME, _REWARD = _newest(t.outcomes), _newest(t.rewards)
_VOTES = (
    sa.select(_said.name, _said.source, _said.value, _said.retracted_us)
    .where(_said.decision_id == _OF)
    .order_by(_said.at_us, _said.seq)
)
_LATEST_WORD = (
    sa.select(t.feedback)
    .where(
        _said.decision_id == _OF,
        _said.name == sa.bindparam("under"),
        _said.source == sa.bindparam("by"),
    )
    .order_by(_said.at_us.desc(), _said.seq.desc())
    .limit(1)
)
_SAME_KEY = sa.select(t.feedback).where(_said.decision_id == _OF, _said.key == sa.bindparam("said_key"))
_INSERT_OUTCOME, _INSERT_WORD, _INSERT_REWARD = (
    sa.insert(x) for x in (t.outcomes, t.feedback, t.rewards)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What became of a reported outcome.

    Attributes
    ----------
    cost_usd : float, optional
        As reported, else tokens times prices; None when neither is known.
    duplicate : bool
        The same outcome had been reported before.
    """

    decision_id: str
    cost_usd: float | None
    duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word of feedback, checked, before it is recorded: about a decision, or a conversation's draw."""

    decision_id: str | None
    conversation: str | None
    name: str
    value: FeedbackValue
    source: str | None
    key: str | None
    comment: str | None
    at: float | None  # as given
    received: float

    @property
    def body_hash(self) -> str:
        """What a repeated key must repeat too."""
        return digest([self.name, self.value, self.source, self.comment, self.at])

    @property
    def said_us(self) -> int:
        """When it was said."""
        return to_us(self.received if self.at is None else self.at)

    def row(self, router: str, decision_id: str, source: str | None) -> dict[str, Any]:
        """Return the row of this word, under an id of its own."""
        return {
            "id": new_id(self.received),
            "decision_id": decision_id,
            "router": router,
            "name": self.name,
            "source": source,
            "value": value_to_text(self.value),
            "comment": self.comment,
            "key": self.key,
            "body_hash": self.body_hash,
            "at_us": self.said_us,
            "received_us": to_us(self.received),
            "retracted_us": None,
        }

    def repeats(self, said: Row) -> bool:
        """Whether it says nothing but what was said."""
        same_comment = self.comment is None or self.comment == said["comment"]
        same_value = said["value"] == value_to_text(self.value)
        return said["retracted_us"] is None and same_value and same_comment

    def check_body(self, said: Row) -> None:
        """See that a word under the same key had the same body.

        Raises
        ------
        ConflictError
            It had another.
        """
        if said["body_hash"] != self.body_hash:
            raise ConflictError(f"key {self.key!r}: it came before with another body")


def record_feedback(
    connection: sa.Connection, decision: Row, word: Word, metrics: Mapping[str, Metric]
) -> Feedback:
    """Record one word about a decision and revise its reward; or find that it was said before.

    Raises
    ------
    ConflictError
        The same key came with another body.
    """
    of = decision["id"]
    source = word.source or default_source(decision)
    earlier = None if word.key is None else _first(connection, _SAME_KEY, of=of, said_key=word.key)
    if earlier is not None:
        word.check_body(earlier)
        return _answer(connection, earlier, duplicate=True)
    active = _first(connection, _LATEST_WORD, of=of, under=word.name, by=source)
    if active is not None and word.key is None and word.repeats(active):
        _say_later(connection, word, active)
        return _answer(connection, active, duplicate=True)
    row = word.row(decision["router"], of, source)
    record_words(connection, decision, [row], metrics, word.received)
    return _answer(connection, row, duplicate=False)


def record_words(
    connection: sa.Connection,
    decision: Row,
    rows: Sequence[Row],
    metrics: Mapping[str, Metric],
    now: float,
) -> None:
    """Insert words about a decision, in the order of their arrival, and revise its reward."""
    connection.execute(_INSERT_WORD, rows)
    revise(connection, decision, metrics, now)


def default_source(decision: Row) -> str:
    """Who says what nobody signs: the decision's user."""
    return decision["user"] or f"anonymous:{decision['id']}"


def _say_later(connection: sa.Connection, word: Word, active: Row) -> None:
    """A repeated word holds from its latest time on, lest a contrary one that is on its way wins."""
    if word.said_us > active["at_us"]:
        connection.execute(
            sa.update(t.feedback).where(t.feedback.c.id == active["id"]).values(at_us=word.said_us)
        )


def retract(
    connection: sa.Connection, router: str, feedback_id: str, metrics: Mapping[str, Metric], now: float
) -> Feedback:
    """Take one word back; what was said before it does not return.

    Raises
    ------
    UnknownFeedbackError
        No such feedback in this router.
    """
    row = _first(
        connection,
        sa.select(t.feedback).where(t.feedback.c.id == feedback_id, t.feedback.c.router == router),
    )
    if row is None:
        raise UnknownFeedbackError(f"no feedback {feedback_id!r} in router {router!r}")
    duplicate = row["retracted_us"] is not None
    if not duplicate:
        connection.execute(
            sa.update(t.feedback).where(t.feedback.c.id == feedback_id).values(retracted_us=to_us(now))
        )
        revise(connection, find_decision(connection, router, row["decision_id"]), metrics, now)
    return _answer(connection, row, duplicate=duplicate)


def record_outcome(
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
        No such decision in this router.
    """
    decision = find_decision(connection, router, decision_id)
    if answer is not None:
        _keep_answer(connection, decision, answer)
    row = _outcome_row(decision, outcome, models)
    last = latest_outcome(connection, decision_id)
    if last is not None and all(last[name] == row[name] for name in row.keys() - {"cost_usd"}):
        return Reported(decision_id=decision_id, cost_usd=last["cost_usd"], duplicate=True)
    revision = 0 if last is None else last["revision"] + 1
    connection.execute(_INSERT_OUTCOME, {**row, "revision": revision, "at_us": to_us(now)})
    if row["model"] != (decision if last is None else last)["model"]:  # the credit moves
        revise(connection, decision, metrics, now)
    return Reported(decision_id=decision_id, cost_usd=row["cost_usd"], duplicate=False)


def _outcome_row(decision: Row, outcome: Outcome, models: Mapping[str, Model]) -> dict[str, Any]:
    served = outcome.model or decision["model"]
    cost = outcome.cost_usd
    if cost is None and outcome.output_tokens is not None and served in models:
        read = decision["input_tokens"] if outcome.input_tokens is None else outcome.input_tokens
        cost = check_amount("cost_usd", models[served].cost_usd(read, outcome.output_tokens))
    return {
        "decision_id": decision["id"],
        "router": decision["router"],
        "model": served,
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "reported_usd": outcome.cost_usd,
        "cost_usd": cost,
        "latency_s": outcome.latency_s,
        "ttft_s": outcome.ttft_s,
        "error": outcome.error,
    }


def _keep_answer(connection: sa.Connection, decision: Row, answer: str) -> None:
    kept = t.texts.c
    found = connection.execute(
        sa.update(t.texts).where(kept.decision_id == decision["id"]).values(answer=answer)
    )
    if found.rowcount == 0:
        row = {key: decision[key] for key in ("router", "at_us")}
        connection.execute(sa.insert(t.texts), {**row, "decision_id": decision["id"], "answer": answer})


def revise(connection: sa.Connection, decision: Row, metrics: Mapping[str, Metric], now: float) -> None:
    """Write a new reward row if what is known of a decision amounts to something else than before."""
    outcome = latest_outcome(connection, decision["id"])
    model = decision["model"] if outcome is None else outcome["model"]
    new = reward(active_votes(connection, decision["id"]), metrics)
    value, weight = (None, 0.0) if new is None else (new.value, new.weight)
    last = latest_reward(connection, decision["id"])
    before = None if last is None else (last["model"], last["value"], last["weight"])
    nothing_known = value is None and (before is None or before[1] is None)
    if nothing_known or before == (model, value, weight):
        return
    row = {key: decision[key] for key in ("router", "at_us")}
    row |= {"decision_id": decision["id"], "revision": 0 if last is None else last["revision"] + 1}
    row |= {"made_us": to_us(now), "model": model, "value": value, "weight": weight}
    connection.execute(_INSERT_REWARD, row)


def active_votes(connection: sa.Connection, decision_id: str) -> list[Vote]:
    """The latest word of each rater under each name, unless it was retracted or revoked."""
    rows = connection.execute(_VOTES, {"of": decision_id})
    latest = {(row.name, row.source): row for row in rows}
    return [
        Vote(name=row.name, source=row.source, value=value)
        for row in latest.values()
        if row.retracted_us is None and (value := value_of(row.value)) is not None
    ]


def find_decision(connection: sa.Connection, router: str, decision_id: str) -> Row:
    """Return a decision's row, held against other writers until the transaction ends.

    Raises
    ------
    UnknownDecisionError
        No such decision in this router.
    """
    row = _first(connection, _DECISION, of=decision_id, router_name=router)
    if row is None:
        raise UnknownDecisionError(f"no decision {decision_id!r} in router {router!r}")
    return row


def latest_outcome(connection: sa.Connection, decision_id: str) -> Row | None:
    """The outcome that counts."""
    return _first(connection, _OUTCOME, of=decision_id)


def latest_reward(connection: sa.Connection, decision_id: str) -> Row | None:
    """The reward row that counts."""
    return _first(connection, _REWARD, of=decision_id)


def _first(
    connection: sa.Connection, statement: sa.Select[Any], **values: object
) -> Row | None:  # Any: above
    return connection.execute(statement, values).mappings().first()


def feedback_of(row: Row) -> Feedback:
    """The feedback of a row."""
    return Feedback(
        id=row["id"],
        decision_id=row["decision_id"],
        name=row["name"],
        value=value_of(row["value"]),
        source=row["source"],
        at=from_us(row["at_us"]),
        key=row["key"],
        comment=row["comment"],
    )


def reward_of(row: Row | None) -> Reward | None:
    """The reward of a row; None when nothing is known any more."""
    if row is None or row["value"] is None:
        return None
    return Reward(value=row["value"], weight=row["weight"])


def _answer(connection: sa.Connection, row: Row, *, duplicate: bool) -> Feedback:
    known = reward_of(latest_reward(connection, row["decision_id"]))
    return replace(feedback_of(row), duplicate=duplicate, reward=known)
