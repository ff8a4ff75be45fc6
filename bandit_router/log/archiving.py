"""Archiving: how ranges of decisions leave the log, and what is answered about them afterwards.

A range is *closed* first: from then on nothing more can be said about its decisions, so that its rows may be
copied in peace. Once the files are written and read back, one transaction keeps what the range has taught
(`bases`), remembers which decisions it had, lets go of the rows, and begins a new generation. A *generation* is
one set of rows that the log can be folded from: every worker folds again, from a checkpoint that the same
transaction keeps, so that a row which somebody had not read yet is neither lost nor counted twice.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import (
    ArchivedDecisionError,
    BanditRouterError,
    StaleGenerationError,
    UnknownDecisionError,
    UnknownFeedbackError,
)
from bandit_router.events import id_time
from bandit_router.log import tables as t
from bandit_router.log.rows import Row, from_us, to_us
from bandit_router.values import utc

_a, _p = t.archives.c, t.archived.c
_PRINTS = 32_768  # ids whose prints are in one row
_CLOSING, _ARCHIVED = "closing", "archived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the log has of one archive.

    Attributes
    ----------
    before : str
        Its decisions' ids are below this one.
    revision : int
        Grows when what is to be in it changes.
    closed : float
        Since when nothing more can be said about its decisions [s since 1970].
    archived : float, optional
        Since when they are gone from the log [s since 1970]; None while they are being copied.
    files : mapping
        As `archive.files_of` reads it.
    """

    id: str
    before: str
    revision: int
    folder: Path
    closed: float
    archived: float | None
    files: Mapping[str, Sequence[Any]]  # Any: numbers and texts


def read_entries(connection: sa.Connection, *, closing: bool = False) -> list[Entry]:
    """Return all archives, or those ranges that are closed and not yet archived, the oldest first."""
    state = _CLOSING if closing else _ARCHIVED
    mine = sa.select(t.archives).where(_a.state == state).order_by(_a.before, _a.id)
    return [_entry(row) for row in connection.execute(mine).mappings()]


def read_entry(connection: sa.Connection, identifier: str) -> Entry | None:
    """Return one archive, or None."""
    row = connection.execute(sa.select(t.archives).where(_a.id == identifier)).mappings().first()
    return None if row is None else _entry(row)


def _entry(row: Row) -> Entry:
    return Entry(
        id=row["id"],
        before=row["before"],
        revision=row["revision"],
        folder=Path(row["folder"]),
        closed=from_us(row["closed_us"]),
        archived=None if row["archived_us"] is None else from_us(row["archived_us"]),
        files=json.loads(row["files"]),
    )


def close_range(
    connection: sa.Connection, identifier: str, before: str, folder: Path, now: float
) -> None:
    """Say that nothing more can be said about decisions before an id."""
    row = {"id": identifier, "first": "", "before": before, "state": _CLOSING, "revision": 0}
    row |= {"folder": str(folder), "closed_us": to_us(now), "archived_us": None, "files": "{}"}
    connection.execute(sa.insert(t.archives), row)


def reopen_range(connection: sa.Connection, identifier: str) -> None:
    """Let decisions be spoken of again that were not archived after all."""
    mine = (_a.id == identifier, _a.state == _CLOSING)
    connection.execute(sa.delete(t.archives).where(*mine))


def start_over(connection: sa.Connection) -> None:
    """See that whoever is copying a closed range begins anew: rows of it change."""
    change = sa.update(t.archives).where(_a.state == _CLOSING)
    connection.execute(change.values(revision=_a.revision + 1))


def move_on(
    connection: sa.Connection,
    entry: Entry,
    files: Mapping[str, Sequence[Any]],  # Any: numbers and texts
    *,
    archived: float,
) -> None:
    """Say which are an archive's files from now on.

    Raises
    ------
    StaleGenerationError
        What is to be in it has changed since `entry` was read.
    """
    mine = (_a.id == entry.id, _a.revision == entry.revision)
    values = {"state": _ARCHIVED, "revision": entry.revision + 1, "files": json.dumps(files)}
    changed = sa.update(t.archives).where(*mine).values(**values, archived_us=to_us(archived))
    if connection.execute(changed).rowcount != 1:
        raise StaleGenerationError(f"archive {entry.id}: something changed while it was written")


def relocate(connection: sa.Connection, entry: Entry, folder: Path) -> None:
    """Say that an archive's files are in another folder."""
    mine = (_a.id == entry.id, _a.revision == entry.revision)
    connection.execute(sa.update(t.archives).where(*mine).values(folder=str(folder)))


def count_rows(connection: sa.Connection, table: str, before: str) -> int:
    """Return how many rows about decisions before an id a table has."""
    found = t.metadata.tables[table]
    about = found.c.id if table == "decisions" else found.c.decision_id
    counted = sa.select(sa.func.count()).select_from(found).where(about < before)
    return int(connection.execute(counted).scalar_one())


def closing(about: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Return the condition that nothing more can be said about a decision which is still there."""
    return sa.exists().where(_a.state == _CLOSING, _a.before > about)


# -- which ids were archived ------------------------------------------------------------------------


def prints_of(
    archive: str, kind: str, found: Iterable[tuple[str, str]]
) -> Iterator[dict[str, Any]]:  # Any: a value of each column's own type
    """Return rows of ``archived`` for many (router, id)."""
    waiting: dict[str, list[str]] = {}
    for router, identifier in found:
        mine = waiting.setdefault(router, [])
        mine.append(identifier)
        if len(mine) == _PRINTS:
            yield _prints(archive, kind, router, waiting.pop(router))
    for router, mine in waiting.items():
        yield _prints(archive, kind, router, mine)


def _prints(archive: str, kind: str, router: str, ids: Sequence[str]) -> dict[str, Any]:  # Any: as above
    prints = np.sort(np.array([_print(identifier) for identifier in ids], dtype="<u4"))
    row = {"archive": archive, "router": router, "kind": kind, "prints": prints.tobytes()}
    return row | {"first": min(ids), "last": max(ids)}


def _print(identifier: str) -> int:
    return zlib.crc32(identifier.encode("utf-8", "surrogatepass"))


def write_prints(
    connection: sa.Connection, archive: str, rows: Iterable[Mapping[str, Any]]
) -> None:  # Any: as above
    """Remember which ids an archive has, in the place of what was remembered."""
    connection.execute(sa.delete(t.archived).where(_p.archive == archive))
    for row in rows:
        connection.execute(sa.insert(t.archived), row)


def find_archived(connection: sa.Connection, kind: str, identifier: str) -> dict[str, float]:
    """Return the routers that have archived a decision, or a word, and since when [s since 1970].

    Of a million ids that never were, about eight are mistaken for archived ones.
    """
    near = sa.select(_p.router, _p.prints, _a.archived_us).join(t.archives, _a.id == _p.archive)
    mine = near.where(_p.kind == kind, _p.last >= identifier, _p.first <= identifier)
    print_, found = _print(identifier), {}
    for row in connection.execute(mine):
        prints = np.frombuffer(row.prints, dtype="<u4")
        at = int(np.searchsorted(prints, print_))
        if at < len(prints) and prints[at] == print_:
            found[row.router] = from_us(row.archived_us)
    return found


def archived_routers(connection: sa.Connection, kind: str, ids: Collection[str]) -> dict[str, str]:
    """Return a router that has archived each decision, or word; those that nobody has are left out."""
    if connection.execute(sa.select(_p.id).limit(1)).first() is None:
        return {}
    looked = {identifier: find_archived(connection, kind, identifier) for identifier in ids}
    return {identifier: next(iter(found)) for identifier, found in looked.items() if found}


def no_decision(connection: sa.Connection, router: str, decision_id: str) -> UnknownDecisionError:
    """Return what to say where a router has no such decision: any more, or at all."""
    since = find_archived(connection, "decision", decision_id).get(router)
    if since is None:
        return UnknownDecisionError(f"no decision {decision_id!r} in router {router!r}")
    return ArchivedDecisionError(_told(f"decision {decision_id!r}", since))


def no_feedback(connection: sa.Connection, router: str, feedback_id: str) -> BanditRouterError:
    """Return what to say where a router has no such feedback: any more, or at all."""
    since = find_archived(connection, "feedback", feedback_id).get(router)
    if since is None:
        return UnknownFeedbackError(f"no feedback {feedback_id!r} in router {router!r}")
    return ArchivedDecisionError(_told(f"feedback {feedback_id!r}, with its decision,", since))


def closed_decision(connection: sa.Connection, decision_id: str) -> ArchivedDecisionError:
    """Return what to say about a decision whose range is closed."""
    mine = sa.select(sa.func.min(_a.closed_us)).where(_a.state == _CLOSING, _a.before > decision_id)
    since = connection.execute(mine).scalar()
    return ArchivedDecisionError(_told(f"decision {decision_id!r}", from_us(since or 0)))


def _told(what: str, since: float) -> str:
    moment = utc(since).isoformat(timespec="seconds")
    return f"{what} was archived on {moment}: nothing more can be said about it"


def ends_at(before: str) -> float:
    """Return the moment that a bound of ids stands for [s since 1970]."""
    return int(before.replace("-", "")[:12], 16) / 1000


def oldest_decision(connection: sa.Connection, since: str = "") -> float | None:
    """Return when the oldest decision from an id on was made [s since 1970]; None where there is none."""
    c = t.decisions.c
    oldest = connection.execute(sa.select(sa.func.min(c.id)).where(c.id >= since)).scalar()
    return None if oldest is None else (id_time(oldest) or 0.0)
