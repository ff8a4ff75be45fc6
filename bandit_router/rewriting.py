"""Rewriting: what leaves an archive afterwards: users who are erased, and texts that expire.

What is rewritten is a new file; the log names it, with what it has taught, in one transaction, and the old one
is deleted before an erasure counts as done. So a run that dies is repeated, and changes nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bandit_router.errors import ArchiveError, StaleGenerationError
from bandit_router.log import EventLog
from bandit_router.log import tables as t
from bandit_router.log.archive import LOCK_S, Archive, alone, as_json, kept, readable, schema_of
from bandit_router.log.archiving import Entry, move_on, read_entries, read_entry, relocate, write_prints
from bandit_router.log.bases import Base, read_bases, write_base
from bandit_router.log.checkpoints import drop_checkpoints, exchange
from bandit_router.log.erasure import Forgotten
from bandit_router.log.forgotten import Erasure, hash_user, read_erasures, strike_off
from bandit_router.log.hearing import votes_of
from bandit_router.log.lens import Lens
from bandit_router.log.refolding import refold
from bandit_router.log.registration import begin_generation, router_names
from bandit_router.log.rows import Row, to_us
from bandit_router.retention import TRIES, Sight, all_prints, archive_of, hold_all, see, transact
from bandit_router.rewards import reward

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)
_ABOUT = ("texts", "outcomes", "feedback", "rewards", "judgements")  # that name their decision
_CHUNK = 500  # ids in one statement
_COUNTED = ("decisions", "outcomes", "feedback", "rewards", "texts")


def erase_archived(
    log: EventLog, *, now: float, of: Collection[str] | None = None, patience_s: float = LOCK_S
) -> Forgotten:
    """Look through the archives for users who asked to be erased, and rewrite what holds something of them.

    Parameters
    ----------
    log : EventLog
    now : float
        [s since 1970]
    of : collection of str, optional
        Only users with these hashes.
    patience_s : float
        How long another one who changes files is waited for [s].

    Returns
    -------
    Forgotten
        How many rows of each kind were erased, and how many archives are still to be looked through, for
        their files are out of reach, or in use.
    """
    total = Forgotten()
    for entry in log.read(read_entries):
        asked = _asked(log, of, entry.id)
        if not asked or not (readable() and archive_of(entry).reachable()):
            continue
        try:
            with alone(entry.folder, patience_s=patience_s):
                total += _again(partial(_erase, log, entry.id, asked, now))
        except ArchiveError as error:
            logger.warning("an erasure is not finished yet: %s", error)
    left = {archive for erasure in _asked(log, of) for archive in erasure.left}
    return total + Forgotten(archives_pending=len(left))


def _asked(log: EventLog, of: Collection[str] | None, archive: str | None = None) -> list[Erasure]:
    return [
        erasure
        for erasure in log.read(read_erasures)
        if (of is None or erasure.user_hash in of) and (archive is None or archive in erasure.left)
    ]


def _again(rewrite: Callable[[], Forgotten]) -> Forgotten:
    """Do it again where something changed meanwhile."""
    for attempt in range(TRIES):
        try:
            return rewrite()
        except StaleGenerationError:
            if attempt == TRIES - 1:
                raise
    raise AssertionError


@dataclass(slots=True)
class _Cut:
    """What leaves one archive.

    Attributes
    ----------
    decisions : dict of str to Erasure
        Decisions that were made for somebody who is erased.
    words : dict of str to Erasure
        Words of theirs about decisions that stay.
    revised : set of str
        Those decisions.
    headless : bool
        Whether turns that stay repeat a draw that goes.
    """

    decisions: dict[str, Erasure] = field(default_factory=dict)
    words: dict[str, Erasure] = field(default_factory=dict)
    revised: set[str] = field(default_factory=set)
    headless: bool = False


def _erase(log: EventLog, identifier: str, asked: Sequence[Erasure], now: float) -> Forgotten:
    """Erase users from one archive, and strike it off their lists."""
    entry = log.read(partial(read_entry, identifier=identifier))
    assert entry is not None
    archive = archive_of(entry)
    archive.check()
    cut = _find(archive, asked)
    counts: dict[str, int] = {}
    if cut.decisions or cut.words:
        sights = {router: see(log, router) for router in sorted({e.router for e in asked})}
        written, counts = _without(archive, cut, sights, number=entry.revision, now=now)
        bases = [
            _refolded(written, base, sights[router].lens)
            for router in sights
            for base in log.read(partial(read_bases, router=router))
            if base.archive == entry.id
        ]
        exchanged = partial(_exchange, entry=entry, archive=written, sights=sights, cut=cut)
        transact(log, partial(exchanged, prints=list(all_prints(written)), bases=bases))
        archive = written
    archive.sweep()
    transact(log, partial(_strike, asked=asked, archive=entry.id, cut=cut, now=now))
    return Forgotten(**counts)


def _find(archive: Archive, asked: Sequence[Erasure]) -> _Cut:
    erasures = {(erasure.router, erasure.user_hash): erasure for erasure in asked}
    hashed = cache(hash_user)

    def theirs(router: str, user: str | None) -> Erasure | None:
        return None if user is None else erasures.get((router, hashed(router, user)))

    cut = _Cut()
    for row in _rows(archive, "decisions", "id", "router", "user"):
        if (erasure := theirs(row["router"], row["user"])) is not None:
            cut.decisions[row["id"]] = erasure
    for row in _rows(archive, "feedback", "id", "decision_id", "router", "source"):
        erasure = theirs(row["router"], row["source"])
        if erasure is not None and row["decision_id"] not in cut.decisions:
            cut.words[row["id"]] = erasure
            cut.revised.add(row["decision_id"])
    heads = _rows(archive, "decisions", "head") if cut.decisions else ()
    cut.headless = any(row["head"] in cut.decisions for row in heads)
    return cut


def _rows(
    archive: Archive, table: str, *columns: str
) -> Iterator[dict[str, Any]]:  # Any: of each column
    for group in archive.groups(table, columns or None):
        yield from group.to_pylist()


def _without(
    archive: Archive, cut: _Cut, sights: Mapping[str, Sight], *, number: int, now: float
) -> tuple[Archive, dict[str, int]]:
    """Write an archive without what is cut out of it; return it, and how many rows of each kind went."""
    before, written = archive, archive
    keep = partial(kept, keep=lambda row: row["id"] not in cut.decisions, columns=("id",))
    if cut.decisions:
        groups = (_headless(keep(group), cut) for group in archive.groups("decisions"))
        written = written.write("decisions", groups, number=number)
    revised = _revised(archive, cut, sights, now)
    for table in _ABOUT:
        columns = ("decision_id", "id") if table == "feedback" else ("decision_id",)
        about = partial(kept, keep=lambda row: _stays(row, cut), columns=columns)
        groups = (about(group) for group in archive.groups(table))
        if table == "rewards":
            groups = (_with_values(group, revised) for group in groups)
        written = written.write(table, groups, number=number)
    counts = {table: before.files[table].rows - written.files[table].rows for table in _COUNTED}
    return written, counts


def _stays(row: Row, cut: _Cut) -> bool:
    return row["decision_id"] not in cut.decisions and row.get("id") not in cut.words


def _headless(group: pa.Table, cut: _Cut) -> pa.Table:
    """Turns that repeat a draw which goes stand on their own."""
    import pyarrow as pa

    if not cut.headless:
        return group
    heads = [None if head in cut.decisions else head for head in group.column("head").to_pylist()]
    at = group.schema.get_field_index("head")
    return group.set_column(at, group.schema.field(at), pa.array(heads, type=pa.string()))


_Last = tuple[str, int]  # a decision, and its last revision


def _revised(archive: Archive, cut: _Cut, sights: Mapping[str, Sight], now: float) -> dict[_Last, Row]:
    """What the last reward rows of revised decisions become without the words that go."""
    said: dict[str, list[Row]] = {of: [] for of in cut.revised}
    for row in _rows(archive, "feedback") if said else ():
        if row["decision_id"] in said and row["id"] not in cut.words:
            said[row["decision_id"]].append(row)
    rows = _rows(archive, "rewards", "decision_id", "revision", "router") if said else ()
    last = {row["decision_id"]: row for row in rows if row["decision_id"] in said}
    values: dict[_Last, Row] = {}
    for of, row in last.items():
        words = sorted(said[of], key=lambda word: (word["at_us"], word["seq"]))
        made = reward(votes_of(words), sights[row["router"]].registration.settings.metrics)
        value, weight = (None, 0.0) if made is None else (made.value, made.weight)
        values[of, row["revision"]] = {"value": value, "weight": weight, "made_us": to_us(now)}
    return values


def _with_values(group: pa.Table, values: Mapping[_Last, Row]) -> pa.Table:
    import pyarrow as pa

    if not values:
        return group
    rows = [
        {**row, **values.get((row["decision_id"], row["revision"]), {})} for row in group.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=schema_of("rewards"))


def _refolded(archive: Archive, old: Base, lens: Lens) -> tuple[Base, Base]:
    new = refold(archive, lens, before=old.before, since=old.since, plain=old.plain)
    return old, new


def _exchange(
    connection: sa.Connection,
    entry: Entry,
    archive: Archive,
    prints: Sequence[Mapping[str, object]],
    bases: Sequence[tuple[Base, Base]],
    sights: Mapping[str, Sight],
    cut: _Cut,
) -> None:
    """Name the new files, and believe what they have taught instead of what the old ones had."""
    hold_all(connection, sights)
    for router, sight in sights.items():  # those of before a reset must not come back
        drop_checkpoints(connection, router, but=sight.registration.generation)
    assert entry.archived is not None
    move_on(connection, entry, as_json(archive), archived=entry.archived)
    write_prints(connection, entry.id, prints)
    for old, new in bases:
        write_base(connection, new)
        exchange(connection, sights[new.router].lens, old, new)
    c, d = t.checkpoints.c, t.decisions.c
    gone = sorted(cut.decisions)
    for start in range(0, len(gone), _CHUNK):
        turns = d.head.in_(gone[start : start + _CHUNK])
        connection.execute(sa.update(t.decisions).where(turns).values(head=None))
    for router in sights:
        generation = begin_generation(connection, router)
        mine = sa.update(t.checkpoints).where(c.router == router)
        connection.execute(mine.values(generation=generation))


def _strike(
    connection: sa.Connection, asked: Sequence[Erasure], archive: str, cut: _Cut, now: float
) -> None:
    for erasure in asked:
        own = sum(found == erasure for found in cut.decisions.values())
        said = sum(found == erasure for found in cut.words.values())
        strike_off(connection, erasure, archive, (("decisions", own), ("feedback", said)), now)


# -- texts ------------------------------------------------------------------------------------------


def expire_archived(log: EventLog, *, now: float) -> int:
    """Erase texts from archives that are older than their router keeps them; return how many."""
    until = {}
    for router in log.read(router_names):
        retention = see(log, router).registration.settings.text_retention
        if retention is not None:
            until[router] = to_us(now - retention.total_seconds())
    expired = 0
    for entry in log.read(read_entries) if until else ():
        if archive_of(entry).reachable():
            with alone(entry.folder):
                expired += _expire(log, entry.id, until)
    return expired


def _expire(log: EventLog, identifier: str, until: Mapping[str, int]) -> int:
    entry = log.read(partial(read_entry, identifier=identifier))
    assert entry is not None
    archive = archive_of(entry)

    def stays(row: Row) -> bool:
        return bool(row["at_us"] >= until.get(row["router"], 0))

    if all(stays(row) for row in _rows(archive, "texts", "router", "at_us")):
        archive.sweep()  # what a run that died has left
        return 0
    archive.check()
    groups = (kept(group, stays, ("router", "at_us")) for group in archive.groups("texts"))
    written = archive.write("texts", groups, number=entry.revision)
    assert entry.archived is not None
    transact(log, partial(move_on, entry=entry, files=as_json(written), archived=entry.archived))
    written.sweep()
    return archive.files["texts"].rows - written.files["texts"].rows


def adopt(log: EventLog, folder: Path) -> int:
    """Take note of archives that were moved to a folder; return how many.

    Raises
    ------
    ArchiveError
        A file that was moved is damaged.
    """
    moved, folder = 0, folder.absolute()
    for entry in log.read(read_entries):
        archive = archive_of(entry)
        there = Archive(id=archive.id, folder=folder, week=archive.week, files=archive.files)
        if not archive.reachable() and there.reachable():
            there.check()
            transact(log, partial(relocate, entry=entry, folder=folder))
            moved += 1
    return moved
