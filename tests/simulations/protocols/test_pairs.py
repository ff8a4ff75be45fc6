"""PGR, APGR, CPT and thresholds, worked out by hand and held to their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.protocols.pairs import apgr, cpt, pgr, share_curve, threshold_for_share

ROWS = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.booleans()), min_size=2, max_size=40)

# Ten prompts by falling score: where the strong model wins, where the weak one, where both are right.
SCORE = np.arange(10, 0, -1) / 10
WEAK = np.array([0, 0, 1, 0, 1, 1, 1, 0, 1, 1], dtype=float)
STRONG = np.array([1, 1, 1, 1, 0, 1, 1, 0, 1, 1], dtype=float)


def test_the_curve_by_hand() -> None:
    curve = share_curve(SCORE, WEAK, STRONG, bins=5)
    # The quantiles at 1, .8, .6, .4, .2, 0 of .1 ... 1 are 1, .82, .64, .46, .28, .1: two more prompts each.
    np.testing.assert_allclose(curve.threshold, [1, 0.82, 0.64, 0.46, 0.28, 0.1])
    np.testing.assert_allclose(curve.share, [0, 0.2, 0.4, 0.6, 0.8, 1])
    # Weak 6 of 10; the first two prompts win 2, the next two 1, then one is lost, then nothing changes.
    np.testing.assert_allclose(curve.quality, [0.6, 0.8, 0.9, 0.8, 0.8, 0.8])
    # The gap is .2: 0, 1, 1.5, 1, 1, 1.
    np.testing.assert_allclose(curve.recovered, [0, 1, 1.5, 1, 1, 1])


def test_apgr_and_cpt_by_hand() -> None:
    curve = share_curve(SCORE, WEAK, STRONG, bins=5)
    # Trapezoids of width .2: (.5 + 1.25 + 1.25 + 1 + 1) * .2 = 1.
    assert apgr(curve) == pytest.approx(1.0)
    # On the first line, from (0, 0) to (.2, 1).
    assert cpt(curve, 0.5) == pytest.approx(0.1)
    assert cpt(curve, 0.8) == pytest.approx(0.16)
    assert (cpt(curve, 0.0), cpt(curve, 1.0)) == (0.0, pytest.approx(0.2))


def test_a_score_that_is_wrong_loses() -> None:
    curve = share_curve(-SCORE, WEAK, STRONG, bins=5)
    # From the other end the quality is .6, .6, .6, .5, .6, .8; of the gap 0, 0, 0, -.5, 0, 1.
    np.testing.assert_allclose(curve.recovered, [0, 0, 0, -0.5, 0, 1], atol=1e-12)
    # (0 + 0 - .25 - .25 + .5) * .2 = 0.
    assert apgr(curve) == pytest.approx(0.0, abs=1e-12)
    assert cpt(curve, 0.5) == pytest.approx(0.9)


def test_equal_scores_are_a_draw() -> None:
    curve = share_curve(np.zeros(10), WEAK, STRONG)
    assert apgr(curve) == pytest.approx(0.5)
    assert cpt(curve, 0.5) == pytest.approx(0.5)


def test_a_random_router_recovers_half() -> None:
    rng = np.random.default_rng(0)
    weak = (rng.random(20_000) < 0.6).astype(float)
    strong = (rng.random(20_000) < 0.8).astype(float)
    curves = [share_curve(rng.random(20_000), weak, strong) for _ in range(5)]
    # One APGR has a standard deviation of about .004, the mean of five .002: .02 is ten of them.
    assert np.mean([apgr(curve) for curve in curves]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([cpt(curve, 0.5) for curve in curves]) == pytest.approx(0.5, abs=0.03)


@given(ROWS)
def test_every_order_of_the_scores_recovers_half_on_average(rows: list[tuple[int, bool, bool]]) -> None:
    score, weak, strong = np.array(rows, dtype=float).T
    if strong.mean() <= weak.mean():
        weak, strong = np.zeros_like(weak), np.ones_like(strong)
    # A score and its opposite: what one sends first, the other sends last.
    both = apgr(share_curve(score, weak, strong)) + apgr(share_curve(-score, weak, strong))
    n, spread = len(rows), np.abs(strong - weak).mean() / (strong.mean() - weak.mean())
    assert both == pytest.approx(1.0, abs=2.0 * spread * (0.1 + 1 / n))  # steps of a tenth


@given(ROWS)
def test_the_ends_are_the_models_themselves(rows: list[tuple[int, bool, bool]]) -> None:
    score, weak, strong = np.array(rows, dtype=float).T
    curve = share_curve(score, weak, strong)
    assert (curve.share[0], curve.share[-1]) == (0.0, 1.0)
    assert (curve.quality[0], curve.quality[-1]) == (weak.mean(), strong.mean())
    assert (np.diff(curve.share) >= 0).all()
    if strong.mean() > weak.mean():
        assert (curve.recovered[0], curve.recovered[-1]) == (0.0, 1.0)
        assert 0.0 <= cpt(curve, 0.2) <= cpt(curve, 0.5) <= cpt(curve, 0.8) <= 1.0


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=50, unique=True), st.floats(0, 1))
def test_the_threshold_gives_the_share(scores: list[int], share: float) -> None:
    reached = np.mean(np.array(scores) >= threshold_for_share(scores, share))
    assert reached == pytest.approx(share, abs=1.0 / len(scores) + 1e-9)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="better than the weak one, got"):
        pgr([0.5], weak=0.5, strong=0.5)
    with pytest.raises(ValueError, match="score: expected finite numbers"):
        share_curve([math.nan, 1.0], [0, 0], [1, 1])
    with pytest.raises(ValueError, match="weak: expected finite numbers"):
        share_curve([0.0], [], [1])
    with pytest.raises(ValueError, match="as many of each, got 2, 1 and 1"):
        share_curve([0.0, 1.0], [0], [1])
    with pytest.raises(ValueError, match="x: expected a number from 0 to 1"):
        cpt(share_curve(SCORE, WEAK, STRONG), 50)
