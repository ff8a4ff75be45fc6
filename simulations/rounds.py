"""The log as arrays: what was decided, with which probabilities, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import FormatError, ReplayError, SettingsError
from bandit_router.features.vectors import STOPGAP
from bandit_router.log import EventLog
from bandit_router.log.exporting import count_exported, read_exported
from bandit_router.log.registration import read_registration, router_names
from bandit_router.log.rounds import Part, count_rounds, read_parts
from bandit_router.policies import Policy
from bandit_router.values import Array
from simulations.offpolicy.batches import choose_many

DRAWN = ("exploit", "explore")  # reasons of decisions that a policy drew
REASONS = ("exploit", "explore", "sticky", "only", "rule", "fallback", "degraded")
_BLOCK = 65_536  # rows
_REASON = {reason: place for place, reason in enumerate(REASONS)}
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounds:
    """n decisions of one router over K models, in the order of time.

    Attributes
    ----------
    models : tuple of str
        Every model that was ever eligible.
    x : ndarray of shape (n, dim)
        Features; rows of another version are left out (`left_out`).
    at : ndarray of shape (n,)
        When they were decided [s since 1970].
    chosen : ndarray of int, shape (n,)
        Which model was drawn.
    probability : ndarray of shape (n,)
        Of the model drawn, exactly as logged.
    probabilities, mean, std, cost_usd : ndarray of shape (n, K)
        As logged; 0 and NaN where a model was not eligible. One that was may have a probability of 0 too.
    reward, weight : ndarray of shape (n,)
        NaN and 0 where nothing was heard.
    paid_usd : ndarray of shape (n,)
        What the call cost [USD]; NaN where nobody said.
    reason : ndarray of int, shape (n,)
        Why that model: a place in `REASONS`.
    moved : ndarray of bool, shape (n,)
        Whether another model served than the one drawn.
    head : ndarray of int, shape (n,)
        The row whose draw this one repeats: itself, where it was drawn anew; -1, where it is not here.
    cluster : ndarray of int, shape (n,)
        Rows of one conversation share a number.
    left_out : int
        Rows whose features have another version.
    """

    models: tuple[str, ...]
    x: Array
    at: Array
    chosen: Ints
    probability: Array
    probabilities: Array
    mean: Array
    std: Array
    cost_usd: Array
    reward: Array
    weight: Array
    paid_usd: Array
    reason: NDArray[np.int8]
    moved: Mask
    head: Ints
    cluster: Ints
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def drawn(self) -> Mask:
        """Whether a policy drew it and the drawn model served: only these say what another would get."""
        return (self.reason < len(DRAWN)) & ~self.moved

    def under(self, policy: Policy, *, floor: float = 0.0) -> Array:
        """Return the probabilities that a policy would have given, of shape (n, K), from what was believed.

        It judges by the promised rewards alone, whatever cost and latency were worth then.

        Parameters
        ----------
        policy : Policy
        floor : float
            Share of exploration over the eligible models.
        """
        there = eligible_of(self.probabilities, self.mean)
        return choose_many(policy, self.mean, self.std, there, floor=floor)


def eligible_of(probabilities: Array, mean: Array) -> Mask:
    """Return which models were there to choose from, of shape (n, K): those of which something was promised.

    One may have had a probability of 0: a policy without a floor does not draw all that it may.
    """
    eligible: Mask = (probabilities > 0) | ~np.isnan(mean)
    return eligible


def read(
    log: EventLog,
    router: str = "default",
    *,
    since: float | None = None,
    until: float | None = None,
    dtype: type[np.float32 | np.float64] = np.float64,
) -> Rounds:
    """Read a router's decisions of a period as arrays.

    Parameters
    ----------
    log : EventLog
    router : str
    since, until : float, optional
        The period [s since 1970].
    dtype : dtype
        Of the large arrays; with float32 they take half the room, and `probability` stays exact.

    Raises
    ------
    SettingsError
        The log has no such router.
    ReplayError
        It decided nothing in that period.
    """
    with log.reading() as connection:
        if read_registration(connection, router) is None:
            names = ", ".join(router_names(connection)) or "none at all"
            raise SettingsError(f"the log has no router {router!r}; it has {names}")
        n = count_rounds(connection, router, since=since, until=until)
        if not n:
            raise ReplayError(f"router {router!r} decided nothing in that period")
        return _read(n, dtype, lambda: read_parts(connection, router, since=since, until=until))


def read_folder(folder: Path, *, dtype: type[np.float32 | np.float64] = np.float64) -> Rounds:
    """Read an export (`bandit-router export`) as arrays.

    Raises
    ------
    FormatError
        It is none, or a newer version wrote it.
    """
    return _read(count_exported(folder), dtype, lambda: read_exported(folder))


def _read(n: int, dtype: type[np.float32 | np.float64], parts: Callable[[], Iterator[Part]]) -> Rounds:
    """Fill arrays with n rows; twice where versions of features took turns: then the newest is known late."""
    reading = _Reading(n, dtype)
    for part in parts():
        reading.add(part)
    if reading.lacking:
        version = reading.version
        del reading  # its room is needed
        reading = _Reading(n, dtype, version=version, known=True)
        for part in parts():
            reading.add(part)
    return reading.rounds()


@dataclass(slots=True)
class _Reading:
    """Arrays that are laid out once and filled chunk by chunk."""

    n: int
    dtype: type[np.float32 | np.float64]
    at: int = 0
    version: str = ""
    known: bool = False  # that this is the version to keep; else it is the newest so far
    models: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    talks: dict[str, int] = field(default_factory=dict)
    heads: list[tuple[int, str]] = field(default_factory=list)
    flat: dict[str, NDArray[Any]] = field(default_factory=dict)
    grid: NDArray[Any] = field(default_factory=lambda: np.empty((4, 0, 0)))
    x: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0)))
    filled: Mask = field(default_factory=lambda: np.empty(0, dtype=bool))
    id: NDArray[np.bytes_] = field(default_factory=lambda: np.empty(0, dtype="S36"))

    def add(self, part: Part) -> None:
        """Fill in some more rows."""
        rows = slice(self.at, min(self.at + len(part), self.n))
        part_rows = rows.stop - rows.start
        if not self.flat:
            self._lay_out()
        self.id[rows] = np.array(part.id[:part_rows], dtype="S36")
        for name, values in self._columns(part).items():
            self.flat[name][rows] = values[:part_rows]
        self._fill_grid(part, rows)
        self._fill_features(part, rows)
        turns = enumerate(part.head[:part_rows], self.at)
        self.heads += [(i, head) for i, head in turns if head is not None]
        self.at = rows.stop

    def _lay_out(self) -> None:
        names = ("at_us", "chosen", "reason", "version", "moved", "cluster")
        for name in names:
            self.flat[name] = np.zeros(self.n, dtype=np.int64)
        for name in ("probability", "reward", "weight", "cost_usd"):
            self.flat[name] = np.zeros(self.n)
        self.id = np.empty(self.n, dtype="S36")
        self.filled = np.zeros(self.n, dtype=bool)

    def _columns(self, part: Part) -> dict[str, NDArray[Any]]:
        chosen = _places(self.models, part.model)
        served = [here or there for here, there in zip(part.served, part.model, strict=True)]
        talk = [-1 if c is None else _place(self.talks, c) for c in part.conversation]
        single = -1 - np.arange(self.at, self.at + len(part))  # rows of their own
        return {
            **{name: getattr(part, name) for name in ("at_us", "probability", "reward", "weight")},
            "cost_usd": part.cost_usd,
            "chosen": chosen,
            "reason": np.array([_REASON[reason] for reason in part.reason]),
            "version": _places(self.versions, part.features_version),
            "moved": _places(self.models, served) != chosen,
            "cluster": np.where(np.array(talk) < 0, single, talk),
        }

    def _fill_grid(self, part: Part, rows: slice) -> None:
        found = part.candidates
        place = np.array([_place(self.models, name) for name in found.names], dtype=np.int64)
        self._widen()
        self.grid[0, rows] = 0.0
        self.grid[1:, rows] = np.nan
        row = found.row + rows.start
        inside = row < rows.stop
        self.grid[:, row[inside], place[found.code[inside]]] = found.numbers[inside, :4].T

    def _widen(self) -> None:
        """Make room for models that were not met before."""
        have = self.grid.shape[2]
        if have >= len(self.models):
            return
        wider = np.full((4, self.n, len(self.models)), np.nan, dtype=self.dtype)
        wider[0] = 0.0
        if have:
            wider[:, :, :have] = self.grid
        self.grid = wider

    @property
    def lacking(self) -> bool:
        """Whether there are rows of the version to keep that were met while another one seemed to be it."""
        own = self.flat["version"][: self.at] == self.versions[self.version]
        return bool((own & ~self.filled[: self.at]).any())

    def _fill_features(self, part: Part, rows: slice) -> None:
        """Keep one version's vectors: the newest that is not a stopgap."""
        if not self.known:
            self._turn_to(_newest(part.features_version, self.version))
        told = part.features_version[: rows.stop - rows.start]
        kept = [i for i, version in enumerate(told) if version == self.version]
        vectors = [part.features[i] for i in kept]
        if not vectors:
            return
        if not self.x.size:
            self.x = np.zeros((self.n, len(vectors[0]) // 8), dtype=self.dtype)
        dim = self.x.shape[1]
        if any(len(vector) != 8 * dim for vector in vectors):
            raise FormatError(f"features: vectors of version {self.version!r} differ in length")
        found = np.frombuffer(b"".join(vectors), dtype="<f8").reshape(-1, dim)
        if not np.isfinite(found).all():
            raise FormatError("features: expected finite numbers")
        at = rows.start + np.array(kept)
        self.x[at], self.filled[at] = found, True

    def _turn_to(self, version: str) -> None:
        """Forget the vectors of another version."""
        if version != self.version:
            self.version, self.x, self.filled = version, np.empty((0, 0)), np.zeros(self.n, dtype=bool)

    def rounds(self) -> Rounds:
        """Return all that was read, in the order of time."""
        names = sorted(self.models)
        heads = self._heads()
        kept = np.flatnonzero(self.flat["version"][: self.at] == self.versions[self.version])
        order = kept[np.argsort(self.flat["at_us"][kept], kind="stable")]
        back = np.full(self.n + 1, -1)
        back[order] = np.arange(len(order))
        still = len(order) == self.n and bool((order == np.arange(self.n)).all())

        def take(values: NDArray[Any]) -> NDArray[Any]:  # Any: of each array's own type
            return values if still else values[order]

        columns = [self.models[name] for name in names]
        self._turn(columns)
        grid = self.grid
        flat = {name: take(values) for name, values in self.flat.items()}
        rank = np.argsort(columns)
        return Rounds(
            models=tuple(names),
            x=take(self.x),
            at=flat["at_us"] / 1e6,
            chosen=rank[flat["chosen"]],
            probabilities=take(grid[0]),
            mean=take(grid[1]),
            std=take(grid[2]),
            cost_usd=take(grid[3]),
            paid_usd=flat["cost_usd"],
            reason=flat["reason"].astype(np.int8),
            moved=flat["moved"].astype(bool),
            head=back[take(heads)],
            cluster=flat["cluster"],
            left_out=self.at - len(order),
            **{name: flat[name] for name in ("probability", "reward", "weight")},
        )

    def _turn(self, columns: list[int]) -> None:
        """Bring the models into another order, a block of rows at a time: all at once would double the room."""
        for start in range(0, self.n, _BLOCK):
            rows = slice(start, start + _BLOCK)
            self.grid[:, rows] = self.grid[:, rows][:, :, columns]

    def _heads(self) -> Ints:
        """The place of the decision that each row repeats; the place after the last where it is missing."""
        heads = np.arange(self.n)
        if self.heads:
            rows, named = zip(*self.heads, strict=True)
            wanted = np.array(named, dtype="S36")
            at = np.minimum(np.searchsorted(self.id[: self.at], wanted), self.at - 1)
            heads[list(rows)] = np.where(self.id[at] == wanted, at, self.n)
        return heads


def _newest(versions: Sequence[str], so_far: str) -> str:
    """The last that is not a stopgap, if there is one."""
    whole = [version for version in versions if not version.endswith(STOPGAP)]
    return whole[-1] if whole else so_far or versions[-1]


def _place(places: dict[str, int], name: str) -> int:
    return places.setdefault(name, len(places))


def _places(places: dict[str, int], names: Sequence[str]) -> Ints:
    for name in dict.fromkeys(names):
        _place(places, name)
    return np.array([places[name] for name in names], dtype=np.int64)
