"""Settings searched on one period of a log and confirmed on the next; what is refused."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandit_router.config import read_config
from bandit_router.policies import ThompsonSampling
from simulations.offpolicy.draws import Draws
from simulations.tuning.candidates import Candidate
from simulations.tuning.changes import Ground
from simulations.tuning.search import tune_draws
from simulations.tuning.tracks import probabilities, track_of


def log(n: int, *, best: float, seed: int = 0) -> Draws:
    """Return an even log of three models, of which one earns `best` and the others a half."""
    rng = np.random.default_rng(seed)
    x = np.hstack([np.ones((n, 1)), rng.normal(size=(n, 2))])
    chosen = rng.integers(3, size=n)
    even, at = np.full((n, 3), 1 / 3), np.arange(n)
    means = np.array([0.5, best, 0.5])
    return Draws(
        models=("a", "b", "c"),
        x=x,
        at=at.astype(np.float64),
        chosen=chosen,
        logged=even[:, 0],
        probabilities=even,
        mean=np.full((n, 3), 0.5),
        std=np.full((n, 3), 0.1),
        reward=(rng.random(n) < means[chosen]).astype(np.float64),
        paid_usd=np.array([0.1, 0.2, 0.3])[chosen],
        cluster=at,
        turns=n,
        left_out={},
    )


def test_a_better_setting_is_found_and_its_settings_are_read(tmp_path: Path) -> None:
    found = tune_draws(log(1_200, best=0.9), trials=12)
    assert found.recommended is not None
    assert found.recommended.reward.low > 0.1  # 0.27 is all there is; an even log has 0.63
    assert found.recommended.usd is not None
    assert abs(found.recommended.usd.value) < 0.02  # the best costs what an even log costs
    path = tmp_path / "tuned.toml"
    path.write_text(found.recommended.candidate.toml())
    settings = read_config(path).settings
    assert settings["floor"] == found.recommended.candidate.floor
    assert found.finalists[0] == found.recommended


def test_settings_with_a_half_life_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    candidate = Candidate(policy="thompson:width=0.3", floor=0.02, half_life_s=86_400.0)
    path.write_text(candidate.toml())
    settings = read_config(path).settings
    assert settings["policy"] == ThompsonSampling(width=0.3)
    assert settings["half_life"].total_seconds() == 86_400.0
    assert tomllib.loads(candidate.toml()) == {"settings": candidate.document()}


def test_noise_has_no_recommendation() -> None:
    # Each has one chance in forty to err; these three do not.
    assert all(
        tune_draws(log(800, best=0.5, seed=seed), trials=8).recommended is None for seed in range(3)
    )


@pytest.mark.parametrize(
    ("draws", "why"),
    [
        (log(300, best=0.9), "each period needs 200"),
        (replace(log(900, best=0.9), logged=np.ones(900)), "certain"),
        (replace(log(900, best=0.9), chosen=np.zeros(900, dtype=np.int64)), "not those of the draws"),
    ],
)
def test_what_the_log_cannot_support_is_refused(draws: Draws, why: str) -> None:
    found = tune_draws(draws, trials=2)
    assert found.recommended is None
    assert found.refusal is not None
    assert why in found.refusal


def test_the_period_of_confirmation_shares_no_conversation_with_the_search() -> None:
    draws = log(900, best=0.9)
    shared = replace(draws, cluster=np.where(np.arange(900) % 9 == 0, 0, draws.cluster), talks=True)
    assert tune_draws(shared, trials=2).confirmed == 400


def test_what_the_log_does_is_no_change() -> None:
    draws = log(400, best=0.9)
    same = Ground.of(draws).reward(draws.probabilities)
    assert (same.value, same.low, same.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_the_change_of_a_fixed_model_is_near_the_truth() -> None:
    draws = log(1_000, best=0.9)
    p = np.tile([0.0, 1.0, 0.0], (1_000, 1))
    change = Ground.of(draws).reward(p, alpha=1e-3)
    assert change.low < 0.9 - 1.9 / 3 < change.high


def test_beliefs_come_from_earlier_rows_only() -> None:
    draws = log(300, best=0.9)
    other = replace(draws, reward=np.where(np.arange(300) < 150, draws.reward, 1 - draws.reward))
    one, two = track_of(draws, None), track_of(other, None)
    np.testing.assert_array_equal(one.mean[:151], two.mean[:151])
    assert not np.array_equal(one.mean[200:], two.mean[200:])
    p = probabilities(Candidate(policy="greedy", floor=0.03), draws, one)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert p.min() >= 0.01 - 1e-12


def test_a_conversation_teaches_when_it_is_over() -> None:
    draws = log(40, best=0.9)
    over_at, other = draws.at.copy(), draws.reward.copy()
    over_at[5], other[5] = 30.0, 1.0 - other[5]
    one, two = (track_of(replace(draws, over_at=over_at, reward=r), None) for r in (draws.reward, other))
    np.testing.assert_array_equal(one.mean[:30], two.mean[:30])
    assert (one.mean[30:] != two.mean[30:]).any()


def test_what_the_log_could_not_draw_is_no_ground() -> None:
    """Two models had a probability of 0 in a third of the draws: an even policy has no support there."""
    draws = log(600, best=0.9)
    sure = np.arange(600) % 3 == 0
    p = np.where(sure[:, None], np.eye(3)[draws.chosen], draws.probabilities)
    change = Ground.of(replace(draws, probabilities=p, logged=draws.of_chosen(p))).reward(
        np.full((600, 3), 1 / 3)
    )
    assert change.effective == 0.0
