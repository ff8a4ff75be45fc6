"""A log whose probabilities are wrong is noticed, and one whose are right is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.offpolicy.coverage import Scenery, draw_log, scenery_of
from simulations.offpolicy.diagnosis import calibration, reach
from simulations.offpolicy.draws import Draws
from simulations.worlds import small_world


@pytest.fixture(scope="module")
def scene() -> Scenery:
    return scenery_of(small_world(0).table(500, 1))


def lied(draws: Draws, p: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Draws:
    return replace(draws, probabilities=p, logged=p[np.arange(len(p)), draws.chosen])


def test_sound_probabilities_are_let_be_and_wrong_ones_noticed(scene: Scenery) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        draws, _ = draw_log(scene, 2_000, rng)
        assert calibration(draws).sound  # each fails once in ten thousand
        swapped = lied(draws, draws.probabilities[:, [1, 0, 2, 3]])
        assert not calibration(swapped).sound
        assert not calibration(lied(draws, np.full((2_000, 4), 0.25))).sound


def test_even_probabilities_are_noticed_though_all_models_are_drawn_alike() -> None:
    """Two kinds of prompts, each with its own best model: 1/2 fits every model's count."""
    rng, n = np.random.default_rng(1), 1_000
    mean = np.where((np.arange(n) % 2 == 0)[:, None], [0.6, 0.5], [0.5, 0.6])
    scene = Scenery(
        models=("a", "b"), x=np.ones((n, 1)), quality=mean, mean=mean, std=0.1 * mean,
        logging=np.where(mean > 0.55, 0.9, 0.1), target=mean,
    )  # fmt: skip
    draws, _ = draw_log(scene, n, rng)
    found = calibration(lied(draws, np.full((n, 2), 0.5)))
    assert found.worst.what == "promise"
    assert not found.sound


def test_reach_by_hand(scene: Scenery) -> None:
    draws, _ = draw_log(scene, 2_000, np.random.default_rng(2))
    own = reach(draws, draws.probabilities, np.ones(2_000, dtype=bool))
    assert (own.overlap, own.mean_weight, own.effective) == pytest.approx((1.0, 1.0, 2_000.0))
    other = reach(draws, scene.target[np.zeros(2_000, dtype=int)], np.ones(2_000, dtype=bool))
    assert other.effective < 2_000
    error = np.sqrt((scene.target[0] ** 2 / draws.probabilities).sum(axis=1) - 1)
    z = (other.mean_weight - 1) / np.sqrt((error**2).sum()) * 2_000
    assert other.z == pytest.approx(z)
    assert abs(other.z) < 4


def test_large_weights_that_were_not_drawn_are_no_alarm(scene: Scenery) -> None:
    """One model is drawn once in two thousand: its weight is mostly missing, and the mean far below one."""
    p = np.tile([0.4995, 0.3, 0.2, 0.0005], (len(scene.x), 1))
    rare = np.tile([0.0, 0.0, 0.0, 1.0], (1_000, 1))
    rng, z = np.random.default_rng(3), []
    for _ in range(20):
        draws, _ = draw_log(replace(scene, logging=p), 1_000, rng)
        z.append(reach(draws, rare, np.ones(1_000, dtype=bool)).z)
    assert min(z) > -1  # with no draw at all it is -0.7
    assert max(z) < 6  # six draws where half of one is expected: once in seventy thousand
