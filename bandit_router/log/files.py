"""Files of the journal: each belongs to one process at a time, and outlives it.

It is the process that has the file's lock (``flock``). The lock ends with the process, and whoever takes it
then carries on with what the file holds.
"""

from __future__ import annotations

import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from bandit_router.errors import LogUnavailableError
from bandit_router.log.frames import Contents, read_frames

try:
    import fcntl
except ImportError:  # pragma: no cover # not on POSIX: there is no journal then
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".journal"


class JournalFile:
    """One file of a journal, with its lock held.

    Attributes
    ----------
    path : Path
    size : int
        Bytes.
    decisions : int
        Whole frames.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd, self.size, self.decisions = path, fd, 0, 0
        self._synced = 0
        _open_files.add(self)

    @classmethod
    def create(cls, folder: Path) -> JournalFile:
        """Make a new one that only this user can read."""
        while True:
            path = folder / f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(3).hex()}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            if _locked(fd):  # nobody took it for an abandoned one in between
                return cls(path, fd)
            os.close(fd)

    @classmethod
    def adopt(cls, path: Path) -> JournalFile | None:
        """Take over one whose process is gone; None where it lives, or another was faster.

        Raises
        ------
        OSError
            It cannot be read.
        FormatError
            A newer version wrote it: it is left to that.
        """
        fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
        if os.fstat(fd).st_uid not in (os.geteuid(), 0):
            os.close(fd)
            raise PermissionError(f"{path} belongs to another user")
        if not _locked(fd):
            os.close(fd)
            return None
        file = cls(path, fd)
        try:
            file.size = file._synced = os.fstat(fd).st_size
            file.decisions = len(file.read().frames)
        except BaseException:
            file.close()
            raise
        return file

    def append(self, frame: bytes) -> None:
        """Write a frame; one that does not fit is taken back whole."""
        left = memoryview(frame)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(frame)
        self.decisions += 1

    def read(self) -> Contents:
        """Return what it holds."""
        return read_frames(self.read_at(0, os.fstat(self._fd).st_size))

    def read_at(self, at: int, length: int) -> bytes:
        """Return some of its bytes."""
        parts = []
        while length > 0 and (part := os.pread(self._fd, length, at)):
            parts.append(part)
            at, length = at + len(part), length - len(part)
        return b"".join(parts)

    def sync(self) -> None:
        """Bring it to the disk."""
        if self._synced < self.size:
            size = self.size
            os.fsync(self._fd)
            self._synced = size

    def set_aside(self, body: bytes | None = None) -> Path:
        """Keep what cannot be recorded: one frame's body in a file beside it, or by default all of it."""
        if body is None:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            return aside
        aside = self.path.with_suffix(".refused")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as beside:
            beside.write(body + b"\n")
        return aside

    def remove(self) -> None:
        """Delete it: all that it held is elsewhere."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Let it go, with its lock."""
        if self in _open_files:
            _open_files.discard(self)
            os.close(self._fd)
            self._fd = -1  # the number may soon be another file's


def _locked(fd: int) -> bool:
    """Take a file's lock, if it is free and the file still has a name."""
    if fcntl is None:
        raise LogUnavailableError("journal: this system has no file locks")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


_open_files: weakref.WeakSet[JournalFile] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked child: a lock that it inherited would outlive the parent, whose file this is."""
    for file in list(_open_files):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
