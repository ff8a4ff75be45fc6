"""Checks at the doors: what is wrong says what was wanted."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.values import (
    AMOUNT_LIMIT,
    COUNT_LIMIT,
    NAME_LIMIT,
    check_amount,
    check_count,
    check_name,
    check_number,
    check_time,
    check_unit,
    check_vector,
    clean_text,
    utc,
)

JUNK = [None, True, False, "", "1", b"1", [], {}, object(), 1j, np.bool_(True), np.complex128(1)]
HUGE = pytest.param(10**400, id="huge")
LONG = pytest.param(-(10**5_000), id="longer than python prints")


@pytest.mark.parametrize("name", ["a", "gpt-4o", "user:42", "größe 5", "模型", "x" * NAME_LIMIT])
def test_good_names(name: str) -> None:
    assert check_name("user", name) == name


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        *((junk, TypeError) for junk in (None, 5, b"a", ["a"], True)),
        *((text, ValueError) for text in ("", "x" * (NAME_LIMIT + 1), "a\nb", "\0", "\ud800", "\u202e")),
    ],
)
def test_bad_names(bad: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^user: expected"):
        check_name("user", bad)


@pytest.mark.parametrize("good", [0, 1, -1.5, np.float32(0.5), np.int64(7), np.float64(2), 1e300])
def test_good_numbers(good: float) -> None:
    assert check_number("n", good) == float(good)
    assert type(check_number("n", good)) is float


@pytest.mark.parametrize("check", [check_number, check_unit, check_amount])
@pytest.mark.parametrize("junk", JUNK)
def test_what_is_no_number(check: object, junk: object) -> None:
    with pytest.raises(TypeError, match=r"^n: expected a number, got "):
        check("n", junk)  # type: ignore[operator]  # one of three functions


@pytest.mark.parametrize("check", [check_number, check_unit, check_amount])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), HUGE, LONG])
def test_numbers_that_are_not_finite(check: object, bad: float) -> None:
    with pytest.raises(ValueError, match=r"^n: expected a finite number"):
        check("n", bad)  # type: ignore[operator]  # one of three functions


def test_ranges() -> None:
    assert [check_unit("u", value) for value in (0, 0.5, 1)] == [0.0, 0.5, 1.0]
    assert [check_amount("a", value) for value in (0, 0.5, AMOUNT_LIMIT)] == [0.0, 0.5, AMOUNT_LIMIT]
    assert [check_count("c", value) for value in (0, np.int32(5), COUNT_LIMIT)] == [0, 5, COUNT_LIMIT]
    for bad in (-1e-9, 1 + 1e-9):
        with pytest.raises(ValueError, match=r"u: expected a number from 0 to 1, got"):
            check_unit("u", bad)
    for bad in (-1e-9, 1.01e12):
        with pytest.raises(ValueError, match=r"a: expected a number from 0 to 1e\+12, got"):
            check_amount("a", bad)
    for wrong in (-1, COUNT_LIMIT + 1):
        with pytest.raises(ValueError, match=r"c: expected a whole number from 0"):
            check_count("c", wrong)


@pytest.mark.parametrize("junk", [*JUNK, 1.0, math.nan, np.float64(5)])
def test_what_is_no_count(junk: object) -> None:
    with pytest.raises(TypeError, match="c: expected a whole number, got "):
        check_count("c", junk)


@pytest.mark.parametrize(
    "good", [[1, 2], (1.0, 2.0), np.array([1, 2], np.int8), np.array([1, 2], np.float16)]
)
def test_good_vectors(good: object) -> None:
    vector = check_vector("x", good, 2)
    assert vector.dtype == np.float64
    assert vector.tolist() == [1.0, 2.0]
    assert not vector.flags.writeable


def test_a_vector_is_a_copy() -> None:
    given_ = np.array([1.0, 2.0])
    vector = check_vector("x", given_)
    given_[0] = 9.0
    assert vector[0] == 1.0
    assert given_.flags.writeable


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0], r"expected shape \(2,\), got \(1,\)"),
        ([[1.0, 2.0]], r"got \(1, 2\)"),
        (5.0, r"got \(\)"),
        ([], r"got \(0,\)"),
        ([1.0, math.nan], "expected finite numbers, got nan"),
        ([1.0, -math.inf], "expected finite numbers, got -inf"),
        ([1.0, [2.0]], "vector of numbers"),
        ([1.0, None], "vector of numbers"),
        (["1", "2"], "vector of numbers"),
        ([True, False], "vector of numbers"),
        ([1j, 0], "vector of numbers"),
        ([10**400, 0], "vector of numbers"),
        ("12", "vector of numbers"),
        (b"12", "vector of numbers"),
        (None, "vector of numbers"),
        ({1: 2}, "vector of numbers"),
        ({1, 2}, "vector of numbers"),
        (object(), "vector of numbers"),
        (np.array(["2026-01-01", "2026-01-02"], "M8[D]"), "vector of numbers"),
    ],
)
def test_bad_vectors(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^x: .*{message}"):
        check_vector("x", bad, 2)


def test_times() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert check_time("at", noon, 5.0) == noon.timestamp()
    assert check_time("at", noon.astimezone(timezone(timedelta(hours=9))), 5.0) == noon.timestamp()
    assert check_time("at", None, 5.0) == 5.0
    assert check_time("at", 1.23456789, 5.0) == 1.234568
    for text in ("2026-07-01T12:00:00Z", "2026-07-01T21:00:00.000000+09:00"):
        assert check_time("at", text, 5.0) == noon.timestamp()
    assert utc(check_time("at", noon, 5.0)) == noon
    assert utc(check_time("at", 253402300799.0, 5.0)).year == 9999


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (datetime(2026, 7, 1), ValueError, "with a zone"),
        (-1, ValueError, "1970 to 9999"),
        (253402300800, ValueError, "1970 to 9999"),
        (datetime(1, 1, 1, tzinfo=UTC), ValueError, "1970 to 9999"),
        (math.nan, ValueError, "finite"),
        pytest.param(10**400, ValueError, "finite", id="huge"),
        (True, TypeError, "number"),
        (b"2026-07-01", TypeError, "number"),
        ("yesterday", ValueError, "RFC 3339"),
        ("", ValueError, "RFC 3339"),
        ("2026-07-01T12:00:00", ValueError, "with a zone"),
        ("1969-07-01T12:00:00Z", ValueError, "1970 to 9999"),
    ],
)
def test_bad_times(bad: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^at: .*{message}"):
        check_time("at", bad, 5.0)  # type: ignore[arg-type]  # that is what is tested


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_can_be_encoded(text: str) -> None:
    cleaned = clean_text("text", text)
    cleaned.encode()
    assert "\0" not in cleaned
    assert len(cleaned) <= len(text)
    assert clean_text("text", cleaned) == cleaned


def test_a_good_text_stays() -> None:
    for text in ("", "plain", "größe 模型 🚀", "\N{BYTE ORDER MARK}x"):
        assert clean_text("text", text) == text
    assert clean_text("text", "a\0\ud83d\ude00\udc00b") == "a\ufffd\N{GRINNING FACE}\ufffdb"
    with pytest.raises(ValueError, match="at most 3 characters, got 4"):
        clean_text("text", "abcd", 3)
    with pytest.raises(TypeError, match="got bytes"):
        clean_text("text", b"abc")
