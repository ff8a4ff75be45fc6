"""The fold: from the reward rows and outcomes of the log to evidence and predictions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import FormatError
from bandit_router.evidence import Delta, Evidence, Observation
from bandit_router.log import tables as t
from bandit_router.log.bases import read_bases
from bandit_router.log.following import Place, horizon, last_numbers, late_rows, rows_after
from bandit_router.log.lens import Lens
from bandit_router.log.rows import Row, from_us, outcome_of, unpack
from bandit_router.predictions import Predictions, contribution
from bandit_router.values import Array

logger = logging.getLogger(__name__)
_CHUNK = 1_024  # rows that are summed in one product
_LOOKED_UP = 500  # ids in one statement
_PROMPT = (  # what predictions know of it
    t.decisions.c.input_tokens.label("guessed_tokens"),
    t.decisions.c.features,
    t.decisions.c.features_version,
)


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

    def merge(
        self,
        evidence: Mapping[str, Evidence],
        predictions: Predictions,
        lens: Lens,
        *,
        sign: float = 1.0,
    ) -> None:
        """Add (or with ``sign=-1`` subtract) sums of decisions that are not in the log."""
        for model, sums in evidence.items():
            own = self.evidence.setdefault(model, Evidence(lens.dim, half_life=lens.half_life_s))
            own.merge(sums, sign=sign)
        self.predictions.merge(predictions, sign=sign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """One outcome's contribution to the predictions of one model, or what it replaces (sign -1).

    `x` is None where the decision's features are of another version.
    """

    model: str
    amounts: Array
    at: float
    sign: float
    x: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a request is known to cost, whichever worker decided it.

    Attributes
    ----------
    at : float
        When it was decided [s since 1970].
    cost_usd : float
        As its outcome tells, else as predicted [USD].
    predicted_usd : float
        As predicted [USD].
    before_usd : float, optional
        As the outcome told that this one replaces [USD].
    """

    decision_id: str
    at: float
    cost_usd: float
    predicted_usd: float
    before_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What came after two places in the log.

    Attributes
    ----------
    places : (Place, Place)
        Of rewards and outcomes, once this has been taken in.
    more : bool
        There is more than was read.
    skipped : int
        Rewards that could not be folded, for their features are of another version.
    """

    deltas: Sequence[Delta]
    spendings: Sequence[Spending]
    places: tuple[Place, Place]
    more: bool
    skipped: int = 0
    bills: Sequence[Bill] = ()


def fold(connection: sa.Connection, lens: Lens, rewards: Place, outcomes: Place) -> Fold:
    """Fold the whole log, latest revisions only, in one reading transaction: what it has, and the bases.

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
        fold_rewards(result, rows, lens)
    for rows in _chunks(connection, _outcomes(lens.router).where(latest(t.outcomes))):
        spend_all(result.predictions, spendings_of(rows, lens))
    for base in read_bases(connection, lens.router):
        result.merge(base.under(lens), base.predictions, lens)
        result.skipped += base.skipped
    return result


def fold_rewards(result: Fold, rows: Sequence[Row], lens: Lens) -> None:
    """Add the rewards of rows that replace nothing, each with the features of its decision."""
    seen = [(row, x) for row in rows if (x := _features(row, lens)) is not None]
    result.skipped += len(rows) - len(seen)
    counted = [(row, x) for row, x in seen if lens.counts(row["model"], from_us(row["at_us"]))]
    for model in {row["model"] for row, _ in counted}:
        own = [(row, x) for row, x in counted if row["model"] == model]
        evidence = result.evidence.setdefault(model, Evidence(lens.dim, half_life=lens.half_life_s))
        at = [from_us(row["at_us"]) for row, _ in own]
        shares = np.array([lens.share(model, moment) for moment in at])
        evidence.add_many(
            np.stack([x for _, x in own]),
            shares * np.array([row["weight"] for row, _ in own]),
            np.array([row["value"] for row, _ in own]),
            np.array(at),
        )


def spendings_of(rows: Iterable[Row], lens: Lens) -> list[Spending]:
    """Return what outcomes contribute that replace nothing, each with the features of its decision."""
    return [spending for row in rows for spending in _spending(row, lens, 1.0)]


def _features(row: Row, lens: Lens) -> Array | None:
    """The features of a row; None where they are of another version, or damaged."""
    if row["features_version"] != lens.features_version or len(row["features"]) != 8 * lens.dim:
        return None
    try:
        return unpack(row["features"])
    except FormatError as error:
        logger.warning("router %s: the features of row %s: %s", lens.router, row["seq"], error)
        return None


def tail(connection: sa.Connection, lens: Lens, rewards: Place, outcomes: Place, *, limit: int) -> Tail:
    """Read what came after two places: each row as what is new less what it replaces."""
    drawn = last_numbers(connection)
    if rewards.rests(drawn[t.rewards]) and outcomes.rests(drawn[t.outcomes]):
        return Tail(deltas=(), spendings=(), places=(rewards, outcomes), more=False)
    seen_from = horizon(connection)
    new_rewards = _unread(connection, t.rewards, rewards, lens, limit)
    new_outcomes = _unread(connection, t.outcomes, outcomes, lens, limit)
    more = max(len(new_rewards), len(new_outcomes)) >= limit
    places = [
        place.and_some(new) if more else place.after(new, seen_from, drawn=drawn[table])
        for table, place, new in (
            (t.rewards, rewards, new_rewards),
            (t.outcomes, outcomes, new_outcomes),
        )
    ]
    heard = [row for row in _revisions(connection, new_rewards.values()) if row["seq"] in new_rewards]
    paid = [row for row in _payments(connection, new_outcomes.values()) if row["seq"] in new_outcomes]
    return Tail(
        deltas=[delta for row in heard for delta in _deltas(row, lens)],
        spendings=[spending for row in paid for spending in _spendings(row, lens)],
        places=(places[0], places[1]),
        more=more,
        skipped=sum(_features(row, lens) is None for row in heard),
        bills=[_bill(row) for row in paid],
    )


def _unread(
    connection: sa.Connection, table: sa.Table, place: Place, lens: Lens, limit: int
) -> dict[int, str]:
    """Return rows of a table that were not read yet, in their order: the decision that each is about."""
    c = table.c
    late = late_rows(connection, table, lens.router, place, limit)
    mine = sa.select(c.seq, c.decision_id).where(c.router == lens.router).order_by(c.seq).limit(limit)
    rows = list(connection.execute(mine.where(c.seq > place.last)))
    if late:
        rows = [*connection.execute(mine.where(c.seq.in_(late))), *rows]
    return {row.seq: row.decision_id for row in rows}


def _deltas(row: Row, lens: Lens) -> list[Delta]:
    at, x = from_us(row["at_us"]), _features(row, lens)
    if x is None:
        return []
    new, earlier = _known(row["value"], row["weight"], x, at), row["earlier"]
    old = None if earlier is None else _known(earlier["value"], earlier["weight"], x, at)
    if new is not None and old is not None and row["model"] == earlier["model"]:
        parts = [(1, row["model"], new - old)]
    else:
        parts = [(0, earlier["model"], -old)] if old is not None else []
        parts += [(1, row["model"], new)] if new is not None else []
    return [
        Delta(
            key=2 * row["seq"] + half,
            model=model,
            observation=observation.scaled(lens.share(model, at)),
        )
        for half, model, observation in parts
        if lens.counts(model, at)
    ]


def _known(value: float | None, weight: float, x: Array, at: float) -> Observation | None:
    return None if value is None else Observation.of(x, value, weight=weight, at=at)


def _rewards_with_features(router: str) -> sa.Select[Any]:  # Any: columns
    c, d = t.rewards.c, t.decisions.c
    joined = sa.join(t.rewards, t.decisions, c.decision_id == d.id)
    columns = (c.seq, c.model, c.value, c.weight, c.at_us, d.features, d.features_version)
    return sa.select(*columns).select_from(joined).where(c.router == router)


def _revisions(connection: sa.Connection, decision_ids: Iterable[str]) -> list[Row]:
    """Reward rows of some decisions, each with the decision's features and the row that it replaces."""
    d = t.decisions.c
    return _with_earlier(connection, t.rewards, (d.features, d.features_version), decision_ids)


def _outcomes(router: str) -> sa.Select[Any]:  # Any: columns
    joined = sa.join(t.outcomes, t.decisions, t.decisions.c.id == t.outcomes.c.decision_id)
    selected = sa.select(t.outcomes, *_PROMPT).select_from(joined)
    return selected.where(t.outcomes.c.router == router)


def _payments(connection: sa.Connection, decision_ids: Iterable[str]) -> list[Row]:
    """Outcomes of some decisions, each with what is known of the prompt and the row that it replaces."""
    columns = (*_PROMPT, t.decisions.c.predicted_usd)
    return _with_earlier(connection, t.outcomes, columns, decision_ids)


def _with_earlier(
    connection: sa.Connection,
    table: sa.Table,
    columns: Sequence[sa.ColumnElement[Any]],  # Any: of any type
    decision_ids: Iterable[str],
) -> list[Row]:
    """Return rows of decisions in order, with columns of the decision, and as ``earlier`` the row replaced.

    They are joined here: a database with many partitions would rather join all of them than look ids up.
    """
    found: list[Row] = []
    for ids in _chunked(sorted(set(decision_ids))):
        of_them = sa.select(t.decisions.c.id.label("of"), *columns).where(t.decisions.c.id.in_(ids))
        decisions = {row["of"]: row for row in connection.execute(of_them).mappings()}
        theirs = sa.select(table).where(table.c.decision_id.in_(decisions))
        rows = connection.execute(theirs).mappings().all()
        known = {(row["decision_id"], row["revision"]): row for row in rows}
        found += [
            {**row, **decisions[of], "earlier": known.get((of, revision - 1))}
            for (of, revision), row in known.items()
        ]
    return sorted(found, key=lambda row: int(row["seq"]))


def _chunked(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _LOOKED_UP):
        yield ids[start : start + _LOOKED_UP]


def _spendings(row: Row, lens: Lens) -> list[Spending]:
    spendings, earlier = _spending(row, lens, 1.0), row["earlier"]
    if earlier is not None:
        prompt = {column.name: row[column.name] for column in _PROMPT}
        spendings += _spending({**earlier, **prompt}, lens, -1.0)
    return spendings


def _bill(row: Row) -> Bill:
    predicted, earlier = row["predicted_usd"] or 0.0, row["earlier"]
    cost, before = (
        predicted if told is None or told["cost_usd"] is None else told["cost_usd"]
        for told in (row, earlier)
    )
    return Bill(
        decision_id=row["decision_id"],
        at=from_us(row["at_us"]),
        cost_usd=cost,
        predicted_usd=predicted,
        before_usd=None if earlier is None else before,
    )


def _spending(row: Row, lens: Lens, sign: float) -> list[Spending]:
    try:
        amounts = contribution(outcome_of(row), row["guessed_tokens"])
    except (TypeError, ValueError) as error:
        logger.warning("outcome of decision %s does not count: %s", row["decision_id"], error)
        return []
    at, x = from_us(row["at_us"]), _features(row, lens)
    return [Spending(model=row["model"], amounts=amounts, at=at, sign=sign, x=x)]


def spend_all(predictions: Predictions, spendings: Iterable[Spending], *, sign: float = 1.0) -> None:
    """Add (or with ``sign=-1`` subtract) contributions to running predictions, in place."""
    for one in spendings:
        predictions.add(one.model, one.amounts, at=one.at, sign=sign * one.sign, x=one.x)


def contributions_of(
    connection: sa.Connection, lens: Lens, state: Fold, decision_ids: Sequence[str]
) -> tuple[list[Delta], list[Spending]]:
    """Return what some decisions have contributed to a fold."""
    deltas = [
        delta
        for row in _revisions(connection, decision_ids)
        for delta in _deltas(row, lens)
        if row["seq"] <= state.rewards.complete or delta.key in state.keys
    ]
    spendings = [
        spending
        for row in _payments(connection, decision_ids)
        for spending in _spendings(row, lens)
        if row["seq"] in state.outcomes
    ]
    return deltas, spendings


def latest(table: sa.Table, *, since: str | None = None) -> sa.ColumnElement[bool]:
    """Return the condition that a row is the last revision of its decision, whose id is `since` or later."""
    newer, c = table.alias(), table.c
    later = sa.exists().where(newer.c.decision_id == c.decision_id, newer.c.revision > c.revision)
    # PostgreSQL spares itself earlier partitions of those tables of which it is told.
    return (
        ~later
        if since is None
        else ~later.where(newer.c.decision_id >= since) & (c.decision_id >= since)
    )


def _chunks(
    connection: sa.Connection, statement: sa.Select[Any]
) -> Iterator[Sequence[Row]]:  # Any: columns
    streamed = statement.execution_options(yield_per=_CHUNK)
    yield from connection.execute(streamed).mappings().partitions()
