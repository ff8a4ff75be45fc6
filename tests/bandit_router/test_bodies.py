"""Strict JSON, and fields that agree with the library's limits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bandit_router.bodies import DEPTH_LIMIT, Amount, Body, Count, Name, Text, read_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)  # fmt: skip


class Fields(Body):
    name: Name | None = None
    text: Text | None = None
    amount: Amount | None = None
    count: Count | None = None


@given(JSON)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert read_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"NaN", "got NaN"),
        (b"[-Infinity]", "got -Infinity"),
        (b"1e999", "finite"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        (b'{"x": {"\\ud83d": 1, "\\ud83d": 2}}', "twice"),
        (b"\xff", "UTF-8"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b"9" * 5_000, "integer"),
        (b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1), "levels"),
        (b"[" * 100_000, "levels"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_refused(data: bytes, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        read_json(data)


def test_the_deepest_and_the_widest_are_read() -> None:
    deep = b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT
    assert read_json(deep)
    assert len(read_json(b"[" + b"[],{}," * 1_000 + b"1]")) == 2_001


@pytest.mark.parametrize(
    "given",
    [
        *({"name": ""}, {"name": "x" * 256}, {"name": "a\nb"}, {"name": 1}, {"name": "\ud83d"}),
        *({"text": "x" * 4_000_001}, {"text": b"x"}, {"amount": float("inf")}, {"amount": -1.0}),
        *({"amount": "1"}, {"amount": True}, {"count": 1.0}, {"count": -1}, {"count": 10**13}, {"other": 1}),
    ],
    ids=lambda given: repr(given)[:30],
)  # fmt: skip
def test_fields_that_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Fields.model_validate(given)


def test_fields_that_are_read() -> None:
    read = Fields.model_validate({"name": "é 模型", "text": "a\ud83d\0", "amount": 1, "count": 0})
    assert (read.name, read.text) == ("é 模型", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}")
    assert (read.amount, read.count) == (1.0, 0)
