"""SharedBook: what a store holds of one router, as one worker uses it: followed, and never trusted blindly.

The log is the truth, so whatever is wrong with the store has one remedy, to fold the log anew; the question is
only when. What a newer version of this program wrote is left alone: those who know it look after it. What is
damaged is replaced. And where the store has seen more than the log, that was restored from an older backup:
numbers of its reward rows come again, with other contents, and the store would take them as counted. Then a
generation after both begins.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from bandit_router.errors import (
    FormatError,
    NewerFormatError,
    StaleGenerationError,
    StoreUnavailableError,
)
from bandit_router.evidence import Delta
from bandit_router.log import EventLog
from bandit_router.log import tables as t
from bandit_router.log.following import Place, last_number
from bandit_router.log.registration import begin_generation, hold, versions
from bandit_router.log.writer import committed
from bandit_router.store import Changes, PosteriorStore, Snapshot

logger = logging.getLogger(__name__)

NEWER_S = 2.0  # how often what a newer version wrote is looked at
MEND_S = 10.0  # how often a worker may begin a new generation by itself, at the most


class SharedBook:
    """The beliefs of one router in a store, as one worker uses them.

    Parameters
    ----------
    log : EventLog
    store : PosteriorStore
    router : str
        A router that the log has.

    Attributes
    ----------
    name : str
        Under what the store keeps them: `Registration.book`.
    mended : int
        How often this worker replaced them, for they were damaged, or had seen more than the log.
    """

    def __init__(self, log: EventLog, store: PosteriorStore, router: str) -> None:
        self.name, self.mended = router, 0
        self._log, self._store, self._router = log, store, router
        self._begun_at = -math.inf
        self._newer: tuple[float, str] | None = None  # when it was found so, and what was said

    @property
    def trouble(self) -> str | None:
        """Why nobody should wait for the store: it is away, or slow."""
        trouble = getattr(self._store, "trouble", None)  # a host's own store may have none
        return None if trouble is None else f"store: {trouble}"

    @property
    def newer(self) -> bool:
        """Whether a newer version of this program wrote it, as far as is known."""
        return self._newer is not None

    def read(self, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        """As `PosteriorStore.read`.

        Raises
        ------
        StoreUnavailableError
            Also where a newer version of this program wrote what is held.
        FormatError
            It is damaged.
        """
        with self._understanding():
            found = self._store.read(self.name, generation=generation, after=after)
        self._newer = None
        return found

    def append(self, deltas: Sequence[Delta], *, generation: int, complete: int, after: int) -> int:
        """As `PosteriorStore.append`, with the errors of `read`."""
        with self._understanding():
            return self._store.append(
                self.name, deltas, generation=generation, complete=complete, after=after
            )

    def wait(self, *, after: int, timeout_s: float) -> bool:
        """As `PosteriorStore.wait`."""
        return self._store.wait(self.name, after=after, timeout_s=timeout_s)

    def join(self, own: Snapshot, *, dim: int) -> Snapshot:
        """Return what the store holds of a generation: this fold, where it held an older one or none.

        Parameters
        ----------
        own : Snapshot
            The fold.
        dim : int
            Of the features.

        Raises
        ------
        StaleGenerationError
            The log has another generation by now.
        FormatError
            What is held is damaged, and was a moment ago.
        StoreUnavailableError
        """
        try:
            found = self._find(own, dim)
        except FormatError as error:
            self._replace_damaged(own, error)
            found = self._find(own, dim)
        else:
            if found is None:
                self._store.replace(self.name, own)
                found = self._find(own, dim)
        if found is None:
            forgot = "it has lost what it was given just now: is its memory full?"
            raise StoreUnavailableError(f"store: {self._router!r}: {forgot}")
        if found.generation != own.generation:
            raise StaleGenerationError(f"store: {self._router!r} was folded anew meanwhile")
        return found

    def check(self, rewards: Place, outcomes: Place, *, generation: int) -> None:
        """See that the log still has what was read of it; else begin a new generation."""
        for table, place in ((t.rewards, rewards), (t.outcomes, outcomes)):
            if place.last > self._last_number(table):
                why = f"rows of {table.name} up to {place.last} are gone: the log was restored from a backup"
                self._begin_anew(why, generation)
                return

    def _find(self, own: Snapshot, dim: int) -> Snapshot | None:
        """What is held, where that is of `own`'s generation or a later one."""
        found = self.read(generation=own.generation, after=None)
        if not isinstance(found, Snapshot) or found.generation < own.generation:
            return None
        if found.generation == own.generation:
            check_fit(found, dim)
        self._check_against_log(found, own.generation)
        return found

    def _replace_damaged(self, own: Snapshot, error: FormatError) -> None:
        why = f"what the store holds is damaged: {error}"
        try:
            self._store.replace(self.name, own)
        except (
            StaleGenerationError
        ):  # its generation can still be read, and only a later one takes its place
            self._begin_anew(why, own.generation)
            raise
        self.mended += 1
        logger.warning("router %s: %s; replaced by a fold of the log", self._router, why)

    def _check_against_log(self, found: Snapshot, generation: int) -> None:
        """See that the store has not seen more than the log: what it holds was in the log before."""
        seen = max(found.complete, max(found.beyond, default=0) // 2)
        if found.generation > generation:
            current = self._log.read(lambda connection: versions(connection, self._router))
            if current is None or current[1] >= found.generation:
                return
            what = f"generation {found.generation}, after the log's {current[1]}"
        elif seen > self._last_number(t.rewards):
            what = f"reward rows up to {seen}, which the log does not have"
        else:
            return
        why = f"the store has seen {what}: the log was restored from an older backup"
        self._begin_anew(why, generation, after=found.generation)
        raise StaleGenerationError(f"store: {self._router!r}: {why}")

    def _last_number(self, table: sa.Table) -> float:
        """The last number that a row of a table got; infinite where that is not known."""
        last = self._log.read(lambda connection: last_number(connection, table))
        return math.inf if last is None else last

    def _begin_anew(self, why: str, generation: int, *, after: int = 0) -> None:
        """Begin a new generation in the log, unless somebody has.

        Raises
        ------
        StoreUnavailableError
            This worker did a moment ago, and it helped nothing.
        """
        if time.monotonic() - self._begun_at < MEND_S:
            raise StoreUnavailableError(f"store: {self._router!r}: again: {why}")
        self._begun_at = time.monotonic()
        begun = committed(self._log.write(lambda c: _begin_once(c, self._router, generation, after)))
        if begun is not None:
            self.mended += 1
            logger.warning("router %s: %s; folded anew as generation %d", self._router, why, begun)

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Leave alone what a newer version wrote, and look at it now and then only."""
        if self._newer is not None and time.monotonic() - self._newer[0] < NEWER_S:
            raise StoreUnavailableError(self._newer[1])
        try:
            yield
        except NewerFormatError as error:
            said = f"{error}: it is of a newer version: upgrade this worker"
            self._newer = (time.monotonic(), said)
            raise StoreUnavailableError(said) from error


def check_fit(snapshot: Snapshot, dim: int) -> None:
    """See that a snapshot holds sums of so many features.

    Raises
    ------
    FormatError
        It holds others.
    """
    for model, sums in snapshot.evidence.items():
        if sums.dim != dim or sums.half_life != snapshot.half_life_s:
            raise FormatError(f"store: the sums of {model!r} do not fit: {sums!r}")


def _begin_once(connection: sa.Connection, router: str, generation: int, after: int) -> int | None:
    """Begin a new generation where the log still has the given one; return it."""
    hold(connection, router)
    current = versions(connection, router)
    if current is None or current[1] != generation:
        return None
    return begin_generation(connection, router, after=after)
