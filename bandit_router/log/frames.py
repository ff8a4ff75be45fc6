"""Frames: how decisions stand in a file of the journal, so that what is whole is told from what is not.

A frame is a magic word, a version, the length and the checksum of what follows, and a checksum of that header
itself, so that a frame that was cut off is told from one that was damaged.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bandit_router.errors import FormatError

Row = Mapping[str, Any]  # Any: a value of each column's own type
Rows = Sequence[tuple[str, Row]]  # each with the name of its table

_MAGIC = b"\x93BRJ"  # not ASCII, so that no JSON contains it
_VERSION = 1
_HEADER = struct.Struct("<4sHxxIII")  # magic, version, length, checksum, checksum of the header so far
_BYTES = "$bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file holds.

    Attributes
    ----------
    frames : tuple of bytes
        The bodies of whole frames, in their order.
    damaged : int
        Bytes that belong to no whole frame, though more follows, or though all of one is there.
    torn : int
        Bytes of a last frame that was cut off while it was written, which nobody was told of.
    """

    frames: tuple[bytes, ...] = ()
    damaged: int = 0
    torn: int = 0


def to_frame(rows: Rows) -> bytes:
    """Return the rows of one decision as a frame; floats and bytes come back exactly.

    Examples
    --------
    >>> rows = [("decisions", {"id": "x", "probability": 0.1, "features": b"\\x00"})]
    >>> rows_of(read_frames(to_frame(rows)).frames[0]) == rows
    True
    """
    body = json.dumps([[table, dict(row)] for table, row in rows], default=_to_json).encode()
    start = struct.pack("<4sHxxII", _MAGIC, _VERSION, len(body), zlib.crc32(body))
    return start + struct.pack("<I", zlib.crc32(start)) + body


def read_frames(data: bytes) -> Contents:
    """Return the frames in the bytes of a file, whatever else is in it.

    Raises
    ------
    FormatError
        A newer version wrote it.
    """
    frames, at, damaged = [], 0, 0
    while at < len(data):
        length, checksum = _header(data, at)
        end = at + _HEADER.size + length
        body = data[at + _HEADER.size : end]
        if length >= 0 and end <= len(data) and zlib.crc32(body) == checksum:
            frames.append(body)
            at = end
            continue
        if _is_torn(data, at, length):
            return Contents(frames=tuple(frames), damaged=damaged, torn=len(data) - at)
        following = _next_frame(data, at + 1)
        damaged, at = damaged + following - at, following
    return Contents(frames=tuple(frames), damaged=damaged)


def rows_of(body: bytes) -> Rows:
    """Return the rows that a frame's body holds.

    Raises
    ------
    FormatError
        It holds something else.
    """
    try:
        found = [(str(table), dict(row)) for table, row in json.loads(body, object_hook=_from_json)]
        if found[0][0] != "decisions" or not isinstance(found[0][1]["id"], str):
            raise ValueError("it begins with no decision")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise FormatError(f"journal: this is no decision: {error}") from error
    return found


def _to_json(value: object) -> object:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    raise TypeError(f"journal: no way to keep a {type(value).__name__}")


def _from_json(found: dict[str, Any]) -> object:  # Any: JSON
    return base64.b64decode(found[_BYTES], validate=True) if found.keys() == {_BYTES} else found


def _header(data: bytes, at: int) -> tuple[int, int]:
    """The length and checksum of the body that a header at `at` announces; length -1: there is none."""
    if len(data) - at < _HEADER.size:
        return -1, 0
    magic, version, length, checksum, own = _HEADER.unpack_from(data, at)
    if magic != _MAGIC or zlib.crc32(data[at : at + _HEADER.size - 4]) != own:
        return -1, 0
    if version != _VERSION:
        raise FormatError(f"journal: version {version}, this program knows {_VERSION}")
    return length, checksum


def _is_torn(data: bytes, at: int, length: int) -> bool:
    """Whether what stands at `at` is the beginning of a frame, and the file ends before its end."""
    if length >= 0:
        return at + _HEADER.size + length > len(data)
    rest = data[at : at + len(_MAGIC)]
    return len(data) - at < _HEADER.size and _MAGIC.startswith(rest)


def _next_frame(data: bytes, at: int) -> int:
    """Where the next whole header stands, else the end."""
    while (at := data.find(_MAGIC, at)) >= 0:
        if _header(data, at)[0] >= 0 or _is_torn(data, at, -1):
            return at
        at += 1
    return len(data)
