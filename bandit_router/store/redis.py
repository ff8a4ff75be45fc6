"""Beliefs that all workers share, in Redis (6.2 and later), Valkey or Redis Cluster.

Of each router the server holds a stream of deltas, a snapshot of the sums up to one of its entries, and the
keys of the deltas beyond the watermark, by which a delta counts once. Whatever changes these is one script.

Nothing expires: what is left of a router whose log is gone are the five keys ``bandit_router:{name@made}:*``,
which may be deleted at any time, as may those of a living one, which is folded again from its log.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bandit_router.errors import (
    BanditRouterError,
    FormatError,
    NewerFormatError,
    StaleGenerationError,
    StoreUnavailableError,
)
from bandit_router.evidence import Delta, Evidence, evidence_from_bytes, evidence_to_bytes
from bandit_router.store.contract import Changes, Snapshot
from bandit_router.store.frames import KEY_LIMIT, delta_to_bytes, deltas_from_bytes
from bandit_router.store.lua import APPEND, COMPACT, FORMAT, READ, REPLACE
from bandit_router.store.server import BLOCK_S, Server

logger = logging.getLogger(__name__)

_PIECE = 1_024  # deltas that one script appends
_PIECE_BYTES = 2**20
_LONG_BYTES = 2**23  # after a snapshot, that call for the next one whatever their number
_LEASE_MS = 5_000  # how long others leave it to the one who is at it
_PATIENCE = 5.0  # time limits of one call that an append of many pieces may take
_TOKEN_BITS = 32


class RedisStore:
    """Beliefs that live on a server, and are shared by all that name it.

    It connects when first asked, in a forked process anew. Appends of up to 1,024 deltas and 1 MB are seen as a
    whole; larger ones come in pieces. Any call may be tried again: what was counted does not count again.

    Parameters
    ----------
    server : Server
    snapshot_every : int
        After how many appends the sums are folded into a new snapshot.

    Examples
    --------
    >>> RedisStore.from_url("redis://:secret@localhost:6379/0?timeout=0.5")
    RedisStore.from_url('redis://:***@localhost:6379/0')
    """

    shared = True

    def __init__(self, server: Server, *, snapshot_every: int = 1_000) -> None:
        self._server, self._snapshot_every = server, snapshot_every
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, snapshot_every: int = 1_000) -> RedisStore:
        """Return the store at ``redis://``, ``rediss://`` or ``unix://``; the server need not be up yet.

        Options of the URL are ``timeout`` (how long one call waits for an answer [s]; 1 by default), ``slow``
        (the share of it from which on `trouble` says that answers are slow; 0.5 by default), ``db``,
        ``client_name`` and the driver's ``ssl_...``. A cluster is recognised when the server is first asked.

        Raises
        ------
        SettingsError
            A URL that does not name a server.
        """
        return cls(Server(url, patient=True), snapshot_every=snapshot_every)

    def __repr__(self) -> str:
        return f"RedisStore.from_url({self._server.address!r})"

    @property
    def trouble(self) -> str | None:
        """As `PosteriorStore.trouble`: the server does not answer, or slowly."""
        return self._server.trouble

    def skew_s(self, clock: Callable[[], float] = time.time) -> float:
        """Return how far a clock is ahead of the server's [s].

        Raises
        ------
        StoreUnavailableError
        """
        return self._server.skew_s(clock)

    def append(
        self,
        router: str,
        deltas: Sequence[Delta],
        *,
        generation: int,
        complete: int,
        after: int | None = None,
    ) -> int:
        """As `PosteriorStore.append`; one of many pieces gives up after five time limits of a call."""
        names, new = _keys(router), 0
        deadline = time.monotonic() + _PATIENCE * self._server.timeout_s
        pieces = list(_pieces(deltas))
        for i, piece in enumerate(pieces):
            if time.monotonic() > deadline:
                took = f"{i} of {len(pieces)} pieces took too long"
                raise StoreUnavailableError(f"store: {self._server.address}: {took}")
            contained = complete if i == len(pieces) - 1 else 0
            seen = "" if after is None else _id_of(after)
            args = (generation, contained, seen, secrets.randbits(_TOKEN_BITS), piece.dim)
            answer = self._server.run(APPEND, names, *args, len(piece.keys), *piece.keys, *piece.frames)
            _, counted, entries, size = _granted(answer, router, f"generation {generation}")
            new += counted
        if entries >= self._snapshot_every or size > _LONG_BYTES:
            self._compact(router, generation)
        return new

    def read(self, router: str, *, generation: int, after: int | None) -> Changes | Snapshot | None:
        """As `PosteriorStore.read`."""
        seen = "" if after is None else _id_of(after)
        answer = self._server.run(READ, _keys(router), generation, seen)
        kind = _granted(answer, router, f"generation {generation}")[0]
        if kind == b"nothing":
            return None
        if kind == b"changes":
            return Changes(position=_position_of(answer[1]), deltas=tuple(deltas_from_bytes(answer[2])))
        return _folded(answer)

    def replace(self, router: str, snapshot: Snapshot) -> None:
        """As `PosteriorStore.replace`."""
        half_life = "" if snapshot.half_life_s is None else repr(snapshot.half_life_s)
        args = (snapshot.generation, snapshot.complete, half_life, _dim_of(snapshot.evidence))
        beyond = sorted(key for key in snapshot.beyond if key > 2 * snapshot.complete + 1)
        if beyond and beyond[-1] >= KEY_LIMIT:
            raise ValueError(f"beyond: expected keys below 2^53, got {beyond[-1]}")
        sums = evidence_to_bytes(snapshot.evidence)
        token = secrets.randbits(_TOKEN_BITS)
        answer = self._server.run(REPLACE, _keys(router), *args, token, sums, *beyond)
        _granted(answer, router, f"one before {snapshot.generation}")

    def wait(self, router: str, *, after: int, timeout_s: float) -> bool:
        """As `PosteriorStore.wait`; another thread's `close` ends it within a second."""
        deadline = time.monotonic() + timeout_s
        try:
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                if self._moved(router, _id_of(after), left):
                    return True
        except Exception:  # a connection that is closed under a waiting call fails in many ways
            if not self._closed:
                raise
        return False

    def _moved(self, router: str, seen: str, left_s: float) -> bool:
        """Whether something came within one blocking call, or the server has another past by now."""
        head, stream, *_ = _keys(router)
        block_ms = max(1, round(1000 * min(left_s, BLOCK_S)))

        def listen(client: Any) -> Any:  # Any: as in Server
            return client.xread({stream: seen}, count=1, block=block_ms)

        if self._server.ask(listen, blocking=True):
            return True
        last = self._server.ask(lambda client: client.hget(head, "position"))
        return last is not None and last.decode(errors="replace") != seen

    def close(self) -> None:
        """As `PosteriorStore.close`."""
        self._closed = True
        self._server.close()

    def _compact(self, router: str, generation: int) -> None:
        """Fold the stream into a new snapshot, if nobody else is at it; the deltas are safe either way."""
        names = _keys(router)
        try:
            if not self._server.ask(lambda client: client.set(names[-1], "", nx=True, px=_LEASE_MS)):
                return
            answer = self._server.run(READ, names, generation, "")
            if answer[0] != b"snapshot":
                return
            _, position, held, _, _, size, *_ = answer
            sums = evidence_to_bytes(_folded(answer).evidence)
            self._server.run(COMPACT, names, held, position, size, sums)
        except BanditRouterError as error:
            logger.warning("router %s: its stream stays long: %s", router, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Deltas that one script appends, as it takes them."""

    dim: int
    keys: Sequence[int]
    frames: Sequence[bytes]


def _keys(router: str) -> tuple[str, ...]:
    """The keys of one router, in one slot of a cluster."""
    tag = f"bandit_router:{{{quote(router, safe='')}}}"
    return tuple(f"{tag}:{part}" for part in ("head", "stream", "keys", "snapshot", "lease"))


def _id_of(position: int) -> str:
    """The name of a position in the stream; one that is never there, where it cannot be one."""
    n, token = position >> _TOKEN_BITS, position & (2**_TOKEN_BITS - 1)
    return f"{n}-{token}" if 0 < n < 2**63 else "0-0"


def _position_of(name: bytes) -> int:
    n, token = map(int, name.split(b"-"))
    return n << _TOKEN_BITS | token


def _pieces(deltas: Sequence[Delta]) -> Iterator[_Piece]:
    """At least one piece, if need be an empty one.

    Raises
    ------
    ValueError
        Features of different lengths, or something that is not finite.
    """
    frames = [delta_to_bytes(delta) for delta in deltas]
    dims = {len(delta.observation.x) for delta in deltas}
    if len(dims) > 1:
        raise ValueError(f"x: expected one shape, got {sorted(dims)} features")
    size = min(_PIECE, max(1, _PIECE_BYTES // max(map(len, frames), default=1)))
    for start in range(0, max(1, len(deltas)), size):
        keys = [delta.key for delta in deltas[start : start + size]]
        yield _Piece(dim=next(iter(dims), 0), keys=keys, frames=frames[start : start + size])


def _granted(answer: list[Any], router: str, wanted: str) -> list[Any]:
    """What a script answered, unless it refused."""
    kind = answer[0]
    if kind not in (b"stale", b"newer", b"format", b"dim"):
        return answer
    what = answer[1].decode(errors="replace")
    if kind == b"newer":
        raise NewerFormatError(f"store: {router!r} is of format {what}, this program knows {FORMAT}")
    if kind == b"stale":
        held = "nothing" if what == "nil" else f"generation {what}"
        raise StaleGenerationError(f"store: {router!r} holds {held}, not {wanted}")
    if kind == b"format":
        raise FormatError(f"store: {router!r} is damaged: {what!r}")
    raise ValueError(f"x: expected {what} features, as {router!r} has")


def _folded(answer: list[Any]) -> Snapshot:
    """The snapshot that `READ` answered with, and what came after it."""
    _, position, generation, complete, half_life, _, sums, frames, keys = answer
    evidence, half_life_s = evidence_from_bytes(sums), float(half_life) if half_life else None
    try:
        for delta in deltas_from_bytes(frames):
            if delta.model not in evidence:
                evidence[delta.model] = Evidence(len(delta.observation.x), half_life=half_life_s)
            evidence[delta.model].add(delta.observation)
    except FormatError:  # which is a ValueError too, and may be a newer one
        raise
    except ValueError as error:
        raise FormatError(f"store: deltas that do not fit: {error}") from error
    return Snapshot(
        generation=generation,
        position=_position_of(position),
        complete=complete,
        half_life_s=half_life_s,
        evidence=evidence,
        beyond=frozenset(map(int, keys.split())),
    )


def _dim_of(evidence: Mapping[str, Evidence]) -> int:
    dims = {sums.dim for sums in evidence.values()}
    if len(dims) > 1:
        raise ValueError(f"evidence: expected one length of features, got {sorted(dims)}")
    return next(iter(dims), 0)
