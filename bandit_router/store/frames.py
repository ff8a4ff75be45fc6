"""Deltas as bytes, for a store that other processes read."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from scipy.linalg import blas

from bandit_router.errors import FormatError, NewerFormatError
from bandit_router.evidence import FEATURE_LIMIT, Delta, Observation

KEY_LIMIT = 2**53  # beyond it, a score in Redis, which is a double, would not tell two keys apart
_TIME_LIMIT = 1e12  # [s], as for observations
_MAGIC = b"BRDL"
_VERSION = 1
_HEADER = struct.Struct("<4sHII")  # magic, version, length and CRC of the body
_BODY = struct.Struct("<qddddHI")  # key, at, weight, weighted reward and square, lengths of name and x


def delta_to_bytes(delta: Delta) -> bytes:
    """Return one delta as a frame of bytes, without loss; frames may be put one after another.

    Raises
    ------
    ValueError
        Something in it is not finite or too large.

    Examples
    --------
    >>> delta = Delta(key=3, model="small", observation=Observation.of([1.0, 2.0], 0.5))
    >>> [(d.key, d.model) for d in deltas_from_bytes(2 * delta_to_bytes(delta))]
    [(3, 'small'), (3, 'small')]
    """
    seen, name = delta.observation, delta.model.encode()
    if not 0 <= delta.key < KEY_LIMIT or len(name) > 0xFFFF:
        raise ValueError(f"expected a key below 2^53 and a short name, got {delta.key}, {delta.model!r}")
    if not _fits(seen):
        raise ValueError(f"expected finite numbers, none too large, got {seen!r}")
    numbers = (seen.at, seen.weight, seen.weighted_reward, seen.weighted_square)
    body = (
        _BODY.pack(delta.key, *numbers, len(name), len(seen.x))
        + name
        + seen.x.astype("<f8", copy=False).tobytes()
    )
    return _HEADER.pack(_MAGIC, _VERSION, len(body), zlib.crc32(body)) + body


def deltas_from_bytes(data: bytes) -> Iterator[Delta]:
    """Read frames that `delta_to_bytes` wrote.

    Raises
    ------
    FormatError
        Not frames, or damaged.
    NewerFormatError
        Of a newer version.
    """
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise FormatError(f"delta: {len(data) - at} bytes hold none")
        magic, version, length, check = _HEADER.unpack_from(data, at)
        if magic == _MAGIC and version > _VERSION:
            raise NewerFormatError(f"delta: expected format version {_VERSION}, got {version}")
        if magic != _MAGIC or version != _VERSION:
            raise FormatError(f"delta: expected format version {_VERSION}, got {magic!r} {version}")
        at += _HEADER.size
        body = data[at : at + length]
        if len(body) != length or zlib.crc32(body) != check:
            raise FormatError(f"delta: damaged: {len(body)} bytes where {length} were written")
        yield _from_body(body)
        at += length


def _from_body(body: bytes) -> Delta:
    if len(body) < _BODY.size:
        raise FormatError(f"delta: damaged: {len(body)} bytes")
    key, at, weight, reward, square, name_length, dim = _BODY.unpack_from(body)
    start = _BODY.size + name_length
    if len(body) != start + 8 * dim:
        raise FormatError(f"delta: {len(body)} bytes do not hold {dim} features")
    x = np.frombuffer(body, "<f8", offset=start).astype(np.float64)
    x.flags.writeable = False
    seen = Observation(x=x, at=at, weight=weight, weighted_reward=reward, weighted_square=square)
    if not 0 <= key < KEY_LIMIT or not _fits(seen):
        raise FormatError("delta: expected finite numbers, none too large")
    try:
        return Delta(key=key, model=body[_BODY.size : start].decode(), observation=seen)
    except UnicodeDecodeError as error:
        raise FormatError(f"delta: damaged: {error}") from error


def _fits(seen: Observation) -> bool:
    if seen.x.ndim != 1 or seen.x.size == 0 or not abs(seen.at) <= _TIME_LIMIT:
        return False
    sums = seen.weight + seen.weighted_reward + seen.weighted_square
    length = blas.ddot(seen.x, seen.x)  # without numpy's warning where it overflows
    return math.isfinite(sums) and bool(length <= seen.x.size * FEATURE_LIMIT**2)
