"""Frames of the journal: what is whole comes back exactly, whatever happened to the rest of the file."""

from __future__ import annotations

import math
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router import FormatError
from bandit_router.log.frames import read_frames, rows_of, to_frame

ROW = {"id": "1", "router": "default", "key": None, "features": b"\x00\xff" * 8, "probability": 0.1}
FRAMES = [
    to_frame([("decisions", ROW | {"id": str(i)}), ("texts", {"prompt": "é" * i})]) for i in range(4)
]
BODIES = [read_frames(frame).frames[0] for frame in FRAMES]

values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)


@given(st.dictionaries(st.text(), values))
def test_rows_come_back_exactly(row: dict[str, object]) -> None:
    rows = [("decisions", {**row, "id": "1"}), ("texts", row)]
    (body,) = read_frames(to_frame(rows)).frames
    assert rows_of(body) == rows


def test_a_row_may_hold_infinity() -> None:
    (body,) = read_frames(to_frame([("decisions", {"id": "1", "x": math.inf})])).frames
    assert rows_of(body)[0][1]["x"] == math.inf


@given(st.integers(0, len(b"".join(FRAMES))))
def test_a_torn_frame_is_the_last_and_nothing_is_damaged(end: int) -> None:
    contents = read_frames(b"".join(FRAMES)[:end])
    whole = sum(len(frame) for frame in FRAMES[: len(contents.frames)])
    assert list(contents.frames) == BODIES[: len(contents.frames)]
    assert (contents.damaged, contents.torn) == (0, end - whole)
    assert len(contents.frames) == 4 or contents.torn < len(FRAMES[len(contents.frames)])


@given(st.integers(0, 3), st.data())
def test_a_damaged_frame_is_told_and_costs_no_other(which: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FRAMES[which]) - 1))
    frame = bytearray(FRAMES[which])
    frame[at] ^= data.draw(st.integers(1, 255))
    contents = read_frames(b"".join([*FRAMES[:which], bytes(frame), *FRAMES[which + 1 :]]))
    others = [body for i, body in enumerate(BODIES) if i != which]
    assert list(contents.frames) == others
    assert contents.damaged == len(frame)


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(FRAMES))))
def test_any_bytes_are_read_without_a_crash(parts: list[bytes]) -> None:
    data = b"".join(parts)
    contents = read_frames(data)
    whole = sum(len(to_frame(rows_of(body))) for body in contents.frames)
    assert whole + contents.damaged + contents.torn == len(data)


@given(st.one_of(st.binary(), st.text().map(str.encode), st.just(b"[" * 100_000)))
def test_a_body_that_is_no_decision_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        rows_of(body)


def test_a_newer_version_is_left_alone() -> None:
    start = FRAMES[0][:4] + struct.pack("<H", 2) + FRAMES[0][6:16]
    newer = start + struct.pack("<I", zlib.crc32(start)) + FRAMES[0][20:]
    with pytest.raises(FormatError, match="version 2"):
        read_frames(FRAMES[0] + newer)
