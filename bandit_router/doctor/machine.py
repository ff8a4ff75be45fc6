"""This machine: room on its disks, and the folder where decisions wait for a log that is away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import sqlalchemy as sa

from bandit_router.config import Config
from bandit_router.doctor.finding import Finding, ok, problem, warning
from bandit_router.log.files import SUFFIX
from bandit_router.log.journal import default_folders

FEW_BYTES = 100 * 2**20  # below that a disk is as good as full
SOME_BYTES = 2**30


def check_disk(url: sa.URL) -> Iterator[Finding]:
    """Whether an embedded log can grow."""
    if url.get_backend_name() != "sqlite" or str(url.database).startswith("file:"):
        return
    file = Path(str(url.database))
    free, size = shutil.disk_usage(file.parent).free, file.stat().st_size
    said = f"{file.parent}: {_mb(free)} are free, the log takes {_mb(size)}"
    if not os.access(file, os.W_OK) or not os.access(file.parent, os.W_OK):
        yield problem("disk", f"{file} or its folder cannot be written to by this user")
    elif free < FEW_BYTES:
        yield problem("disk", f"{said}: make room")
    elif free < max(SOME_BYTES, size // 10):
        yield warning("disk", f"{said}: make room")
    else:
        yield ok("disk", said)


def check_journal(config: Config, url: sa.URL, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether decisions can wait here for a log that is away, and whether some do."""
    named = config.journal
    folders = default_folders(url, environ) if named is None else (Path(named).absolute(),)
    usable = [folder for folder in folders if _can_be_written(folder)]
    if not usable:
        yield problem(
            "journal",
            f"{folders[0]} cannot be written to by this user: while the log is away nothing is decided; "
            "give it a folder (`journal`)",
        )
    else:
        yield _room(usable[0], config.journal_bytes, first=usable[0] == folders[0])
    for folder in folders:
        yield from _waiting(folder)


def _can_be_written(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _room(folder: Path, limit: int, *, first: bool) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < limit:
        return warning(
            "journal", f"{folder}: {_mb(free)} are free, {_mb(limit)} may be needed: make room"
        )
    if not first:
        return warning("journal", f"only {folder} can be written to, which may not outlive a restart")
    return ok("journal", f"{folder} can take {_mb(limit)}")


def _waiting(folder: Path) -> Iterator[Finding]:
    files = sorted(folder.iterdir()) if folder.is_dir() and os.access(folder, os.R_OK) else []
    waiting = [file for file in files if file.suffix == SUFFIX]
    if waiting:
        size = sum(file.stat().st_size for file in waiting)
        yield warning(
            "journal",
            f"{len(waiting)} files ({size:,} bytes) in {folder} wait for the log: a running worker "
            "records them when it answers",
        )
    aside = [file.name for file in files if file.suffix in (".refused", ".damaged")]
    if aside:
        yield problem(
            "journal",
            f"{folder} holds what could not be recorded ({', '.join(aside[:3])}): see the program's log, "
            "keep what you need, and delete them",
        )


def _mb(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
