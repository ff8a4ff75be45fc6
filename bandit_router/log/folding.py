"""The fold: from the reward rows and outcomes of the log to evidence and predictions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import FormatError
from bandit_router.evidence import Delta, Evidence, Observation
from bandit_router.log import tables as t
from bandit_router.log.following import Place, horizon, late_rows, rows_after
from bandit_router.log.rows import Row, from_us, outcome_of, unpack
from bandit_router.predictions import Predictions, contribution
from bandit_router.values import Array

logger = logging.getLogger(__name__)
_CHUNK = 1_024  # rows that are summed in one product


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """Through what the fold looks at the log: which features, how forgetful, since when.

    Attributes
    ----------
    born : mapping of str to float
        Decisions before this moment [s] do not count for that model.
    """

    router: str
    dim: int
    features_version: str
    half_life_s: float | None
    born: Mapping[str, float] = field(default_factory=dict)

    def counts(self, model: str, at: float) -> bool:
        """Whether a decision of that moment counts as evidence for the model."""
        return at >= self.born.get(model, 0.0)


@dataclass(slots=True, kw_only=True)
class Fold:
    """All evidence and predictions up to two places in the log.

    Attributes
    ----------
    rewards, outcomes : Place
        Which rows of the log they contain.
    keys : set of int
        Deltas of reward rows after `rewards.complete` that they contain.
    skipped : int
        Rewards that could not be folded, for their features are of another version.
    """

    evidence: dict[str, Evidence] = field(default_factory=dict)
    predictions: Predictions = field(default_factory=Predictions)
    rewards: Place = field(default_factory=Place)
    outcomes: Place = field(default_factory=Place)
    keys: set[int] = field(default_factory=set)
    skipped: int = 0

    def add(self, news: Tail, lens: Lens) -> None:
        """Add what came after; what is contained already is left out."""
        for delta in news.deltas:
            if delta.key not in self.keys:
                sums = self.evidence.setdefault(
                    delta.model, Evidence(lens.dim, half_life=lens.half_life_s)
                )
                sums.add(delta.observation)
                self.keys.add(delta.key)
        spend_all(self.predictions, news.spendings)
        self.rewards, self.outcomes = news.places
        self.keys = {key for key in self.keys if key // 2 > self.rewards.complete}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """One outcome's contribution to the predictions of one model, or what it replaces (sign -1)."""

    model: str
    amounts: Array
    at: float
    sign: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What came after two places in the log.

    Attributes
    ----------
    places : (Place, Place)
        Of rewards and outcomes, once this has been taken in.
    more : bool
        There is more than was read.
    """

    deltas: Sequence[Delta]
    spendings: Sequence[Spending]
    places: tuple[Place, Place]
    more: bool


def fold(connection: sa.Connection, lens: Lens, rewards: Place, outcomes: Place) -> Fold:
    """Fold the whole log, latest revisions only, in one reading transaction.

    Parameters
    ----------
    connection : Connection
    lens : Lens
    rewards, outcomes : Place
        Where it is known that no earlier row can still appear (`settled`).
    """
    later = rows_after(connection, t.rewards, lens.router, rewards.complete)
    result = Fold(
        rewards=rewards.and_some(later),
        outcomes=outcomes.and_some(rows_after(connection, t.outcomes, lens.router, outcomes.complete)),
        keys={2 * seq + half for seq in later for half in (0, 1)},
    )
    statement = _rewards_with_features(lens.router).where(
        t.rewards.c.value.is_not(None), latest(t.rewards)
    )
    for rows in _chunks(connection, statement):
        _fold_rewards(result, rows, lens)
    for rows in _chunks(connection, _outcomes(lens.router).where(latest(t.outcomes))):
        spend_all(result.predictions, [s for row in rows for s in _spending(row, 1.0)])
    return result


def _fold_rewards(result: Fold, rows: Sequence[Row], lens: Lens) -> None:
    seen = [(row, x) for row in rows if (x := _features(row, lens)) is not None]
    result.skipped += len(rows) - len(seen)
    counted = [(row, x) for row, x in seen if lens.counts(row["model"], from_us(row["at_us"]))]
    for model in {row["model"] for row, _ in counted}:
        own = [(row, x) for row, x in counted if row["model"] == model]
        evidence = result.evidence.setdefault(model, Evidence(lens.dim, half_life=lens.half_life_s))
        evidence.add_many(
            np.stack([x for _, x in own]),
            np.array([row["weight"] for row, _ in own]),
            np.array([row["value"] for row, _ in own]),
            np.array([from_us(row["at_us"]) for row, _ in own]),
        )


def _features(row: Row, lens: Lens) -> Array | None:
    """The features of a row; None where they are of another version, or damaged."""
    if row["features_version"] != lens.features_version or len(row["features"]) != 8 * lens.dim:
        return None
    try:
        return unpack(row["features"])
    except FormatError as error:
        logger.warning("router %s: reward row %s does not count: %s", lens.router, row["seq"], error)
        return None


def tail(connection: sa.Connection, lens: Lens, rewards: Place, outcomes: Place, *, limit: int) -> Tail:
    """Read what came after two places: each row as what is new less what it replaces."""
    seen_from = horizon(connection)
    heard, heard_more = _unread(connection, _revisions(lens.router), t.rewards, rewards, lens, limit)
    paid, paid_more = _unread(connection, _payments(lens.router), t.outcomes, outcomes, lens, limit)
    more = heard_more or paid_more
    places = [
        place.and_some(seqs) if more else place.after(seqs, seen_from)
        for place, seqs in (
            (rewards, [row["seq"] for row in heard]),
            (outcomes, [row["seq"] for row in paid]),
        )
    ]
    return Tail(
        deltas=[delta for row in heard for delta in _deltas(row, lens)],
        spendings=[spending for row in paid for spending in _spendings(row)],
        places=(places[0], places[1]),
        more=more,
    )


def _unread(
    connection: sa.Connection,
    statement: sa.Select[Any],  # Any: columns
    table: sa.Table,
    place: Place,
    lens: Lens,
    limit: int,
) -> tuple[list[Row], bool]:
    """Return rows of a table that were not read yet, in their order, and whether there are more."""
    late = late_rows(connection, table, lens.router, place, limit)
    ordered = statement.order_by(table.c.seq).limit(limit)
    rows: list[Row] = list(connection.execute(ordered.where(table.c.seq > place.last)).mappings())
    more = len(rows) >= limit or len(late) >= limit
    if late:
        rows = [*connection.execute(ordered.where(table.c.seq.in_(late))).mappings(), *rows]
    return rows, more


def _deltas(row: Row, lens: Lens) -> list[Delta]:
    at, x = from_us(row["at_us"]), _features(row, lens)
    if x is None:
        return []
    new, old = _known(row["value"], row["weight"], x, at), None
    if row["old_model"] is not None:
        old = _known(row["old_value"], row["old_weight"], x, at)
    if new is not None and old is not None and row["model"] == row["old_model"]:
        parts = [(1, row["model"], new - old)]
    else:
        parts = [(0, row["old_model"], -old)] if old is not None else []
        parts += [(1, row["model"], new)] if new is not None else []
    return [
        Delta(key=2 * row["seq"] + half, model=model, observation=observation)
        for half, model, observation in parts
        if lens.counts(model, at)
    ]


def _known(value: float | None, weight: float, x: Array, at: float) -> Observation | None:
    return None if value is None else Observation.of(x, value, weight=weight, at=at)


def _rewards_with_features(
    router: str, before: sa.FromClause | None = None
) -> sa.Select[Any]:  # Any: columns
    c, d = t.rewards.c, t.decisions.c
    source: sa.FromClause = sa.join(t.rewards, t.decisions, c.decision_id == d.id)
    if before is not None:
        earlier = sa.and_(before.c.decision_id == c.decision_id, before.c.revision == c.revision - 1)
        source = source.outerjoin(before, earlier)
    columns = (c.seq, c.model, c.value, c.weight, c.at_us, d.features, d.features_version)
    return sa.select(*columns).select_from(source).where(c.router == router)


def _revisions(router: str) -> sa.Select[Any]:  # Any: columns
    """Reward rows, each with the one that it replaces."""
    before = t.rewards.alias("before")
    old = [getattr(before.c, name).label(f"old_{name}") for name in ("model", "value", "weight")]
    return _rewards_with_features(router, before).add_columns(*old)


def _outcomes(router: str) -> sa.Select[Any]:  # Any: columns
    guessed = t.decisions.c.input_tokens.label("guessed_tokens")
    joined = sa.join(t.outcomes, t.decisions, t.decisions.c.id == t.outcomes.c.decision_id)
    return sa.select(t.outcomes, guessed).select_from(joined).where(t.outcomes.c.router == router)


def _payments(router: str) -> sa.Select[Any]:  # Any: columns
    """Outcomes, each with the one that it replaces."""
    before, c = t.outcomes.alias("before"), t.outcomes.c
    earlier = sa.and_(before.c.decision_id == c.decision_id, before.c.revision == c.revision - 1)
    old = [column.label(f"old_{column.name}") for column in before.c]
    return _outcomes(router).add_columns(*old).outerjoin(before, earlier)


def _spendings(row: Row) -> list[Spending]:
    spendings = _spending(row, 1.0)
    if row["old_seq"] is not None:
        old = {
            name.removeprefix("old_"): value for name, value in row.items() if name.startswith("old_")
        }
        spendings += _spending({**old, "guessed_tokens": row["guessed_tokens"]}, -1.0)
    return spendings


def _spending(row: Row, sign: float) -> list[Spending]:
    try:
        amounts = contribution(outcome_of(row), row["guessed_tokens"])
    except (TypeError, ValueError) as error:
        logger.warning("outcome of decision %s does not count: %s", row["decision_id"], error)
        return []
    return [Spending(model=row["model"], amounts=amounts, at=from_us(row["at_us"]), sign=sign)]


def spend_all(predictions: Predictions, spendings: Sequence[Spending]) -> None:
    """Add contributions to running predictions, in place."""
    for spending in spendings:
        predictions.add(spending.model, spending.amounts, at=spending.at, sign=spending.sign)


def contributions_of(
    connection: sa.Connection, lens: Lens, state: Fold, decision_ids: Sequence[str]
) -> tuple[list[Delta], list[Spending]]:
    """Return what some decisions have contributed to a fold."""
    heard = _revisions(lens.router).where(t.rewards.c.decision_id.in_(decision_ids))
    paid = _payments(lens.router).where(t.outcomes.c.decision_id.in_(decision_ids))
    deltas = [
        delta
        for row in connection.execute(heard).mappings()
        for delta in _deltas(row, lens)
        if row["seq"] <= state.rewards.complete or delta.key in state.keys
    ]
    spendings = [
        spending
        for row in connection.execute(paid).mappings()
        for spending in _spendings(row)
        if row["seq"] in state.outcomes
    ]
    return deltas, spendings


def latest(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that a row is the last revision of its decision."""
    newer, c = table.alias(), table.c
    return ~sa.exists().where(newer.c.decision_id == c.decision_id, newer.c.revision > c.revision)


def _chunks(
    connection: sa.Connection, statement: sa.Select[Any]
) -> Iterator[Sequence[Row]]:  # Any: columns
    streamed = statement.execution_options(yield_per=_CHUNK)
    yield from connection.execute(streamed).mappings().partitions()
