"""The log as arrays, and IPS on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router import EventLog, Greedy, Model, Outcome, Router, Uniform
from simulations.estimators import ips
from simulations.rounds import read


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


def test_a_log_comes_back_as_arrays(url: str) -> None:
    with Router.open(url, models=[Model("b"), Model("a", output_usd_per_mtok=1.0)]) as router:
        decisions = [router.choose(f"x {i}") for i in range(6)]
        router.feedback(decisions[1].id, "rating", 0.25)
        router.feedback(decisions[2].id, "rating", 0.5)
        router.feedback(decisions[2].id, "rating", 0.75)
        other = "a" if decisions[3].model == "b" else "b"
        router.report(decisions[3].id, Outcome(model=other, output_tokens=4))
        forced = router.choose("forced", models=["a"])
    with EventLog.open(url) as log:
        rounds = read(log)
        late = read(log, since=decisions[4].at)
    assert rounds.models == ("a", "b")
    assert len(rounds) == 7
    assert len(late) == 3
    assert [rounds.models[k] for k in rounds.chosen] == [d.model for d in [*decisions, forced]]
    for i, decision in enumerate(decisions):
        assert rounds.x[i].tobytes() == decision.features.tobytes()
        assert dict(zip(rounds.models, rounds.probabilities[i], strict=True)) == decision.probabilities
    np.testing.assert_equal(rounds.reward[:3], [np.nan, 0.25, 0.75])
    assert rounds.weight[:3].tolist() == [0.0, 1.0, 1.0]
    # Served by another, and forced: neither says what a policy would have got.
    assert rounds.drawn.tolist() == [True, True, True, False, True, True, False]
    assert rounds.probabilities[6].tolist() == [1.0, 0.0]
    assert np.isnan(rounds.mean[6, 1])
    assert rounds.under(Uniform())[6].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(rounds.under(Greedy()).sum(axis=1), 1.0)
    floored = rounds.under(Greedy(), floor=0.1)
    np.testing.assert_allclose(floored.sum(axis=1), 1.0)
    assert floored[0].min() >= 0.05
    assert floored[6].tolist() == [1.0, 0.0]


def test_empty_and_unknown_are_said(url: str) -> None:
    Router.open(url, models=[Model("a")]).close()
    with EventLog.open(url) as log:
        with pytest.raises(ValueError, match="decided nothing"):
            read(log)
        with pytest.raises(ValueError, match="no router"):
            read(log, "absent")


def test_ips_by_hand() -> None:
    target, logged = np.array([0.5, 1.0, 0.0, 0.5]), np.array([0.25, 0.5, 0.5, 0.5])
    reward = np.array([1.0, 0.5, 1.0, 0.0])
    estimate = ips(target, logged, reward)
    # Terms 2, 1, 0, 0: mean 3/4, standard deviation 0.957, Student's t with 3 degrees 3.182.
    assert estimate.value == pytest.approx(0.75)
    assert estimate.high - estimate.value == pytest.approx(3.18245 * 0.957427 / 2, rel=1e-5)
    assert estimate.effective == pytest.approx(25 / 9)


def test_ips_is_unbiased_and_its_interval_covers() -> None:
    rng = np.random.default_rng(4)
    truth = np.array([0.2, 0.5, 0.8])
    logging, target = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])
    value, covered, estimates = float(target @ truth), 0, []
    for _ in range(400):
        arm = rng.choice(3, size=500, p=logging)
        reward = (rng.random(500) < truth[arm]).astype(np.float64)
        estimate = ips(target[arm], logging[arm], reward)
        covered += estimate.low <= value <= estimate.high
        estimates.append(estimate.value)
    # 400 Bernoulli trials at .95: fewer than 360 happen once in 2e5; the seed is fixed.
    assert covered >= 360
    assert abs(np.mean(estimates) - value) < 4 * np.std(estimates) / 20


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_the_logging_policy_itself_is_the_plain_mean(rows: list[tuple[float, float]]) -> None:
    p, reward = (np.array(column) for column in zip(*rows, strict=True))
    assert ips(p, p, reward).value == pytest.approx(reward.mean())
    assert ips(p, p, reward).effective == pytest.approx(len(rows))


@pytest.mark.parametrize(
    ("target", "logged", "reward"),
    [
        ([1.0], [1.0], [1.0]),
        ([1.0, 1.0], [1.0, 0.0], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, 1.5], [1.0, 1.0]),
        ([1.0, 1.0], [1.0, np.nan], [1.0, 1.0]),
        ([1.0, 1.0], [1.0], [1.0, 1.0]),
    ],
)
def test_ips_refuses_what_it_cannot_tell(
    target: list[float], logged: list[float], reward: list[float]
) -> None:
    with pytest.raises(ValueError):
        ips(np.array(target), np.array(logged), np.array(reward))
