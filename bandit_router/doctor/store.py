"""The store: does it answer, will it keep what it is given, and does it hold what the log has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from bandit_router.doctor.finding import Finding, ok, problem, unseen, warning
from bandit_router.doctor.log import skewed
from bandit_router.doctor.reader import Reader
from bandit_router.errors import BanditRouterError, FormatError, NewerFormatError
from bandit_router.log import tables as t
from bandit_router.log.registration import Registration
from bandit_router.log.rows import to_us
from bandit_router.store import PosteriorStore, Snapshot
from feedback.thresholds import Thresholds

OLDEST = (6, 2)  # Redis
FULL = 0.8  # of the memory that it may take
LATE_S = 60.0  # rewards older than that should be in the store
_LOOKED_AT = 1_000  # rewards
Info = Mapping[str, Any]  # Any: texts and numbers, as Redis tells them


def check_store(url: str, thresholds: Thresholds, *, clock: Callable[[], float]) -> Iterator[Finding]:
    """Whether the server answers, and how it is set up."""
    if url.partition("://")[0] == "memory":
        yield ok("store", "beliefs live in each process, and follow the log")
        return
    from bandit_router.store.server import Server  # an extra

    server = Server(url)
    try:
        infos = _infos(server.ask(lambda client: client.info()))
        yield ok("store", f"{server.address} answers")
        for node, info in infos.items():
            yield from judged(info, node)
        yield skewed("Redis", server.skew_s(clock), thresholds)
    except BanditRouterError as error:
        yield problem("store", f"{str(error).removeprefix('store: ')}: start it, or correct its URL")
    finally:
        server.close()


def _infos(told: Info) -> dict[str, Info]:
    """What each node of a cluster tells; of a single server, under no name."""
    return {"": told} if "redis_version" in told else dict(told)


def judged(info: Info, node: str = "") -> Iterator[Finding]:
    """Judge what a server tells of itself."""
    at = f"{node}: " if node else ""
    version = str(info["redis_version"])
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        yield problem("store version", f"{at}{version}: expected Redis 6.2 or later")
    else:
        yield ok("store version", f"{at}{version}")
    if info.get("role", "master") != "master":
        yield problem("store role", f"{at}it is a replica, and cannot be written to: name the primary")
    yield _memory(info, at)
    yield _persistence(info, at)


def _memory(info: Info, at: str) -> Finding:
    policy, limit, used = (
        info.get("maxmemory_policy"),
        info.get("maxmemory", 0),
        info.get("used_memory", 0),
    )
    if policy != "noeviction" and limit:
        return problem(
            "store memory",
            f"{at}maxmemory-policy is {policy}: it may drop beliefs at any time; set noeviction",
        )
    if limit and used > FULL * limit:
        return warning("store memory", f"{at}{used / limit:.0%} of maxmemory are used: give it more")
    if policy != "noeviction":
        return warning(
            "store memory", f"{at}maxmemory-policy is {policy}: set noeviction before setting maxmemory"
        )
    return ok("store memory", f"{at}noeviction")


def _persistence(info: Info, at: str) -> Finding:
    for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"):
        if info.get(name, "ok") != "ok":
            return problem(
                "store persistence",
                f"{at}{name} is {info[name]}: it may refuse writes; see its disk and log",
            )
    if not info.get("aof_enabled"):
        return ok(
            "store persistence", f"{at}no append-only file: after a restart beliefs are folded again"
        )
    return ok("store persistence", f"{at}append-only file")


def check_beliefs(
    reader: Reader, store: PosteriorStore, registration: Registration, *, now: float
) -> Finding:
    """Whether the store holds what the log has."""
    name = registration.name
    if not store.shared:
        return unseen("beliefs", "they live in each process: ask /readyz of each", router=name)
    try:
        held = store.read(registration.book, generation=registration.generation, after=None)
    except NewerFormatError as error:
        return problem(
            "beliefs", f"{error}: finish the upgrade, or empty the store to go back", router=name
        )
    except FormatError as error:
        return warning("beliefs", f"{error}: a worker folds them again", router=name)
    except BanditRouterError as error:
        return unseen("beliefs", str(error), router=name)
    if not isinstance(held, Snapshot) or held.generation != registration.generation:
        return warning(
            "beliefs", "the store has none of this generation: a worker folds them", router=name
        )
    missing = reader.read(lambda connection: missing_rewards(connection, name, held, now - LATE_S))
    if missing:
        late = f"{missing} rewards older than {LATE_S:.0f} s are not in the store"
        return problem(
            "beliefs", f"{late}: see that workers run, and what their /readyz says", router=name
        )
    observations = sum(evidence.n for evidence in held.evidence.values())
    return ok("beliefs", f"the store holds {observations:,.0f} observations and lacks none", router=name)


def missing_rewards(connection: sa.Connection, router: str, held: Snapshot, before: float) -> int:
    """Return how many of the next reward rows beyond a snapshot's watermark it does not contain."""
    c = t.rewards.c
    rows = sa.select(c.seq).where(c.router == router, c.seq > held.complete, c.made_us < to_us(before))
    seqs = connection.execute(rows.order_by(c.seq).limit(_LOOKED_AT)).scalars()
    # Each row is at most two deltas: the old reward taken out, the new one put in.
    return sum(held.beyond.isdisjoint((2 * seq, 2 * seq + 1)) for seq in seqs)
