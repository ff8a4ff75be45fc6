"""Deltas as bytes: without loss, and whatever else comes is refused."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bandit_router.errors import FormatError, NewerFormatError
from bandit_router.evidence import Delta, Observation
from bandit_router.store.frames import KEY_LIMIT, delta_to_bytes, deltas_from_bytes

GOOD = Delta(key=7, model="größer/1", observation=Observation.of([1.0, -2.5], 0.25, weight=2, at=1.7e9))
BODY = struct.Struct("<qddddHI")
numbers = st.floats(-1e6, 1e6)
deltas = st.builds(
    Delta,
    key=st.integers(0, KEY_LIMIT - 1),
    model=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    observation=st.builds(
        Observation,
        x=st.lists(numbers, min_size=1, max_size=5).map(np.array),
        at=st.floats(-1e12, 1e12),
        weight=numbers,
        weighted_reward=numbers,
        weighted_square=numbers,
    ),
)


def plain(delta: Delta) -> tuple[object, ...]:
    seen = delta.observation
    sums = (seen.weight, seen.weighted_reward, seen.weighted_square)
    return delta.key, delta.model, seen.x.tobytes(), seen.at, sums


def framed(body: bytes, *, magic: bytes = b"BRDL", version: int = 1) -> bytes:
    return struct.pack("<4sHII", magic, version, len(body), zlib.crc32(body)) + body


@given(st.lists(deltas, max_size=4))
def test_what_was_written_is_read(many: list[Delta]) -> None:
    data = b"".join(map(delta_to_bytes, many))
    read = list(deltas_from_bytes(data))
    assert list(map(plain, read)) == list(map(plain, many))
    assert not any(delta.observation.x.flags.writeable for delta in read)


@given(st.binary(max_size=200))
@example(b"BRDL")
@example(framed(b""))
def test_any_bytes_are_deltas_or_refused(data: bytes) -> None:
    with suppress(FormatError):
        assert b"".join(map(delta_to_bytes, deltas_from_bytes(data))) == data


@given(
    st.binary(max_size=64),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.floats(), min_size=4, max_size=4),
    st.integers(0, 20),
    st.integers(0, 9),
)
@example(b"\xff", 1, [0.0] * 4, 1, 0)
@example(struct.pack("<d", 1e300), 1, [0.0] * 4, 0, 1)
@example(struct.pack("<d", float("nan")), 1, [0.0] * 4, 0, 1)
@example(struct.pack("<d", 1.0), 1, [0.0, 1e308, 1e308, 0.0], 0, 1)
def test_any_body_is_a_delta_or_refused(
    rest: bytes, key: int, floats: list[float], name: int, dim: int
) -> None:
    """Even where the checksum holds."""
    try:
        (delta,) = deltas_from_bytes(framed(BODY.pack(key, *floats, name, dim) + rest))
    except FormatError:
        return
    assert np.isfinite([*delta.observation.x, delta.observation.at, delta.observation.weight]).all()


@pytest.mark.parametrize("at", range(len(delta_to_bytes(GOOD))))
def test_a_changed_bit_is_noticed(at: int) -> None:
    data = bytearray(delta_to_bytes(GOOD))
    data[at] ^= 1
    with pytest.raises(FormatError, match=r"^delta: "):
        list(deltas_from_bytes(bytes(data)))
    with pytest.raises(FormatError):
        list(deltas_from_bytes(bytes(data[: at + 1])))


def test_another_version_is_named() -> None:
    with pytest.raises(NewerFormatError, match="expected format version 1, got 2"):
        list(deltas_from_bytes(framed(b"", version=2)))
    with pytest.raises(FormatError, match="expected format version 1, got b'BRDL' 0") as caught:
        list(deltas_from_bytes(framed(b"", version=0)))
    assert not isinstance(caught.value, NewerFormatError)
    with pytest.raises(FormatError, match="got b'PICK' 1"):
        list(deltas_from_bytes(framed(b"", magic=b"PICK")))


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, key=-1),
        replace(GOOD, key=KEY_LIMIT),
        replace(GOOD, model="x" * 65_536),
        replace(GOOD, observation=replace(GOOD.observation, x=np.array([1.0, np.nan]))),
        replace(GOOD, observation=replace(GOOD.observation, x=np.array([1.0, 1e300]))),
        replace(GOOD, observation=replace(GOOD.observation, x=np.array([]))),
        replace(GOOD, observation=replace(GOOD.observation, x=np.eye(2))),
        replace(GOOD, observation=replace(GOOD.observation, weight=np.inf)),
        replace(GOOD, observation=replace(GOOD.observation, at=1e13)),
        replace(GOOD, observation=replace(GOOD.observation, at=np.nan)),
    ],
)
def test_what_no_reader_could_add_is_not_written(bad: Delta) -> None:
    with pytest.raises(ValueError, match="expected"):
        delta_to_bytes(bad)
