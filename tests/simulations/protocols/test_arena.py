"""RouterArena's score against its own leaderboard and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.protocols.arena import arena_score


@pytest.mark.parametrize(
    ("accuracy", "usd_per_1000", "published"),
    [(66.88, 0.15, 66.89), (68.09, 0.54, 66.66), (66.34, 0.21, 66.12), (73.96, 10.02, 64.32)],
)
def test_the_leaderboard(accuracy: float, usd_per_1000: float, published: float) -> None:
    # Costs are published to the cent, which moves the score by up to .25 at 0.15.
    assert 100 * arena_score(accuracy / 100, usd_per_1000) == pytest.approx(published, abs=0.25)


def test_the_score_by_hand() -> None:
    # In the middle of the scale of costs, sqrt(200 * .0044) = .938, C is 1/2: 1.1 * .8 * .5 / (.08 + .5).
    assert arena_score(0.8, math.sqrt(200 * 0.0044)) == pytest.approx(0.44 / 0.58)
    # At the cheap end C is 1, at the dear end 0; beyond them nothing changes.
    assert arena_score(0.8, 0.0044) == pytest.approx(0.88 / 1.08)
    assert arena_score(0.8, 0.0) == arena_score(0.8, 0.0044)
    assert arena_score(0.8, 200.0) == arena_score(0.8, 1e6) == 0.0
    assert arena_score(0.0, 1.0) == 0.0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 300), st.floats(0, 300))
def test_better_and_cheaper_never_score_less(a: float, b: float, c: float, d: float) -> None:
    assert arena_score(max(a, b), min(c, d)) >= arena_score(min(a, b), max(c, d)) - 1e-12
    assert 0.0 <= arena_score(a, c) <= 1.0 + 1e-12


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy: expected a number from 0 to 1"):
        arena_score(66.9, 0.15)
    with pytest.raises(ValueError, match="usd_per_1000"):
        arena_score(0.5, -1.0)
