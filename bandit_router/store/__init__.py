"""Where workers share their beliefs right now.

The contract of a `PosteriorStore`, in words:

- It keeps, for each router apart, the sums of evidence of one *generation*, and the deltas that made them.
- A store that has seen nothing holds no evidence: what follows from it is the prior.
- Deltas may come in any order, from any thread or worker: the sums are the same.
- A delta counts once, however often it comes; its key tells. Keys up to `complete` are known to be
  contained and need not be remembered one by one.
- A delta of another generation is refused (`StaleGenerationError`), never counted.
- `complete` goes by a position that was read: where the store does not know that one, it does not move.
- `read` gives what came after a position, or, where that is no longer known, a whole snapshot. A reader
  beside a writer sees all of an append or nothing of it; only one of more than a thousand deltas may come in
  pieces.
- What a snapshot contains is said exactly: reward rows up to `complete`, and the deltas `beyond` it. A store
  that lost something (it was flushed, or came back with an older dump) says so by giving a snapshot.
- `replace` begins a new generation at once, for all readers.

Versions of this program may work side by side on one store. What a store holds carries versions: the keys
together (the head's ``format``), each delta, and the sums of a snapshot. A worker that meets a newer one
(`NewerFormatError`) goes on choosing and logging with the beliefs that it has, hands over and takes in nothing,
overwrites nothing, and says so in its health; once the newer data is gone, or it runs newer code, it goes on by
itself. Nothing is lost meanwhile: every worker reads all reward rows from the log. What is damaged in a version
that the worker knows (`FormatError`) is folded anew from the log, as a new generation.

So a version N+1 that writes another format comes in two steps. First a release that reads both and writes the
old one, on every worker: readers first. Then a release, or a setting, that writes the new one. A change of keys
or of stream entries must raise the head's ``format``; one of deltas or sums only, their own version. The way
back is a new generation: empty the store, or ``bandit-router rebuild``, run by the older program after the
store was emptied.
"""

from __future__ import annotations

from bandit_router.errors import SettingsError
from bandit_router.store.contract import Changes, PosteriorStore, Snapshot
from bandit_router.store.memory import MemoryStore

__all__ = ["Changes", "MemoryStore", "PosteriorStore", "Snapshot", "open_store"]


def open_store(url: str) -> PosteriorStore:
    """Return the store that a URL names: ``memory://``, ``redis://``, ``rediss://`` or ``unix://``.

    Raises
    ------
    SettingsError
        No such kind of store, a bad URL, or the driver is not installed.
    """
    kind, found, _ = url.partition("://")
    if kind == "memory":
        return MemoryStore()
    if kind not in ("redis", "rediss", "unix"):
        got = f", got {kind!r}" if found else ""  # else a password may be in it
        raise SettingsError(f"store: expected memory:// or redis://{got}")
    try:
        from bandit_router.store.redis import RedisStore  # an extra, and not needed by most
    except ModuleNotFoundError as error:
        raise SettingsError("store: Redis needs: pip install 'bandit-router[redis]'") from error
    return RedisStore.from_url(url)
