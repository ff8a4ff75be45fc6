"""What is heard about a decision: outcomes, feedback, retractions, and the reward row that follows.

Each function runs inside one transaction of the writer, which sees all that was committed before; so that
revisions are counted, and new-minus-old is known, without a race.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from bandit_router.errors import ConflictError
from bandit_router.events import Feedback, FeedbackValue, Model, Outcome, Reward, new_id
from bandit_router.log import tables as t
from bandit_router.log.archiving import closed_decision, closing, no_decision, no_feedback
from bandit_router.log.raters import allowances, charge
from bandit_router.log.rows import Row, digest, from_us, to_us, value_of, value_to_text
from bandit_router.rewards import Channel, Metric, Vote, reward
from bandit_router.values import check_amount

_OF: sa.BindParameter[str] = sa.bindparam("of")
_decision, _said = t.decisions.c, t.feedback.c


def _newest(table: sa.Table) -> sa.Select[Any]:  # Any: columns of any type
    of_it = table.c.decision_id == _OF
    return sa.select(table).where(of_it).order_by(table.c.revision.desc()).limit(1)


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
DECISIONS = sa.select(
    *(_decision.id, _decision.router, _decision.at_us, _decision.model),
    *(_decision.user, _decision.input_tokens, closing(_decision.id).label("closed")),
).where(_decision.router == sa.bindparam("router_name"))  # with what hearing about one needs
_DECISION = DECISIONS.where(_decision.id == _OF).with_for_update()
_OUTCOME, _REWARD = _newest(t.outcomes), _newest(t.rewards)
_VOTES = (
    sa.select(_said.name, _said.source, _said.value, _said.retracted_us, _said.share)
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


_USED_UP = "this key has used up what it may count for, and cannot change what was said elsewhere"


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
class Limits:
    """How far a word's source, and the credential through which it came, may count [observations]."""

    rater: float | None = None
    channel: Channel | None = None
    waited: bool = False  # for its decision: it was acknowledged, and cannot be refused any more

    def of(self, source: str, decision: Row) -> dict[str, float]:
        """Return the limit of each rater that answers for a word."""
        limits = {}
        # A name made of the decision's own id speaks nowhere else, and a decision counts once.
        if self.rater is not None and source != f"anonymous:{decision['id']}":
            limits[rater_of(source)] = self.rater
        return limits | self.through(source, decision)

    def through(self, source: str, decision: Row) -> dict[str, float]:
        """Return the limit of the credential, where that answers for the word."""
        channel = self.channel
        if channel is None or channel.influence is None:
            return {}
        own = channel.vouches and source == decision["user"]
        return {} if own else {f"key:{channel.name}": channel.influence}


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
    channel: Channel | None = None

    @property
    def body_hash(self) -> str:
        """What a repeated key must repeat too."""
        return digest([self.name, self.value, self.source, self.comment, self.at])

    def moments(self, active: Row | None) -> dict[str, int]:
        """Return when it was said, where `active` is the latest word of its source.

        Words without a time of their own follow each other as they arrive, for the clocks of workers differ.
        Theirs is the time when they came, which is how such a word is known.
        """
        if self.at is not None:
            return {"at_us": to_us(self.at)}
        us = to_us(self.received)
        if active is not None and active["at_us"] == active["received_us"]:
            us = max(us, active["at_us"])
        return {"at_us": us, "received_us": us}

    def row(
        self, router: str, decision_id: str, source: str | None, active: Row | None
    ) -> dict[str, Any]:
        """Return the row of this word, under an id of its own, after the latest word of its source."""
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
            "received_us": to_us(self.received),
            "retracted_us": None,
            "channel": None if self.channel is None else self.channel.name,
            **self.moments(active),
        }

    def limits(self, rater_limit: float | None) -> Limits:
        """What it may count for, where one source may count for `rater_limit`."""
        return Limits(rater=rater_limit, channel=self.channel)

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
    connection: sa.Connection,
    decision: Row,
    word: Word,
    metrics: Mapping[str, Metric],
    rater_limit: float | None = None,
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
    row = word.row(decision["router"], of, source, active)
    record_words(connection, decision, [(row, word.limits(rater_limit))], metrics, word.received)
    return _answer(connection, row, duplicate=False)


def record_words(
    connection: sa.Connection,
    decision: Row,
    words: Sequence[tuple[Row, Limits]],
    metrics: Mapping[str, Metric],
    now: float,
) -> None:
    """Insert words about a decision, in the order of their arrival, and revise its reward."""
    for row, limits in words:
        _insert_word(connection, decision, row, limits, metrics, now)
    revise(connection, decision, metrics, now)


def _insert_word(
    connection: sa.Connection,
    decision: Row,
    row: Row,
    limits: Limits,
    metrics: Mapping[str, Metric],
    now: float,
) -> None:
    """Insert a word with its share; one that replaces another takes over that one's, and asks for the rest."""
    earlier = _first(
        connection, _LATEST_WORD, of=row["decision_id"], under=row["name"], by=row["source"]
    )
    router, weight = decision["router"], _limited_weight(metrics, row)
    of = limits.of(row["source"], decision) if weight > 0 else {}
    before = 0.0
    if earlier is not None:
        before = 1.0 if earlier["share"] is None else float(earlier["share"])
        if of and earlier["channel"] != row["channel"]:
            through = limits.through(row["source"], decision)
            of = {rater: limit for rater, limit in of.items() if rater not in through}
            if not _may_change(connection, router, through, weight, now):
                if not limits.waited:
                    raise ConflictError(_USED_UP)
                row = {**row, "at_us": earlier["at_us"] - 1}  # kept, and not the latest
                connection.execute(_INSERT_WORD, {**row, "share": 0.0})
                return
    if before >= 1.0:
        connection.execute(_INSERT_WORD, {**row, "share": before})
        return
    used = allowances(connection, router, list(of)) if of else {}
    shares = [used[rater].share(weight, limit=limit, now=now) for rater, limit in of.items()]
    share = max(before, min(shares, default=1.0))
    connection.execute(_INSERT_WORD, {**row, "share": share})
    if of and share > before:
        charge(connection, router, list(of), weight * (share - before), now)


def _may_change(
    connection: sa.Connection, router: str, through: Mapping[str, float], weight: float, now: float
) -> bool:
    """Charge a credential for taking away what was said through another; False where it has too little left."""
    for rater, limit in through.items():
        used = allowances(connection, router, [rater])[rater]
        if used.share(weight, limit=limit, now=now) < 1.0:
            return False
        charge(connection, router, [rater], weight, now)
    return True


def _limited_weight(metrics: Mapping[str, Metric], word: Row) -> float:
    """What a word counts for of its rater's allowance [observations]."""
    metric = metrics.get(word["name"])
    return metric.trusted(word["source"]).counts if metric is not None and metric.limited else 0.0


def rater_of(source: str) -> str:
    """Under what a source's allowance is kept: a name that looks like a key's is not taken for one."""
    return source if not source.startswith("key:") else f"source {source}"[:255]


def default_source(decision: Row) -> str:
    """Who says what nobody signs: the decision's user."""
    return decision["user"] or f"anonymous:{decision['id']}"


def _say_later(connection: sa.Connection, word: Word, active: Row) -> None:
    """A repeated word holds from its latest time on, lest a contrary one that is on its way wins."""
    moments = word.moments(active)
    if moments["at_us"] > active["at_us"]:
        mine = (_said.id == active["id"], _said.decision_id == active["decision_id"])
        connection.execute(sa.update(t.feedback).where(*mine).values(moments))


def retract(
    connection: sa.Connection,
    router: str,
    feedback_id: str,
    metrics: Mapping[str, Metric],
    now: float,
    channel: Channel | None = None,
) -> Feedback:
    """Take one word back; what was said before it does not return.

    Raises
    ------
    UnknownFeedbackError
        No such feedback in this router.
    ConflictError
        It was said elsewhere, and this credential has used up what it may count for.
    """
    row = _first(
        connection,
        sa.select(t.feedback).where(t.feedback.c.id == feedback_id, t.feedback.c.router == router),
    )
    if row is None:
        raise no_feedback(connection, router, feedback_id)
    duplicate = row["retracted_us"] is not None
    if not duplicate:
        decision = find_decision(connection, router, row["decision_id"])
        weight = _limited_weight(metrics, row)
        through = Limits(channel=channel).through(row["source"], decision) if weight > 0 else {}
        elsewhere = channel is not None and row["channel"] != channel.name
        if elsewhere and not _may_change(connection, router, through, weight, now):
            raise ConflictError(_USED_UP)
        mine = (_said.id == feedback_id, _said.decision_id == row["decision_id"])
        connection.execute(sa.update(t.feedback).where(*mine).values(retracted_us=to_us(now)))
        revise(connection, decision, metrics, now)
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


def revise(connection: sa.Connection, decision: Row, metrics: Mapping[str, Metric], now: float) -> bool:
    """Write a new reward row if what is known of a decision amounts to something else than before.

    Return whether it does.
    """
    outcome = latest_outcome(connection, decision["id"])
    model = decision["model"] if outcome is None else outcome["model"]
    new = reward(active_votes(connection, decision["id"]), metrics)
    value, weight = (None, 0.0) if new is None else (new.value, new.weight)
    last = latest_reward(connection, decision["id"])
    before = None if last is None else (last["model"], last["value"], last["weight"])
    nothing_known = value is None and (before is None or before[1] is None)
    if nothing_known or before == (model, value, weight):
        return False
    row = {key: decision[key] for key in ("router", "at_us")}
    row |= {"decision_id": decision["id"], "revision": 0 if last is None else last["revision"] + 1}
    row |= {"made_us": to_us(now), "model": model, "value": value, "weight": weight}
    connection.execute(_INSERT_REWARD, row)
    return True


def active_votes(connection: sa.Connection, decision_id: str) -> list[Vote]:
    """The latest word of each rater under each name, unless it was retracted or revoked."""
    return votes_of(connection.execute(_VOTES, {"of": decision_id}).mappings())


def votes_of(words: Iterable[Row]) -> list[Vote]:
    """As `active_votes`, of words in the order in which they were said, and arrived."""
    latest = {(row["name"], row["source"]): row for row in words}
    return [
        Vote(
            name=row["name"],
            source=row["source"],
            value=value,
            share=1.0 if row["share"] is None else row["share"],
        )
        for row in latest.values()
        if row["retracted_us"] is None and (value := value_of(row["value"])) is not None
    ]


def find_decision(connection: sa.Connection, router: str, decision_id: str) -> Row:
    """Return a decision's row, held against other writers until the transaction ends.

    Raises
    ------
    UnknownDecisionError
        No such decision in this router; it may have been archived (`ArchivedDecisionError`).
    """
    row = _first(connection, _DECISION, of=decision_id, router_name=router)
    if row is None:
        raise no_decision(connection, router, decision_id)
    if row["closed"]:
        raise closed_decision(connection, decision_id)
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
