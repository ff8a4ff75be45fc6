"""Streams: what every model would answer in every round of a scenario, for one order.

A stream is made of tables, a scenario and a seed, so that every policy meets the same world.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import SettingsError, TableError
from bandit_router.rewards import METRICS, Vote, reward
from bandit_router.values import Array
from simulations.catalogue import check_models, some
from simulations.scenarios import Add, Price, Quality, Retire, Scenario, Signal, When
from simulations.tables import Table, read_table

logger = logging.getLogger(__name__)

Mask = NDArray[np.bool_]
Rounds = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Some rounds of a stream: from `start` to before `end`."""

    name: str
    start: int
    end: int

    @property
    def rounds(self) -> slice:
        """To index arrays of rounds."""
        return slice(self.start, self.end)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """What every model would answer in every round: n rounds, K models.

    Attributes
    ----------
    table : Table
        A row a round, in their order, with what qualities and costs are then.
    rows : ndarray of shape (n,)
        The rows of all tables together that the rounds are of.
    available : ndarray of bool of shape (n, K)
        Which models can be asked.
    price : ndarray of shape (n, K)
        What the list prices are multiplied by.
    told, weight : ndarray of shape (n, K)
        What would be said of each answer, and how much that counts; weight 0: nothing is said.
    delay : ndarray of shape (n,)
        After how many rounds.
    phases : tuple of Phase
        All rounds, cut where the world changes.
    marks : tuple of Phase
        Further rounds to report of.
    """

    table: Table
    rows: Rounds
    available: Mask
    price: Array
    told: Array
    weight: Array
    delay: Rounds
    phases: tuple[Phase, ...]
    marks: tuple[Phase, ...] = ()

    @property
    def listed(self) -> Table:
        """The table with costs at list prices."""
        if not self.table.has_cost:
            return self.table
        return replace(self.table, cost_usd=self.table.cost_usd / self.price)

    def first(self, rows: int | None) -> Stream:
        """Return the first so many rounds of it."""
        n = len(self.rows) if rows is None else min(rows, len(self.rows))
        return Stream(
            table=self.table.take(np.arange(n)),
            rows=self.rows[:n],
            available=self.available[:n],
            price=self.price[:n],
            told=self.told[:n],
            weight=self.weight[:n],
            delay=self.delay[:n],
            phases=_cut(self.phases, n),
            marks=_cut(self.marks, n),
        )

    def bare(self) -> Stream:
        """Return the stream without its prompts."""
        nothing = ("",) * len(self.table)
        return replace(self, table=replace(self.table, prompts=nothing, prompt_ids=nothing, tasks=None))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """A scenario with its tables.

    Attributes
    ----------
    scenario : Scenario
    table : Table
        All rows of all tables, one table after another.
    parts : tuple of (str, int)
        Each table's name and how many of the rows are its.
    available : ndarray of bool of shape (parts, K)
        Which models each table has.
    """

    scenario: Scenario
    table: Table
    parts: tuple[tuple[str, int], ...]
    available: Mask

    @classmethod
    def of(cls, scenario: Scenario, table: Table, *, path: Path | None = None) -> World:
        """Read the tables that follow `table`, which was read from `path`.

        Raises
        ------
        SettingsError, TableError
            A table is missing or malformed, a model unknown, a round out of range.
        """
        tables = [table, *(_read(scenario, then.table, then.where, path) for then in scenario.then)]
        names = _names(scenario, tables)
        called = (table.name, *(then.called for then in scenario.then))
        if len(set(called)) < len(called):
            raise SettingsError(f"then: expected different names, got {', '.join(called)}")
        whole = _concatenated(tables, names)
        available = np.array([[name in t.names for name in names] for t in tables])
        parts = tuple(zip(called, map(len, tables), strict=True))
        world = cls(scenario=scenario, table=whole, parts=parts, available=available)
        world.stream(np.arange(len(whole)), np.random.default_rng(0))  # what is wrong is refused here
        return world

    def stream(self, live: Rounds, rng: np.random.Generator) -> Stream:
        """Return one order of it.

        Parameters
        ----------
        live : ndarray of shape (m,)
            Rows that may be lived through.
        rng : Generator
        """
        order, starts = self._order(live, rng)
        n = len(order)
        quality, price = self.table.quality[order], np.ones((n, len(self.table.models)))
        changes: tuple[Price | Quality, ...] = (*self.scenario.price, *self.scenario.quality)
        for event in changes:
            _apply(event, self._when(event, starts, n), self._index(event.model), quality, price)
        lived = replace(
            self.table.take(order), quality=quality, cost_usd=self.table.cost_usd[order] * price
        )
        # A child of its own, so that who feels what changes no order and no draw.
        told, weight, delay = _feedback(self.scenario, quality, rng.spawn(1)[0])
        return Stream(
            table=lived,
            rows=order,
            available=self._available(starts, n),
            price=price,
            told=told,
            weight=weight,
            delay=delay,
            phases=self._phases(starts, n),
            marks=tuple(
                Phase(name=mark.called, start=when.start, end=when.stop)
                for mark in self.scenario.mark
                for when in (self._when(mark, starts, n),)
            ),
        )

    def _order(self, live: Rounds, rng: np.random.Generator) -> tuple[Rounds, dict[str, int]]:
        """The rows in the order in which they are lived, and each table's first round."""
        limits = (self.scenario.rows, *(then.rows for then in self.scenario.then))
        orders: list[Rounds] = []
        starts: dict[str, int] = {}
        first = 0
        for (name, size), limit in zip(self.parts, limits, strict=True):
            mine = live[(live >= first) & (live < first + size)]
            if not len(mine):
                raise TableError(f"{name}: nothing is left of it")
            starts[name] = sum(map(len, orders))
            orders.append(rng.permutation(mine)[:limit])
            first += size
        return np.concatenate(orders), starts

    def _when(self, event: When, starts: Mapping[str, int], n: int) -> slice:
        """The rounds of an event."""
        if event.after is not None and event.after not in starts:
            raise SettingsError(f"after: no table {event.after!r}; there are {', '.join(starts)}")
        first = 0 if event.after is None else starts[event.after]
        start = first + event.at
        end = n if event.until is None else first + event.until
        if start >= n or end > n:
            until = "" if event.until is None else f" until {event.until}"
            raise SettingsError(f"at {event.at}{until}: expected rounds up to {n - first}")
        return slice(start, end)

    def _index(self, model: str) -> int:
        if model not in self.table.names:
            raise SettingsError(f"no model {model!r:.80}; there are {some(self.table.names)}")
        return self.table.names.index(model)

    def _available(self, starts: Mapping[str, int], n: int) -> Mask:
        """Which models can be asked: those of the table, less who has gone or is still to come."""
        part = np.searchsorted([*starts.values()], np.arange(n), side="right") - 1
        available = self.available[part]
        movers: tuple[Add | Retire, ...] = (*self.scenario.add, *self.scenario.retire)
        moments = sorted(
            (self._when(event, starts, n).start, self._index(event.model), isinstance(event, Add))
            for event in movers
        )
        for k in {k for _, k, _ in moments}:
            mine = [(start, comes) for start, j, comes in moments if j == k]
            there = np.full(n, not mine[0][1])
            for start, comes in mine:
                there[start:] = comes
            available[:, k] &= there
        empty = np.flatnonzero(~available.any(axis=1))
        if len(empty):
            raise SettingsError(f"no model is left in round {empty[0]}")
        return available

    def _phases(self, starts: Mapping[str, int], n: int) -> tuple[Phase, ...]:
        """All rounds, cut where something happens."""
        happens = {start: [name] for name, start in starts.items()}
        for event in self.scenario.events:
            when = self._when(event, starts, n)
            happens.setdefault(when.start, []).append(event.called)
            if when.stop < n and isinstance(event, Price | Quality):
                happens.setdefault(when.stop, []).append(f"{event.called}: over")
        cuts = [*sorted(happens), n]
        return tuple(
            Phase(name="; ".join(happens[start]), start=start, end=end)
            for start, end in itertools.pairwise(cuts)
        )


def _cut(phases: Sequence[Phase], n: int) -> tuple[Phase, ...]:
    return tuple(replace(phase, end=min(phase.end, n)) for phase in phases if phase.start < n)


def _apply(event: Price | Quality, when: slice, k: int, quality: Array, price: Array) -> None:
    if isinstance(event, Price):
        price[when, k] *= event.factor
    else:
        moved = quality[when, k] * (1.0 if event.factor is None else event.factor)
        moved = np.clip(moved + (event.offset or 0.0), 0.0, 1.0)
        quality[when, k] = moved if event.set is None else event.set


def _feedback(
    scenario: Scenario, quality: Array, rng: np.random.Generator
) -> tuple[Array, Array, Rounds]:
    """What is said of each answer, how much that counts, and after how many rounds."""
    n = len(quality)
    low, high = scenario.feedback.delays
    delay = rng.integers(low, high, size=n, endpoint=True).astype(np.intp)
    lost = rng.random(n) < scenario.feedback.drop
    if not scenario.signal:
        told, weight = quality.copy(), np.ones_like(quality)
    else:
        said = {signal.name: _said(signal, quality, rng) for signal in scenario.signal}
        told, weight = _rewards(said)
    weight[lost] = 0.0
    return told, weight, delay


def _said(signal: Signal, quality: Array, rng: np.random.Generator) -> Array:
    """What one says of each answer; NaN: nothing."""
    low, high = signal.shares
    speaks = rng.random(quality.shape) < low + (high - low) * quality
    felt = np.clip(quality + signal.bias + signal.noise * rng.standard_normal(quality.shape), 0.0, 1.0)
    if signal.name == "thumb":
        felt = (rng.random(quality.shape) < felt).astype(np.float64)
    return np.where(speaks, felt, np.nan)


def _rewards(said: Mapping[str, Array]) -> tuple[Array, Array]:
    """The router's own rewards of what is said."""
    shape = next(iter(said.values())).shape
    told, weight = np.zeros(shape), np.zeros(shape)
    for at in np.argwhere(np.any([~np.isnan(values) for values in said.values()], axis=0)).tolist():
        row, k = at
        votes = [_vote(name, float(v[row, k])) for name, v in said.items() if not np.isnan(v[row, k])]
        made = reward(votes)
        if made is not None:
            told[row, k], weight[row, k] = made.value, made.weight
    return told, weight


def _vote(name: str, value: float) -> Vote:
    kind = METRICS[name].kind
    return Vote(name=name, source=name, value=bool(value) if kind == "bool" else value)


def _read(scenario: Scenario, table: str, where: Mapping[str, str], first: Path | None) -> Table:
    """A table that follows."""
    folders = [scenario.path.parent] if scenario.path else []
    folders += [first.parent, first.parent.parent] if first else []
    for folder in folders or [Path()]:
        if (folder / table).is_file():
            return read_table(folder / table, where=where)
    looked = ", ".join(str(folder) for folder in dict.fromkeys(folders)) or "."
    raise SettingsError(f"then: no table {table!r} in {looked}")


def _names(scenario: Scenario, tables: Sequence[Table]) -> tuple[str, ...]:
    """The models that take part, in the first table's order."""
    first = tables[0].names
    if scenario.models == "all":
        return tuple(dict.fromkeys(name for table in tables for name in table.names))
    names = tuple(name for name in first if all(name in table.names for table in tables))
    if not names:
        raise SettingsError(f"the tables share no model; {tables[0].name} has {some(first)}")
    return names


def _concatenated(tables: Sequence[Table], names: Sequence[str]) -> Table:
    """All rows; the cost unit is that of list prices, and stays."""
    catalogue = {model.name: model for table in reversed(tables) for model in table.models}
    check_models(names, tuple(catalogue))
    costs = all(table.has_cost for table in tables)
    if not costs and any(table.has_cost for table in tables):
        logger.warning("no costs are used, because a table has none")
    measures = {
        measure: np.concatenate([_columns(table, measure, names) for table in tables])
        for measure in ("quality", "cost_usd", "latency_s", "input_tokens", "output_tokens")
    }
    for measure in ("quality", "cost_usd"):
        measures[measure] = np.nan_to_num(measures[measure], nan=0.0) * (costs or measure == "quality")
    known = {k for k, v in measures.items() if not np.isnan(v).all()} | {"quality", "cost_usd"}
    kept: dict[str, Any] = {k: measures[k] for k in measures if k in known}  # Any: keywords of Table
    tasks = [table.tasks or ("",) * len(table) for table in tables]
    whole = Table(
        name="+".join(table.name for table in tables),
        prompt_ids=tuple(i for table in tables for i in table.prompt_ids),
        prompts=tuple(prompt for table in tables for prompt in table.prompts),
        tasks=tuple(task for part in tasks for task in part) if any(map(any, tasks)) else None,
        models=tuple(catalogue[name] for name in names),
        dropped=sum(table.dropped for table in tables),
        pool=tables[0].pool,
        **kept,
    )
    there = np.concatenate(
        [np.tile([name in table.names for name in names], (len(table), 1)) for table in tables]
    )
    unit = float((whole.cost_usd.sum(axis=0) / there.sum(axis=0)).max())
    return replace(whole, unit_usd=unit if costs else None)


def _columns(table: Table, measure: str, names: Sequence[str]) -> Array:
    """A measure of those models; NaN where the table has none."""
    values = table.measures().get(measure)
    columns = np.full((len(table), len(names)), np.nan)
    for i, name in enumerate(names):
        if values is not None and name in table.names:
            columns[:, i] = values[:, table.names.index(name)]
    return columns
