"""The willingness to pay and the cascade, worked out by hand and held to their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.protocols.routes import cascade, mean_points, willing_choices, willingness_grid

# Two prompts, three models from cheap to dear.
QUALITY = np.array([[0.0, 1.0, 1.0], [0.5, 0.0, 1.0]])
COST = np.array([[1.0, 2.0, 8.0], [1.0, 2.0, 4.0]])
GRIDS = st.lists(
    st.tuples(*(st.integers(0, 4).map(lambda q: q / 4) for _ in range(3))), min_size=1, max_size=8
)


def test_choices_by_hand() -> None:
    choices = willing_choices(QUALITY, COST, [0.0, 2.0, 7.0, np.inf])
    # Nothing to pay: the cheapest. At 2: (-1, 0, -6) and (0, -2, -2). At 7: (-1, 5, -1) and (2.5, -2, 3).
    # At infinity the best, and of the two best for the first prompt the cheaper.
    np.testing.assert_array_equal(choices, [[0, 0], [1, 0], [1, 2], [1, 2]])
    points = mean_points(choices, QUALITY, COST)
    np.testing.assert_allclose(points, [[1, 0.25], [1.5, 0.75], [3, 1], [3, 1]])


def test_ties_go_to_the_better_where_the_costs_are_equal() -> None:
    assert willing_choices([[0.1, 0.9]], [[1.0, 1.0]], [0.0]).tolist() == [[1]]


@given(GRIDS)
def test_more_to_pay_never_costs_less_nor_promises_less(rows: list[tuple[float, float, float]]) -> None:
    quality = np.array(rows)
    cost = np.broadcast_to([1.0, 3.0, 7.0], quality.shape)
    points = mean_points(willing_choices(quality, cost, willingness_grid(3.0)), quality, cost)
    assert (np.diff(points, axis=0) >= -1e-12).all()
    assert points[0].tolist() == [1.0, pytest.approx(quality[:, 0].mean())]
    assert points[-1, 1] == pytest.approx(quality.max(axis=1).mean())


def test_a_cascade_whose_judge_is_right() -> None:
    # The first prompt: 0 is not enough, 1 is: pays 1 + 2. The second: .5 and 0 are not: pays 1 + 2 + 4.
    cost, quality = cascade(QUALITY, COST, threshold=1.0)
    assert (cost, quality) == (pytest.approx((3 + 7) / 2), pytest.approx(1.0))
    # When half is enough the second prompt stops at once.
    assert cascade(QUALITY, COST, threshold=0.5) == (pytest.approx((3 + 1) / 2), pytest.approx(0.75))


def test_a_cascade_whose_judge_errs_by_hand() -> None:
    # Errs once in four. First prompt: stops at 0 in 1/4; else pays 2 more and stops at 1 in 3/4, else pays 8.
    # Quality 3/4 * 1; cost 1 + 3/4 * 2 + 3/4 * 1/4 * 8 = 4.
    # Second: stops at .5 in 1/4, at 0 in 3/4 * 1/4; cost 1 + 3/4 * 2 + 9/16 * 4 = 4.75, quality 1/8 + 9/16.
    cost, quality = cascade(QUALITY, COST, threshold=1.0, error=0.25)
    assert cost == pytest.approx((4 + 4.75) / 2)
    assert quality == pytest.approx((0.75 + 0.125 + 0.5625) / 2)


def test_a_cap_ends_the_cascade() -> None:
    # With 4 to spend the third answer, which would make 11 and 7, is not asked for.
    assert cascade(QUALITY, COST, threshold=1.0, cap_usd=4.0) == (pytest.approx(3.0), pytest.approx(0.5))
    # What costs as much as is left is not asked for either; the first answer always is.
    assert cascade(QUALITY, COST, threshold=1.0, cap_usd=3.0) == (
        pytest.approx(1.0),
        pytest.approx(0.25),
    )
    assert cascade(QUALITY, COST, threshold=1.0, cap_usd=0.0) == (
        pytest.approx(1.0),
        pytest.approx(0.25),
    )


@given(GRIDS, st.floats(0, 1), st.floats(0, 20))
def test_a_cascade_lies_between_its_models(
    rows: list[tuple[float, float, float]], error: float, cap: float
) -> None:
    quality = np.array(rows)
    cost = np.broadcast_to([1.0, 3.0, 7.0], quality.shape)
    spent, got = cascade(quality, cost, threshold=0.7, error=error, cap_usd=cap)
    assert 1.0 - 1e-9 <= spent <= 11.0 + 1e-9
    assert quality.min() - 1e-9 <= got <= quality.max() + 1e-9


def test_the_cascade_is_what_drawing_the_judges_errors_gives() -> None:
    rng = np.random.default_rng(0)
    spent, got = [], []
    for _ in range(4000):
        row = int(rng.integers(2))
        paid = 0.0
        for k in range(3):
            paid += COST[row, k]
            good = bool(QUALITY[row, k] >= 1.0)
            if (good != (rng.random() < 0.25)) or k == 2:
                break
        spent.append(paid)
        got.append(QUALITY[row, k])
    cost, quality = cascade(QUALITY, COST, threshold=1.0, error=0.25)
    # Means of 4,000 with standard deviations of about 3.7 and .42: five standard errors.
    assert np.mean(spent) == pytest.approx(cost, abs=0.3)
    assert np.mean(got) == pytest.approx(quality, abs=0.035)


def test_an_error_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="error: expected a number from 0 to 1"):
        cascade(QUALITY, COST, threshold=1.0, error=1.5)
