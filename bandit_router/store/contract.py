"""What a store of beliefs does; the words stand in the package's docstring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bandit_router.evidence import Delta, Evidence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """All evidence of a router at one position.

    Attributes
    ----------
    generation : int
        Which fold of the log it belongs to.
    position : int
        Deltas up to here are contained.
    complete : int
        Reward rows up to here are contained.
    beyond : frozenset of int
        Keys of deltas of later reward rows that are contained too.
    half_life_s : float or None
        How long it takes until evidence counts half [s].
    evidence : mapping of str to Evidence
        Of each model; the reader's own copy.
    """

    generation: int
    position: int
    complete: int
    half_life_s: float | None
    evidence: Mapping[str, Evidence]
    beyond: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """The deltas after one position, up to another."""

    position: int
    deltas: Sequence[Delta]


class PosteriorStore(Protocol):
    """Beliefs shared by all workers of a router.

    Attributes
    ----------
    shared : bool
        Whether other processes write to it too, so that it pays to `wait`.
    trouble : str, optional
        Why nobody should wait for it just now: it is away, or slow. None where it is well. Asking costs
        nothing; a store that never is either may do without the attribute.
    """

    @property
    def shared(self) -> bool: ...

    @property
    def trouble(self) -> str | None: ...

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        """Count each delta once; return how many were new.

        Parameters
        ----------
        router : str
        deltas : sequence of Delta
        generation : int
            Which fold of the log they belong to.
        complete : int
            With these, all reward rows up to here are contained.
        after : int, optional
            The position that `complete` goes by: what `read` last gave. Where the store does not know it, it
            lost something meanwhile: the deltas count, but `complete` stays as it was.

        Raises
        ------
        StaleGenerationError
            The store holds another generation, or nothing.
        StoreUnavailableError
            It does not answer; some of the deltas may have been counted.
        """
        ...

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        """Return what came after a position of a generation.

        Returns
        -------
        Changes, Snapshot or None
            A snapshot where `after` is None, too long ago, or of another generation; None where the
            store holds nothing of this router.

        Raises
        ------
        FormatError
            What is held is damaged.
        NewerFormatError
            What is held is of a newer version of this program.
        StoreUnavailableError
        """
        ...

    def wait(self, router: str, *, after: int, timeout_s: float) -> bool:
        """Wait until `read` may have something new after a position; False where time ran out.

        Raises
        ------
        StoreUnavailableError
        """
        ...

    def replace(self, router: str, snapshot: Snapshot) -> None:
        """Begin the snapshot's generation, with its evidence; also in the place of what is damaged.

        Raises
        ------
        NewerFormatError
            What is held is of a newer version of this program, and stays.
        StaleGenerationError
            The store holds this generation already, or a later one.
        StoreUnavailableError
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
