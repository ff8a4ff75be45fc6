"""Journal: decisions that wait on this machine for a log that is away.

What `keep` has returned from is with the operating system: it survives the death of the process, and from the
next `sync` on, about a second later, a loss of power too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from bandit_router.errors import ConflictError, FormatError, LogUnavailableError
from bandit_router.log.files import SUFFIX, JournalFile
from bandit_router.log.frames import Row, Rows, read_frames, rows_of, to_frame

logger = logging.getLogger(__name__)
OPEN_LIMIT = 16  # files of others held at once
FRESH_S = 1.0  # how old the count of what other processes keep may be


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where a decision with an idempotency key stands."""

    file: JournalFile
    at: int
    length: int


@dataclass(slots=True)
class _Room:
    """How much is kept by all processes, and when that was counted."""

    counted: float = field(default=-float("inf"))
    size: int = 0


class Journal:
    """Keeps decisions until they are in the log. Makes nothing before the first one.

    Safe from many threads; many processes may use one folder.

    Parameters
    ----------
    folders : sequence of Path
        Where it may be: the first one that can be written to. Files of dead processes are looked for in all.
    limit_bytes : int
        How much may wait, of all processes together.
    """

    def __init__(self, folders: Sequence[Path], *, limit_bytes: int) -> None:
        self.lock = threading.RLock()
        self._folders, self._limit = tuple(folders), limit_bytes
        self._current: JournalFile | None = None
        self._sealed: list[JournalFile] = []
        self._keys: dict[tuple[str, str], _Kept] = {}
        self._room = _Room()
        self._warned: set[Path] = set()
        self._closed = False
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why the last decision could not be kept; None while all can be."""
        return self._trouble

    @property
    def waiting(self) -> tuple[int, int]:
        """How many decisions wait in this process, and their bytes."""
        with self.lock:
            files = self._files()
            return sum(file.decisions for file in files), sum(file.size for file in files)

    def keep(self, rows: Rows) -> Row | None:
        """Keep the rows of a decision, the decision's own first; with the operating system when this returns.

        Returns
        -------
        mapping or None
            The row of a decision that is kept already under the same idempotency key: then nothing is added.

        Raises
        ------
        ConflictError
            The same key came before with another body.
        LogUnavailableError
            The journal is full, or cannot be written.
        """
        row, frame = rows[0][1], to_frame(rows)
        with self.lock:
            earlier = self.find(row["router"], row["key"], row["body_hash"])
            if earlier is not None:
                return earlier
            try:
                file = self._append(frame)
            except (OSError, LogUnavailableError) as error:
                self._trouble = str(error)
                raise LogUnavailableError(
                    f"log: it is away, and the decision cannot be kept here: {error}"
                ) from error
            self._trouble = None
            if row["key"] is not None:
                kept = _Kept(file, file.size - len(frame), len(frame))
                self._keys[row["router"], row["key"]] = kept
        return None

    def find(self, router: str, key: str | None, body_hash: str | None) -> Row | None:
        """Return the row of the decision that is kept under an idempotency key, or None.

        Raises
        ------
        ConflictError
            It came with another body.
        """
        if key is None or not self._keys:
            return None
        with self.lock:
            kept = self._keys.get((router, key))
            if kept is None:
                return None
            (body,) = read_frames(kept.file.read_at(kept.at, kept.length)).frames
        row = rows_of(body)[0][1]
        if row["body_hash"] != body_hash:
            raise ConflictError(f"key {key!r}: it came before with another body")
        return row

    def seal(self) -> list[JournalFile]:
        """Return the files to be recorded next, the oldest first; what comes now goes into another."""
        with self.lock:
            if not self._sealed and self._current is not None and self._current.decisions:
                self._sealed, self._current = [self._current], None
            return list(self._sealed)

    def adopt(self) -> None:
        """Take over the files of processes that are gone."""
        for folder in self._folders:
            held = {file.path for file in self._files()}
            for path in _found(folder):
                if path not in held and len(self._sealed) < OPEN_LIMIT:
                    self._adopt(path)

    def done(self, file: JournalFile, *, damaged: bool = False) -> None:
        """Forget a file whose decisions are all recorded; one that was damaged is kept under another name."""
        with self.lock:
            self._sealed.remove(file)
            self._keys = {key: kept for key, kept in self._keys.items() if kept.file is not file}
            self._room.counted = -float("inf")
        if damaged:
            file.set_aside()
            file.close()
        else:
            file.remove()

    def leave(self, file: JournalFile) -> None:
        """Let go of a file that another version of the program must record."""
        with self.lock:
            self._sealed.remove(file)
            self._warned.add(file.path)
        file.close()

    def sync(self) -> None:
        """Bring what waits to the disk."""
        for file in self._files():
            file.sync()

    def close(self) -> None:
        """Let go of all files; what waits is there for the next process."""
        with self.lock:
            self._closed = True
            files = self._files()
            self._current, self._sealed, self._keys = None, [], {}
        for file in files:
            if file.decisions:
                file.close()
            else:
                file.remove()

    def _files(self) -> list[JournalFile]:
        with self.lock:
            return [*self._sealed, *([] if self._current is None else [self._current])]

    def _append(self, frame: bytes) -> JournalFile:
        if self._closed:
            raise LogUnavailableError("the log was closed")
        size = self._size()
        if size + len(frame) > self._limit:
            raise LogUnavailableError(f"journal: {size} bytes of {self._limit} are taken")
        if self._current is None:
            self._current = self._create()
        try:
            self._current.append(frame)
        except OSError:
            if not self._current.decisions:
                self._current.remove()
            else:
                self._sealed.append(self._current)  # what is half written must stay the last
            self._current = None
            raise
        self._room.size += len(frame)
        return self._current

    def _size(self) -> int:
        """Bytes that all processes keep, as of a moment ago; own ones at once."""
        now = time.monotonic()
        if now - self._room.counted > FRESH_S:
            self._room.counted = now
            self._room.size = sum(_size(path) for folder in self._folders for path in _found(folder))
        return self._room.size

    def _create(self) -> JournalFile:
        errors = []
        for folder in self._folders:
            try:
                _prepare(folder)
                return JournalFile.create(folder)
            except OSError as error:
                errors.append(f"{folder}: {error.strerror or error}")
        raise LogUnavailableError(f"journal: {'; '.join(errors)}")

    def _adopt(self, path: Path) -> None:
        try:
            file = JournalFile.adopt(path)
        except FileNotFoundError:
            return  # another process has just recorded it
        except (OSError, FormatError) as error:
            if path not in self._warned:
                self._warned.add(path)
                logger.error("journal %s is left as it is: %s", path, error)
            return
        if file is not None:
            with self.lock:
                self._sealed = sorted([*self._sealed, file], key=lambda file: file.path.name)


def default_folders(url: sa.URL, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where decisions wait for a log: beside its file, else in the user's state folder, else /tmp.

    Examples
    --------
    >>> default_folders(sa.make_url("sqlite:////data/chat.db"), {})
    (PosixPath('/data/chat.db.journal'),)
    """
    database = url.database or ""
    if url.get_backend_name() == "sqlite" and not database.startswith("file:"):
        return (Path(f"{database}.journal"),)
    name = hashlib.sha256(url.render_as_string(hide_password=True).encode()).hexdigest()[:16]
    home = environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    user = os.getuid() if hasattr(os, "getuid") else 0
    temporary = Path(tempfile.gettempdir()) / f"bandit-router-{user}-{name}"
    return Path(home) / "bandit-router" / name, temporary


def _found(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        _check_ours(folder)
        yield from sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _prepare(folder: Path) -> None:
    """Make a folder for this user alone; refuse one in which others could have put something.

    Raises
    ------
    OSError
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_ours(folder)


def _check_ours(folder: Path) -> None:
    """See that nobody else could have put something into a folder.

    Raises
    ------
    OSError
    """
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & stat.S_IWOTH:
        raise PermissionError(f"{folder} belongs to others, or all may write to it")
