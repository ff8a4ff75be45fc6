"""Price weights for a share or a drop, worked out by hand and held to what a router would choose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bandit_router.errors import SettingsError
from simulations.protocols.calibrating import Target, for_drop, for_share, worth

# Four requests: the strong model is better by .4, .2, .1 and worse by .1, and dearer by 4, 1, 2 and 2.
QUALITY = np.array([[0.5, 0.9], [0.5, 0.7], [0.5, 0.6], [0.5, 0.4]])
COST = np.array([[1.0, 5.0], [1.0, 2.0], [1.0, 3.0], [1.0, 3.0]])
PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 5)), min_size=1, max_size=30)


def test_worth_by_hand() -> None:
    # With a unit of 2: .4 * 2 / 4, .2 * 2 / 1, .1 * 2 / 2, -.1 * 2 / 2.
    np.testing.assert_allclose(worth(QUALITY, COST, cost_unit_usd=2.0), [0.2, 0.4, 0.1, -0.1])


def test_a_strong_model_that_costs_no_more_is_free() -> None:
    limit = worth([[0.5, 0.9], [0.9, 0.5]], [[2.0, 1.0], [2.0, 2.0]], cost_unit_usd=1.0)
    assert limit.tolist() == [np.inf, -np.inf]


def test_a_share_by_hand() -> None:
    half = for_share(QUALITY, COST, 0.5, cost_unit_usd=2.0)
    # The second and the first are worth most; the weight lies between .2 and .1. Of the rest .1 - .1 is lost.
    assert half.price_weight == pytest.approx(0.15)
    assert (half.share, half.drop) == (0.5, pytest.approx(0.0))
    quarter = for_share(QUALITY, COST, 0.25, cost_unit_usd=2.0)
    assert (quarter.price_weight, quarter.share) == (pytest.approx(0.3), 0.25)
    # Without the first, too: (.4 + .1 - .1) / 4.
    assert quarter.drop == pytest.approx(0.1)


def test_no_weight_sends_more_than_what_is_better() -> None:
    whole = for_share(QUALITY, COST, 1.0, cost_unit_usd=2.0)
    assert (whole.price_weight, whole.share) == (0.0, 0.75)
    assert whole.drop == pytest.approx(-0.025)


def test_a_drop_by_hand() -> None:
    # All strong is .65. Only the second: (.5 * 3 + .7) / 4 = .55, a drop of .1; with the first .65, none.
    assert for_drop(QUALITY, COST, 0.1, cost_unit_usd=2.0).share == 0.25
    assert for_drop(QUALITY, COST, 0.09, cost_unit_usd=2.0).share == 0.5
    # .15 may be lost, which is all that the strong model wins.
    assert for_drop(QUALITY, COST, 0.15, cost_unit_usd=2.0).share == 0.0


@given(PAIRS, st.floats(0, 1))
def test_the_share_is_what_a_router_of_that_weight_sends(
    rows: list[tuple[float, float, float]], share: float
) -> None:
    weak, strong, dearer = np.array(rows).T
    quality, cost = (
        np.column_stack([weak, strong]),
        np.column_stack([np.ones_like(dearer), 1.0 + dearer]),
    )
    found = for_share(quality, cost, share, cost_unit_usd=1.0)
    utility = quality - found.price_weight * cost
    better = utility[:, 1] - utility[:, 0]
    # A tie within rounding may go either way.
    assert np.mean(better > 1e-9) - 1e-12 <= found.share <= np.mean(better > -1e-9) + 1e-12
    if (np.abs(better) > 1e-9).all():
        kept = np.where(better > 0, strong, weak)
        assert found.drop == pytest.approx((strong - kept).mean(), abs=1e-8)


@given(PAIRS, st.floats(0, 0.5))
def test_a_drop_is_kept(rows: list[tuple[float, float, float]], drop: float) -> None:
    weak, strong, dearer = np.array(rows).T
    quality, cost = (
        np.column_stack([weak, strong]),
        np.column_stack([np.ones_like(dearer), 1.0 + dearer]),
    )
    limit = worth(quality, cost, cost_unit_usd=1.0)
    # Requests that are worth the same go the same way, and may take more along than was allowed.
    assume((strong - weak).mean() > 0 and len(np.unique(np.round(limit, 9))) == len(limit))
    assert for_drop(quality, cost, drop, cost_unit_usd=1.0).drop <= drop + 1e-9


def test_what_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected one of a share"):
        Target()
    with pytest.raises(SettingsError, match="expected one of a share"):
        Target(share=0.5, drop=0.1)
    with pytest.raises(SettingsError, match="nothing can drop"):
        for_drop(QUALITY[:, ::-1], COST, 0.1, cost_unit_usd=1.0)
    with pytest.raises(ValueError, match="share: expected a number from 0 to 1"):
        for_share(QUALITY, COST, 30, cost_unit_usd=1.0)
