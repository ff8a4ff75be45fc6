"""Reward models do not know of what they are asked about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.offpolicy.coverage import draw_log, scenery_of
from simulations.offpolicy.crossfit import cross_fitted, foretold_before
from simulations.offpolicy.draws import Draws
from simulations.worlds import small_world


@pytest.fixture(scope="module")
def draws() -> Draws:
    return draw_log(scenery_of(small_world(0).table(300, 1), dim=6), 700, np.random.default_rng(0))[0]


def test_a_row_is_foretold_by_others(draws: Draws) -> None:
    """Another reward of one conversation changes what is foretold, but not of that conversation."""
    talk = draws.cluster // 7
    reward = np.where(talk == 3, 1.0 - draws.reward, draws.reward)
    before = cross_fitted(replace(draws, cluster=talk))
    after = cross_fitted(replace(draws, cluster=talk, reward=reward))
    assert (before[talk == 3] == after[talk == 3]).all()
    assert (before != after).any()
    assert (before >= 0).all()
    assert (before <= 1).all()


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 700])
def test_a_row_is_foretold_by_earlier_ones(draws: Draws, n: int) -> None:
    some = replace(draws, x=draws.x[:n], chosen=draws.chosen[:n], reward=draws.reward[:n])
    found = foretold_before(some)
    assert found.shape == (n, len(draws.models))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, foretold_before(draws)[:n])


def test_later_rewards_change_nothing_before_the_next_block(draws: Draws) -> None:
    late = replace(draws, reward=np.where(np.arange(700) < 200, draws.reward, 0.0))
    before, after = foretold_before(draws), foretold_before(late)
    assert (before[:256] == after[:256]).all()  # blocks begin at 0, 64, 128, 256, 512
    assert (before[256:] != after[256:]).any()
