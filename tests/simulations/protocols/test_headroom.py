"""The headroom of a table: by hand where nothing is learnt, and in order where something is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit_router.features import HashedFeatures
from simulations.protocols.headroom import LINEAR, headroom, over_prompts
from simulations.simulate import simulate, stage
from simulations.worlds import small_world

TABLE = small_world(0).table(300, 1)


def test_references_and_routers() -> None:
    scene = replace(stage(TABLE, HashedFeatures()), price_weight=0.3)
    runs = simulate(TABLE, ["thompson", "best-fixed"], seeds=2, price_weights=[0.3])
    result = headroom(scene, runs)
    found = {line.router: {k: v[0] for k, v in line.numbers.items()} for line in result.lines}
    assert list(found) == ["random", "best single", "thompson", "best-fixed", LINEAR, "oracle"]
    reward = TABLE.reward(0.3)
    assert found["random"]["reward"] == pytest.approx(reward.mean())
    assert found["best single"]["reward"] == pytest.approx(reward.mean(axis=0).max())
    assert found["oracle"]["reward"] == pytest.approx(reward.max(axis=1).mean())
    assert found["best single"]["gain"] == 0.0
    assert found["best-fixed"] == pytest.approx(found["best single"])
    assert found["oracle"]["gain"] > found[LINEAR]["gain"]
    if TABLE.latency_s is not None:
        assert found["random"]["latency_s"] == pytest.approx(np.nanmean(TABLE.latency_s), rel=0.05)
    curve = result.curves["regret of best-fixed against oracle"]
    assert curve[-1] == pytest.approx(
        [300, -300 * (found["best single"]["reward"] - found["oracle"]["reward"])]
    )
    np.testing.assert_allclose(
        result.curves["regret of best-fixed against best single"][:, 1], 0.0, atol=1e-9
    )


def test_an_interval_over_prompts_by_hand() -> None:
    # Of 0, 0, 1, 1: mean 1/2, standard deviation sqrt(1/3), t(.975, 3) = 3.1824.
    mean, low, high = over_prompts(np.array([0.0, 0.0, np.nan, 1.0, 1.0]))
    assert (mean, high - mean, mean - low) == pytest.approx((0.5, 0.91869, 0.91869), rel=1e-4)
    assert np.isnan(over_prompts(np.array([np.nan]))).all()
