"""Rows: what is divided by what, which side of a bar is which, and who takes turns."""

from __future__ import annotations

import pytest

from simulations.benches.rows import Bar, Effort, Row, interleaved, median_us


def test_a_ratio_is_ours_by_theirs() -> None:
    row = Row(bench="b", what="w", unit="us", ours=3.0, against="floor", theirs=2.0, bar=Bar(limit=1.5))
    assert (row.ratio, row.met) == (1.5, True)
    assert row.plain() == {
        "bench": "b",
        "what": "w",
        "unit": "us",
        "ours": 3.0,
        "against": "floor",
        "theirs": 2.0,
        "ratio": 1.5,
        "met": True,
        "note": "",
        "bar": "≤ 1.5x",
    }


def test_what_is_absent_is_not_guessed() -> None:
    row = Row(bench="b", what="w", unit="us", ours=3.0, against="peer", bar=Bar(limit=1.5))
    assert (row.ratio, row.met) == (None, None)
    assert Row(bench="b", what="w", unit="us", ours=3.0, against="peer", theirs=1.0).met is None


def test_a_bar_may_bound_ours_from_below() -> None:
    bar = Bar(limit=20_000, at_least=True, ratio=False)
    assert str(bar) == "≥ 2e+04"
    assert [Row(bench="b", what="w", unit="/s", ours=v, bar=bar).met for v in (1.0, 2e4)] == [
        False,
        True,
    ]


def test_contestants_take_turns_and_the_median_counts() -> None:
    told: list[str] = []
    values = {"a": iter((9.0, 1.0, 2.0)), "b": iter((5.0, 5.0, 6.0))}

    def one(name: str) -> float:
        told.append(name)
        return next(values[name])

    found = interleaved({"a": lambda: one("a"), "b": lambda: one("b")}, 3)
    assert (found, told) == ({"a": 2.0, "b": 5.0}, ["a", "b"] * 3)


def test_calls_are_counted_and_take_time() -> None:
    calls: list[None] = []
    assert median_us(lambda: calls.append(None), 5) >= 0
    assert len(calls) == 5


@pytest.mark.parametrize("name", ["rounds", "calls", "log_rows"])
def test_nothing_cannot_be_measured(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        Effort(**{name: 0})
