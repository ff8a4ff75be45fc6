"""Estimators against values worked out another way, and what follows from their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.values import Array
from simulations import estimators as est

TARGET = np.array([0.5, 1.0, 0.0, 0.5, 0.2])
LOGGED = np.array([0.25, 0.5, 0.5, 0.5, 0.02])
REWARD = np.array([1.0, 0.5, 1.0, 0.0, 0.25])
Q = np.array([0.75, 0.5, 0.5, 0.25, 0.5])
V = np.array([0.5, 0.5, 0.75, 0.5, 0.25])
# w = 2, 2, 0, 1, 10; w r = 2, 1, 0, 0, 2.5; w (r - q) = .5, 0, 0, -.25, -2.5; sum v = 2.5


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (est.ips(TARGET, LOGGED, REWARD), 5.5 / 5),
        (est.clipped_ips(TARGET, LOGGED, REWARD, clip=2.0), 3.5 / 5),
        (est.snips(TARGET, LOGGED, REWARD), 5.5 / 15),
        (est.direct(V), 0.5),
        (est.dr(TARGET, LOGGED, REWARD, Q, V), (2.5 - 2.25) / 5),
        (est.sndr(TARGET, LOGGED, REWARD, Q, V), 0.5 - 2.25 / 15),
        (est.switch_dr(TARGET, LOGGED, REWARD, Q, V, tau=2.0), (2.5 + 0.25) / 5),
        # lambda = 4: w becomes 8/8, 8/8, 0, 4/5, 40/104.
        (
            est.dros(TARGET, LOGGED, REWARD, Q, V, shrink=4.0),
            (2.5 + 0.25 - 0.2 - 0.25 * 40 / 104) / 5,
        ),
    ],
)
def test_values_by_hand(found: est.Estimate, value: float) -> None:
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.n == 5
    assert found.low <= found.value <= found.high


def test_parameters_lead_from_one_estimator_to_another() -> None:
    plain, doubly = (TARGET, LOGGED, REWARD), (TARGET, LOGGED, REWARD, Q, V)
    assert est.clipped_ips(*plain, clip=1e9) == est.ips(*plain)
    assert est.switch_dr(*doubly, tau=1e9).value == est.dr(*doubly).value
    assert est.switch_dr(*doubly, tau=0.0).value == est.direct(V).value
    assert est.dros(*doubly, shrink=0.0).value == est.direct(V).value
    assert est.dros(*doubly, shrink=1e12).value == pytest.approx(est.dr(*doubly).value)
    zero = np.zeros(5)
    assert est.dr(*plain, zero, zero).value == est.ips(*plain).value
    assert est.sndr(*plain, zero, zero).value == pytest.approx(est.snips(*plain).value)


def test_rejection_is_agreement_where_the_log_is_even() -> None:
    target, logged = np.array([1.0, 0.0, 1.0, 0.0]), np.full(4, 0.25)
    found = est.replay(target, logged, np.array([1.0, 1.0, 0.5, 0.0]))
    assert (found.value, found.effective) == (0.75, 2.0)
    with pytest.raises(ValueError, match="both policies draw"):
        est.replay(np.zeros(4), logged, np.ones(4))


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_the_logging_policy_itself_is_the_plain_mean(rows: list[tuple[float, float]]) -> None:
    p, reward = (np.array(column) for column in zip(*rows, strict=True))
    for estimator in (est.ips, est.snips, est.replay):
        assert estimator(p, p, reward).value == pytest.approx(reward.mean())
    assert est.effective_size(p / p) == pytest.approx(len(rows))


def test_rows_of_one_conversation_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    reward = np.repeat(rng.random(50), 4)
    ones, talk = np.ones(200), np.repeat(np.arange(50), 4)
    alone, together = (est.ips(ones, ones, reward, clusters=c) for c in (None, talk))
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2.0, rel=0.05)  # sqrt(4): four copies say what one does
    kept = [est.replay(ones, ones, reward, clusters=c) for c in (None, talk)]
    assert [each.high for each in kept] == pytest.approx([alone.high, together.high])
    drawn = est.ips(ones, ones, reward, clusters=talk, interval="bootstrap")
    assert (drawn.high - drawn.low) / (together.high - together.low) == pytest.approx(1.0, abs=0.1)


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
def test_what_cannot_be_weighed_is_refused(
    target: list[float], logged: list[float], reward: list[float]
) -> None:
    arrays: list[Array] = [np.array(values) for values in (target, logged, reward)]
    for estimator in (est.ips, est.snips, est.replay, est.clipped_ips):
        with pytest.raises(ValueError):
            estimator(*arrays)
    with pytest.raises(ValueError):
        est.snips(np.zeros(3), np.ones(3), np.ones(3))


def test_ips_by_hand() -> None:
    target, logged = np.array([0.5, 1.0, 0.0, 0.5]), np.array([0.25, 0.5, 0.5, 0.5])
    reward = np.array([1.0, 0.5, 1.0, 0.0])
    estimate = est.ips(target, logged, reward)
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
        estimate = est.ips(target[arm], logging[arm], reward)
        covered += estimate.low <= value <= estimate.high
        estimates.append(estimate.value)
    # 400 Bernoulli trials at .95: fewer than 360 happen once in 2e5; the seed is fixed.
    assert covered >= 360
    assert abs(np.mean(estimates) - value) < 4 * np.std(estimates) / 20
