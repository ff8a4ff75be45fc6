"""Beliefs are what the formulas say: solved directly, by river, one by one and all at once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.linear_model import BayesianLinearRegression

from bandit_router.evidence import Evidence, Observation
from bandit_router.posterior import Beliefs, Prior, fit_prior
from bandit_router.values import Array

DIM = 4
PRIOR = Prior(mean=0.6, bias_precision=2.0, precision=20.0, noise=0.08)
NOW = 1.77e9
DAY = 86_400.0


def simulated(n: int, seed: int, *, dim: int = DIM, apart: float = 0.0) -> list[Observation]:
    """Rewards that depend on the features, `apart` seconds from one to the next."""
    generator = np.random.default_rng(seed)
    theta = 0.2 * generator.standard_normal(dim)
    x = np.column_stack([np.ones(n), generator.standard_normal((n, dim - 1))])
    reward = np.clip(0.6 + x @ theta + 0.2 * generator.standard_normal(n), 0, 1)
    weight = generator.uniform(0.2, 1.0, n)
    return [
        Observation.of(x[i], float(reward[i]), weight=float(weight[i]), at=NOW + apart * i)
        for i in range(n)
    ]


def solved(
    many: list[Observation], x: Array, *, half_life: float | None = None, at: float = NOW
) -> tuple[float, float]:
    """The posterior of one model by the textbook (Bishop (3.50), (3.51)), with `np.linalg`."""
    fade = [1.0 if half_life is None else 2.0 ** ((o.at - at) / half_life) for o in many]
    P = np.diag([PRIOR.bias_precision, *[PRIOR.precision] * (len(x) - 1)])
    A = P + sum(g * o.weight * np.outer(o.x, o.x) for g, o in zip(fade, many, strict=True))
    b = sum(g * o.weighted_reward * o.x for g, o in zip(fade, many, strict=True))
    b = b + P @ np.concatenate([[PRIOR.mean], np.zeros(len(x) - 1)])
    return float(x @ np.linalg.solve(A, b)), math.sqrt(PRIOR.noise * x @ np.linalg.solve(A, x))


def assert_same_predictions(left: Beliefs, right: Beliefs, *, atol: float = 1e-9) -> None:
    generator = np.random.default_rng(5)
    for _ in range(5):
        x = np.concatenate([[1.0], generator.uniform(-3, 3, left.dim - 1)])
        for mine, theirs in zip(left.predict(x), right.predict(x), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


def test_without_evidence_it_is_the_prior() -> None:
    mean, std = Beliefs(["small", "large"], DIM, prior=PRIOR).predict(np.array([1.0, 2.0, 0.0, 0.0]))
    np.testing.assert_allclose(mean, [0.6, 0.6])
    np.testing.assert_allclose(std, math.sqrt(0.08 * (1 / 2 + 4 / 20)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1, 2, 5]))
@settings(max_examples=30)
def test_prediction_equals_a_direct_solution(seed: int, n: int, dim: int) -> None:
    many = simulated(n, seed, dim=dim)
    beliefs = Beliefs(["small", "other"], dim, prior=PRIOR)
    beliefs.learn_all(("small", o) for o in many)
    x = np.concatenate([[1.0], np.random.default_rng(seed).uniform(-3, 3, dim - 1)])
    mean, std = beliefs.predict(x)
    np.testing.assert_allclose([mean[0], std[0]], solved(many, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("half_life", [1.0, 3_600.0, 30 * DAY])
def test_faded_prediction_equals_a_direct_solution(half_life: float) -> None:
    many = simulated(60, 3, apart=half_life / 7)
    beliefs = Beliefs(["small"], DIM, half_life=half_life, prior=PRIOR)
    beliefs.learn_all(("small", o) for o in many)
    at = NOW + 9 * half_life
    beliefs.adopt(beliefs.fit(at=at))
    x = np.array([1.0, 0.5, -1.0, 2.0])
    mean, std = beliefs.predict(x)
    wanted = solved(many, x, half_life=half_life, at=at)
    np.testing.assert_allclose([mean[0], std[0]], wanted, rtol=0, atol=1e-10)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([None, 3_600.0]))
@settings(max_examples=30)
def test_covariance_times_precision_is_one(seed: int, n: int, half_life: float | None) -> None:
    beliefs = Beliefs(["small"], DIM, half_life=half_life, prior=PRIOR)
    beliefs.learn_all(("small", o) for o in simulated(n, seed, apart=500.0))
    fit = beliefs.fit()
    sums = beliefs.evidence["small"]
    precision = sums.fading(fit.at) * sums.A + np.diag(PRIOR.precisions(DIM))
    np.testing.assert_allclose(fit.covariance[0] @ precision, np.eye(DIM), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(fit.covariance[0], fit.covariance[0].T)


def test_river_agrees() -> None:
    """river's alpha is the prior precision of the weights, and its beta that of the noise."""
    prior = Prior(mean=0.0, bias_precision=20.0, precision=20.0, noise=0.08)
    peer = BayesianLinearRegression(alpha=prior.precision / prior.noise, beta=1 / prior.noise)
    beliefs = Beliefs(["small"], DIM, prior=prior)
    for o in simulated(200, 1):
        whole = Observation.of(o.x, o.weighted_reward / o.weight)  # river's updates have no weights
        beliefs.learn("small", whole)
        peer.learn_one(dict(enumerate(o.x.tolist())), whole.weighted_reward)
    for o in simulated(5, 2):
        theirs = peer.predict_one(dict(enumerate(o.x.tolist())), with_dist=True)
        mean, std = beliefs.predict(o.x)
        assert mean[0] == pytest.approx(theirs.mu, abs=1e-9)
        assert std[0] ** 2 + prior.noise == pytest.approx(theirs.sigma**2, abs=1e-9)


@pytest.mark.parametrize("half_life", [None, 1.0, 3_600.0, 365 * DAY])
def test_hundreds_of_updates_equal_a_fresh_fit(half_life: float | None) -> None:
    """Rank-one updates, revisions and retractions, of two models, over five half-lives, out of order."""
    many = simulated(400, 7, dim=12, apart=5 * (half_life or 0.0) / 400)
    order = np.random.default_rng(7).permutation(400)
    beliefs = Beliefs(["small", "large"], 12, half_life=half_life, prior=PRIOR)
    for model in beliefs.models:  # so that no landmark moves past the moment of the fit
        beliefs.learn(model, simulated(1, 8, dim=12)[0])
    beliefs.replace(beliefs.evidence, at=NOW + 2 * (half_life or 0.0))
    for i in order:
        model, o = ("small", "large")[i % 2], many[i]
        beliefs.learn(model, o)
        if i % 5 == 0:
            beliefs.learn(model, Observation.of(o.x, 1.0, weight=0.9, at=o.at) - o)
        if i % 7 == 0:
            beliefs.learn(model, -(Observation.of(o.x, 1.0, weight=0.9, at=o.at) if i % 5 == 0 else o))
    assert beliefs.stale > 400
    fresh = Beliefs([], 12, half_life=half_life, prior=PRIOR)
    fresh.replace({m: e.copy() for m, e in beliefs.evidence.items()}, at=beliefs.fitted_at)
    assert fresh.fitted_at == beliefs.fitted_at
    assert_same_predictions(beliefs, fresh)


def test_updates_keep_to_the_prior_that_was_chosen() -> None:
    """Between two fits, prior and centre stay those of the last one."""
    many = simulated(160, 9)
    beliefs = Beliefs([], DIM)
    beliefs.learn_all(("small", o) for o in many[:80])
    fit = beliefs.fit()
    for o in many[80:]:
        beliefs.learn("small", o)
    P = np.diag(fit.prior.precisions(DIM))
    A = P + sum(o.weight * np.outer(o.x, o.x) for o in many)
    b = P @ fit.centre + sum(o.weighted_reward * o.x for o in many)
    x = np.array([1.0, -1.0, 2.0, 0.5])
    mean, std = beliefs.predict(x)
    assert mean[0] == pytest.approx(x @ np.linalg.solve(A, b), abs=1e-9)
    assert std[0] ** 2 == pytest.approx(fit.prior.noise * x @ np.linalg.solve(A, x), abs=1e-9)


@pytest.mark.parametrize("half_life", [1.0, 60.0, 86_400.0])
def test_a_long_silence_does_not_overflow(half_life: float) -> None:
    """Beliefs that were fitted thousands of half-lives ago, or at 1970, go on learning."""
    beliefs = Beliefs(["small"], DIM, half_life=half_life, prior=PRIOR)
    first, later = simulated(2, 1, apart=5_000 * half_life)
    for o in (first, later):
        beliefs.learn("small", o)
        mean, std = beliefs.predict(o.x)
        wanted = solved([o], o.x, half_life=half_life, at=o.at)
        np.testing.assert_allclose([mean[0], std[0]], wanted, rtol=0, atol=1e-9)
    beliefs.learn("small", first)  # late by as much: it counts nothing
    beliefs.learn_all([("small", -later), ("small", later)])
    mean, _ = beliefs.predict(later.x)
    assert mean[0] == pytest.approx(solved([later], later.x)[0], abs=1e-9)
    assert beliefs.fit(at=0.0).at >= later.at - half_life  # never as of before the landmark


def test_what_fades_returns_to_the_prior() -> None:
    beliefs = Beliefs(["small"], DIM, half_life=DAY, prior=PRIOR)
    beliefs.learn_all(("small", o) for o in simulated(50, 1))
    x = np.array([1.0, 1.0, 1.0, 1.0])
    widths = []
    for days in (0, 1, 5, 60):
        beliefs.adopt(beliefs.fit(at=NOW + days * DAY))
        widths.append(beliefs.predict(x)[1][0])
    assert widths == sorted(widths)
    assert_same_predictions(beliefs, Beliefs(["small"], DIM, prior=PRIOR), atol=1e-6)


@pytest.mark.parametrize("place", ["x", "at", "weight", "weighted_reward", "weighted_square"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("half_life", [None, 60.0])
def test_what_is_not_finite_never_reaches_a_belief(
    place: str, bad: float, half_life: float | None
) -> None:
    beliefs = Beliefs(["small"], DIM, half_life=half_life, prior=PRIOR)
    beliefs.learn("small", simulated(1, 1)[0])
    before = [part.copy() for part in beliefs.predict(np.ones(DIM))]
    value = np.array([1.0, bad, 0.0, 0.0]) if place == "x" else bad
    poisoned = replace(simulated(1, 2)[0], **{place: value})  # type: ignore[arg-type]  # mixed values
    with pytest.raises(ValueError, match="finite"):
        beliefs.learn("small", poisoned)
    with pytest.raises(ValueError, match="finite"):
        beliefs.learn_all([("small", poisoned)])
    beliefs.adopt(beliefs.fit())
    for part, same in zip(beliefs.predict(np.ones(DIM)), before, strict=True):
        np.testing.assert_allclose(part, same, rtol=0, atol=1e-12)


def test_models_are_stacked_in_their_order() -> None:
    beliefs = Beliefs(["small", "large"], DIM, prior=PRIOR)
    good = Observation.of(np.eye(DIM)[0], 1.0)
    beliefs.learn("new", good)
    assert beliefs.models == ("small", "large", "new")
    assert [beliefs.index(model) for model in beliefs.models] == [0, 1, 2]
    assert beliefs.stale == 1
    mean, _ = beliefs.predict(np.eye(DIM)[0])
    assert mean.tolist() == pytest.approx([0.6, 0.6, (2 * 0.6 + 1) / 3])
    sums = Evidence(DIM)
    sums.add(good)
    beliefs.add_model("old", sums)
    mean, _ = beliefs.predict(np.eye(DIM)[0])
    assert mean[2] == pytest.approx(mean[3], abs=1e-12)
    assert repr(beliefs) == "<Beliefs models=['small', 'large', 'new', 'old'] dim=4 half_life=None>"
    beliefs.replace({})
    assert [part.shape for part in beliefs.predict(np.ones(DIM))] == [(0,), (0,)]


def test_what_was_known_counts_like_evidence_until_something_is_seen() -> None:
    known, mine = Evidence(DIM), Evidence(DIM)
    for o in simulated(60, 1):
        known.add(o)
        mine.add(o)
    warm, told = (Beliefs(["small", "large"], DIM, known=k) for k in ({"small": known}, {}))
    told.replace({"small": mine, "large": Evidence(DIM)})
    assert warm.power == 1.0
    assert_same_predictions(warm, told)
    assert [e.n for e in warm.evidence.values()] == [0.0, 0.0]


@pytest.mark.parametrize("right", [True, False])
def test_what_was_known_counts_as_far_as_it_foretells(right: bool) -> None:
    """With the power that was chosen, it is the posterior of all sums, each known one of that power."""
    known, many = Evidence(DIM), simulated(430, 1)
    for o in many[:200]:
        x, level = o.x, o.weighted_reward / o.weight
        known.add(Observation.of(x, level if right else 1.0 - level, weight=o.weight))
    beliefs = Beliefs(["small", "large"], DIM, prior=PRIOR, known={"small": known})
    beliefs.learn_all(("small", o) for o in many[200:400])
    beliefs.learn_all(("large", o) for o in simulated(20, 3))
    assert beliefs.power == (1.0 if right else 0.0)
    both = beliefs.evidence["small"].copy()
    both.merge(known, sign=beliefs.power)
    told = Beliefs([], DIM, prior=PRIOR)
    told.replace({"small": both, "large": beliefs.evidence["large"]})
    assert_same_predictions(beliefs, told)
    for o in many[400:]:  # one by one, and the last taken back
        beliefs.learn("small", o)
    beliefs.learn("small", -o)
    told = Beliefs(["small", "large"], DIM, prior=PRIOR, known={"small": known})
    told.replace(beliefs.evidence)
    assert_same_predictions(beliefs, told)


def test_a_fit_is_pure() -> None:
    beliefs = Beliefs(["small"], DIM, half_life=DAY)
    for o in simulated(40, 1):
        beliefs.learn("small", o)
    before, stale = beliefs.predict(np.ones(DIM)), beliefs.stale
    sums = beliefs.evidence["small"].to_bytes()
    first, second = beliefs.fit(at=NOW + DAY), beliefs.fit(at=NOW + DAY)
    np.testing.assert_array_equal(first.covariance, second.covariance)
    np.testing.assert_array_equal(beliefs.predict(np.ones(DIM)), before)
    assert (beliefs.stale, beliefs.evidence["small"].to_bytes()) == (stale, sums)


def test_more_retracted_than_added_is_an_error() -> None:
    beliefs = Beliefs(["small"], 2, prior=PRIOR)
    beliefs.learn("small", Observation.of([1.0, 0.0], 1.0, weight=100.0))
    beliefs.learn_all([("small", Observation.of([1.0, 0.0], 1.0, weight=1.0))])
    with pytest.raises(FloatingPointError, match="more was retracted"):
        beliefs.learn_all([("small", -Observation.of([1.0, 9.0], 1.0, weight=50.0))])


def test_the_prior_follows_the_evidence() -> None:
    """Without any it is the start; with much, its mean and noise are those of the rewards."""
    assert fit_prior([], start=PRIOR) == PRIOR
    assert fit_prior([Evidence(DIM)]) == Prior()
    generator = np.random.default_rng(4)
    evidence = []
    for _ in range(5):
        x = np.column_stack([np.ones(400), generator.standard_normal((400, DIM - 1))])
        own = Evidence(DIM)
        own.add_many(x, np.ones(400), 0.7 + 0.1 * generator.standard_normal(400), np.zeros(400))
        evidence.append(own)
    prior = fit_prior(evidence)
    assert prior.mean == pytest.approx(0.7, abs=0.02)  # 8 standard errors, 0.1 / sqrt(2000) each
    assert prior.noise == pytest.approx(0.01, rel=0.2)  # 6 standard errors, and 4 pseudo-observations
