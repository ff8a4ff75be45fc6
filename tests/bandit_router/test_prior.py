"""What models share: chosen from their sums alone, and handed to a model that is new."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.evidence import Evidence
from bandit_router.posterior import PRECISIONS, Beliefs, Prior, _climb, _marginal, _Sums, fit_prior
from bandit_router.values import Array

DIM = 6
SLOPES = np.array([0.0, 0.3, -0.2, 0.0, 0.0, 0.1])


def evidence(n: int, seed: int, *, level: float, slopes: Array = SLOPES, noise: float = 0.1) -> Evidence:
    generator = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), generator.standard_normal((n, DIM - 1))])
    reward = level + x @ slopes + noise * generator.standard_normal(n)
    own = Evidence(DIM)
    own.add_many(x, np.ones(n), reward, np.zeros(n))
    return own


def test_what_is_hard_for_all_is_expected_to_be_hard_for_a_new_model() -> None:
    beliefs = Beliefs(["old", "older", "new"], DIM)
    known = {"old": evidence(400, 1, level=0.4), "older": evidence(400, 2, level=0.6)}
    beliefs.replace({**beliefs.evidence, **known})
    easy, hard = np.ones(DIM), np.array([1.0, -1.0, 1.0, 1.0, 1.0, -1.0])
    gap = beliefs.predict(easy)[0] - beliefs.predict(hard)[0]
    # Slopes of 800 rewards have standard errors of 0.1 / sqrt(800) = 0.004.
    np.testing.assert_allclose(gap, SLOPES @ (easy - hard), atol=0.05)
    assert beliefs.predict(easy)[1].argmax() == 2


def test_a_shift_of_all_rewards_shifts_all_promises() -> None:
    here, there = (Beliefs(["a", "b"], DIM) for _ in range(2))
    here.replace({"a": evidence(200, 1, level=0.2), "b": evidence(100, 2, level=0.3)})
    there.replace({"a": evidence(200, 1, level=0.5), "b": evidence(100, 2, level=0.6)})
    x = np.ones(DIM)
    # The start value of the mean, worth four of 300 rewards, does not move along.
    np.testing.assert_allclose(there.predict(x)[0] - here.predict(x)[0], 0.3, atol=0.005)


@pytest.mark.parametrize("seed", range(6))
def test_uphill_finds_the_top_of_the_grid(seed: int) -> None:
    slopes = np.random.default_rng(seed).standard_normal(DIM) * 10.0 ** (-seed / 2)
    sums = [_Sums.of(evidence(50, seed + i, level=0.0, slopes=slopes), 1.0) for i in range(3)]
    best = max((_marginal(sums, Prior(precision=p)) for p in PRECISIONS), key=lambda fit: fit[0])[1]
    assert _climb(sums, Prior()) == best


def test_the_order_of_models_does_not_matter() -> None:
    sums = [evidence(50, i, level=0.1 * i) for i in range(4)]
    one, other = fit_prior(sums), fit_prior(sums[::-1])
    assert one.precision == other.precision
    assert one.mean == pytest.approx(other.mean, abs=1e-12)
    assert one.noise == pytest.approx(other.noise, abs=1e-12)


def test_what_was_known_of_the_wrong_models_is_forgotten_for_all() -> None:
    """Only one model was seen, and it is not what it was thought to be: no other is, from then on."""
    known = {name: evidence(500, i, level=0.3 * i) for i, name in enumerate("abc")}
    beliefs = Beliefs(list("abc"), DIM, known=known)
    assert beliefs.predict(np.eye(DIM)[0])[0].argmax() == 2
    beliefs.replace({**beliefs.evidence, "c": evidence(25, 7, level=0.1)})
    assert beliefs.power == 0.0
    assert beliefs.predict(np.eye(DIM)[0])[1].argmin() == 2


def test_models_in_another_order_have_the_same_beliefs() -> None:
    known = {name: evidence(100, i, level=0.1 * i) for i, name in enumerate("abc")}
    seen = {name: evidence(30, 10 + i, level=0.1 * i) for i, name in enumerate("abc")}
    one, other = (Beliefs([], DIM, known=known) for _ in range(2))
    one.replace(seen)
    other.replace({name: seen[name] for name in "cab"})
    x = np.ones(DIM)
    for here, there in zip(one.predict(x), other.predict(x), strict=True):
        np.testing.assert_allclose(here[[2, 0, 1]], there, rtol=0, atol=1e-9)
    assert one.power == other.power == 1.0
