"""Policies by hand, Thompson against the integral and against draws, the draw, and SPECs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import chisquare

from bandit_router.errors import SettingsError
from bandit_router.policies import (
    POLICIES,
    EpsilonGreedy,
    Greedy,
    InverseGapWeighting,
    LinUCB,
    Policy,
    ThompsonSampling,
    Uniform,
    draw,
    parse_spec,
    policy_from_spec,
    with_floor,
    with_shares,
)
from bandit_router.values import Array

PROMISE = 1e-3  # how far Thompson's probabilities may be from the truth
NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)


def thompson(mean: object, std: object) -> Array:
    return ThompsonSampling(width=1.0).probabilities(
        np.array(mean, dtype=float), np.array(std, dtype=float)
    )


def truth(mean: Array, std: Array) -> Array:
    """The integral on a grid of its own: panels of a quarter of each width, 24 nodes each, to 9 widths.

    A width of nothing is one of 1e-11.
    """
    std = np.maximum(std, 1e-11)
    edges = np.unique(mean[:, None] + std[:, None] * np.linspace(-9, 9, 73))
    edges = edges[edges >= (mean - 9 * std).max()]
    half = np.diff(edges)[:, None] / 2
    t, weight = (edges[:-1, None] + half + half * NODES).ravel(), (half * WEIGHTS).ravel()
    z = (t - mean[:, None]) / std[:, None]
    below = np.log(np.maximum(ndtr(z), 1e-300))
    density = np.exp(-0.5 * z**2) / (std[:, None] * math.sqrt(2 * math.pi))
    p = (density * np.exp(below.sum(axis=0) - below)) @ weight
    assert p.sum() == pytest.approx(1.0, abs=1e-5)  # the reference itself
    return np.asarray(p)


def test_greedy_uniform_linucb_by_hand() -> None:
    mean, std = np.array([0.5, 0.6, 0.6]), np.array([0.3, 0.1, 0.0])
    assert Greedy().probabilities(mean, std).tolist() == [0.0, 0.5, 0.5]
    assert Uniform().probabilities(mean, std).tolist() == [1 / 3] * 3
    assert LinUCB(alpha=0.0).probabilities(mean, std).tolist() == [0.0, 0.5, 0.5]
    assert LinUCB(alpha=0.1).probabilities(mean, std).tolist() == [0.0, 1.0, 0.0]  # .53 .61 .6
    assert LinUCB(alpha=1.0).probabilities(mean, std).tolist() == [1.0, 0.0, 0.0]  # .8 .7 .6


def test_epsilon_greedy_by_hand() -> None:
    p = EpsilonGreedy(epsilon=0.3).probabilities(np.array([0.1, 0.9, 0.2]), np.zeros(3))
    np.testing.assert_allclose(p, [0.1, 0.8, 0.1])
    assert EpsilonGreedy(epsilon=1.0).probabilities(np.array([0.1, 0.9]), np.zeros(2)).tolist() == [
        0.5,
        0.5,
    ]


def test_inverse_gap_weighting_by_hand() -> None:
    mean = np.array([0.9, 0.8, 0.4])
    # 1 / (3 + 20 * 0.1) = 1/5, 1 / (3 + 20 * 0.5) = 1/13, and the best takes the rest.
    p = InverseGapWeighting(gamma=20.0).probabilities(mean, np.ones(3))
    np.testing.assert_allclose(p, [1 - 1 / 5 - 1 / 13, 1 / 5, 1 / 13])
    np.testing.assert_allclose(InverseGapWeighting(gamma=0.0).probabilities(mean, np.ones(3)), 1 / 3)
    tied = InverseGapWeighting(gamma=20.0).probabilities(np.array([0.9, 0.9, 0.4]), np.ones(3))
    np.testing.assert_allclose(tied, [6 / 13, 6 / 13, 1 / 13])


def test_thompson_of_two_is_known_exactly() -> None:
    """P(X1 > X2) = Phi((m1 - m2) / sqrt(s1^2 + s2^2))."""
    for gap in (0.0, 1e-6, 0.01, 0.1, 0.5):
        for ratio in (1.0, 3.0, 10.0, 100.0, 1e4, math.inf):
            mean, std = np.array([0.5 + gap, 0.5]), np.array([0.1, 0.1 / ratio])
            wanted = ndtr(gap / math.hypot(*std))
            assert thompson(mean, std)[0] == pytest.approx(wanted, abs=1e-4)
            assert thompson(mean[::-1], std[::-1])[1] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5, 0.5, 0.5], [0.1, 0.1, 0.1]),
        ([0.5, 0.5, 0.5], [0.1, 1e-3, 1e-5]),
        ([0.5, 0.5001, 0.4999], [0.1, 0.0, 1e-4]),
        ([0.5, 0.5, 0.9], [0.1, 0.1, 0.01]),
        ([0.9, 0.1, 0.2], [1e-5, 0.3, 0.2]),
        ([0.5, 0.6, 0.7, 0.8], [0.4, 0.04, 0.004, 0.0]),
        ([0.2, 0.8], [0.0, 0.0]),
        ([0.7, 0.7, 0.2], [0.0, 0.0, 0.5]),
        (np.linspace(0.4, 0.6, 50), np.geomspace(1e-5, 0.1, 50)),
        (np.full(50, 0.5), np.full(50, 0.2)),
        (np.full(50, 0.5), np.geomspace(1e-4, 1.0, 50)),
        (np.r_[np.full(49, 0.5), 0.5001], np.full(50, 1e-4)),
    ],
)
def test_thompson_keeps_its_promise(mean: object, std: object) -> None:
    mean, std = np.array(mean, dtype=float), np.array(std, dtype=float)
    np.testing.assert_allclose(thompson(mean, std), truth(mean, std), rtol=0, atol=PROMISE)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 50),
    st.sampled_from([1.0, 3.0, 30.0, 1e4]),
    st.sampled_from([0.0, 1e-3, 0.03, 0.3, 3.0]),
    st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=60)
def test_thompson_keeps_its_promise_anywhere(
    seed: int, models: int, ratio: float, spread: float, without_width: float
) -> None:
    """At width ratios up to 10,000, apart or near ties, some of no width at all."""
    generator = np.random.default_rng(seed)
    std = 0.2 * ratio ** -generator.random(models)
    std[generator.random(models) < without_width] = 0.0
    mean = 0.5 + spread * 0.2 * generator.standard_normal(models)
    np.testing.assert_allclose(thompson(mean, std), truth(mean, std), rtol=0, atol=PROMISE)


def test_the_reference_agrees_with_scipy() -> None:
    mean, std = np.array([0.5, 0.52, 0.4]), np.array([0.1, 0.02, 0.3])

    def wins(t: float, k: int) -> float:
        z = (t - mean) / std
        return (
            math.exp(-0.5 * z[k] ** 2) / (std[k] * math.sqrt(2 * math.pi)) * np.delete(ndtr(z), k).prod()
        )

    p = [quad(wins, 0.0, 2.5, args=(k,), points=[0.42, 0.52, 0.62], limit=200)[0] for k in range(3)]
    np.testing.assert_allclose(truth(mean, std), p, rtol=0, atol=1e-6)
    np.testing.assert_allclose(thompson(mean, std), p, rtol=0, atol=1e-4)


def test_thompson_agrees_with_its_sampler() -> None:
    """200,000 draws: each frequency errs by at most sqrt(.25 / 200,000) = .0011; 5 of these are 1e-6."""
    generator = np.random.default_rng(11)
    for models in (2, 5, 20):
        mean, std = generator.normal(0.5, 0.1, models), 10 ** generator.uniform(-4, -0.5, models)
        samples = mean + std * generator.standard_normal((200_000, models))
        frequency = np.bincount(samples.argmax(axis=1), minlength=models) / 200_000
        np.testing.assert_allclose(thompson(mean, std), frequency, rtol=0, atol=0.0056 + PROMISE)


def test_width_multiplies_the_widths() -> None:
    mean, std = np.array([0.5, 0.6]), np.array([0.1, 0.2])
    wide = ThompsonSampling(width=3.0).probabilities(mean, std)
    np.testing.assert_array_equal(wide, thompson(mean, 3 * std))
    assert ThompsonSampling(width=0.0).probabilities(mean, std).tolist() == [0.0, 1.0]


@st.composite
def probabilities(draw: st.DrawFn) -> Array:
    """Of 1 to 12 models, many of them none or next to none."""
    shares = draw(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1e-300, 1e-17]), max_size=11))
    shares.insert(draw(st.integers(0, len(shares))), draw(st.floats(0.01, 1)))
    return np.array(shares) / sum(shares)


UNIFORM = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 5e-324, 0.5, 1 - 2**-53])


@given(probabilities(), UNIFORM)
def test_a_model_without_probability_is_never_drawn(p: Array, u: float) -> None:
    k = draw(p, u)
    assert 0 <= k < len(p)
    assert p[k] > 0


def test_draw_at_the_edges() -> None:
    p = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    cases = {0.0: 1, 0.2499: 1, 0.25: 3, 0.999: 3, 1 - 2**-53: 3}
    assert {u: draw(p, u) for u in cases} == cases


@given(probabilities(), st.floats(0, 1, exclude_max=True))
def test_a_draw_is_that_of_numpy(p: Array, u: float) -> None:
    total = np.cumsum(p)
    assert draw(p, u) == np.searchsorted(total, u * total[-1], side="right")


def test_draws_are_as_frequent_as_their_probability() -> None:
    """A chi-square test of level 1e-6 on 100,000 draws."""
    generator = np.random.default_rng(3)
    p = np.array([0.5, 0.0, 0.3, 0.15, 0.04, 0.01])
    counts = np.bincount([draw(p, u) for u in generator.random(100_000)], minlength=6)
    assert counts[1] == 0
    some = p > 0
    assert chisquare(counts[some], 100_000 * p[some]).pvalue > 1e-6


@given(probabilities(), st.floats(0, 1))
def test_a_floor_is_kept(p: Array, floor: float) -> None:
    mixed = with_floor(p, floor)
    assert mixed.sum() == pytest.approx(1.0, abs=1e-12)
    assert (mixed >= floor / len(p) * (1 - 1e-12)).all()
    np.testing.assert_allclose(
        mixed, with_shares(p, np.full(len(p), floor / len(p))), rtol=0, atol=1e-12
    )


def test_shares_by_hand() -> None:
    p = with_shares(np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.0, 0.3]))
    np.testing.assert_allclose(p, [0.4, 0.3, 0.3])
    np.testing.assert_array_equal(with_shares(p, np.zeros(3)), p)


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("linucb", LinUCB()),
        ("linucb:alpha=0.25", LinUCB(alpha=0.25)),
        (" linucb:alpha = 1e-3 ", LinUCB(alpha=0.001)),
        ("thompson", ThompsonSampling()),
        ("thompson:width=2", ThompsonSampling(width=2.0)),
        (ThompsonSampling(width=1.0).spec, ThompsonSampling(width=1.0)),
        ("igw:gamma=100", InverseGapWeighting(gamma=100.0)),
        ("egreedy:epsilon=0.05", EpsilonGreedy(epsilon=0.05)),
        ("greedy", Greedy()),
        ("uniform", Uniform()),
        ("uniform:", Uniform()),
    ],
)
def test_spec_names_a_policy(spec: str, policy: Policy) -> None:
    assert policy_from_spec(spec) == policy


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ucb", r"no policy 'ucb'; there are linucb, thompson, igw, egreedy, greedy, uniform"),
        ("", "no policy ''"),
        ("LinUCB", "no policy 'LinUCB'"),
        ("fixed:small", r"'fixed:small': "),
        ("linucb:beta=1", "beta"),
        ("greedy:alpha=1", "alpha"),
        ("linucb:alpha", "key=value"),
        ("linucb:=1", "key=value"),
        ("linucb:alpha=1,", "key=value"),
        ("linucb:alpha=1,alpha=2", "each key once"),
        ("linucb:alpha=", "'linucb:alpha='"),
        ("linucb:alpha=one", "one"),
        ("linucb:alpha=nan", "alpha: expected a finite number, got nan"),
        ("linucb:alpha=inf", "alpha: expected a finite number, got inf"),
        ("linucb:alpha=-1", "alpha: .*got -1"),
        ("thompson:width=-0.5", "width"),
        ("igw:gamma=1e13", "gamma"),
        ("egreedy:epsilon=1.01", "epsilon: expected a number from 0 to 1, got 1.01"),
    ],
)
def test_other_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        policy_from_spec(spec)


@given(
    st.text(max_size=30)
    | st.tuples(st.sampled_from(sorted(POLICIES)), st.text(max_size=20)).map(":".join)
)
def test_any_text_is_a_policy_or_a_settings_error(spec: str) -> None:
    try:
        policy = policy_from_spec(spec)
    except SettingsError:
        return
    assert policy_from_spec(policy.spec) == policy


@given(st.floats(0, 1e12), st.floats(0, 1))
def test_spec_gives_any_parameter_back(amount: float, share: float) -> None:
    for policy in (
        *(LinUCB(alpha=amount), ThompsonSampling(width=amount)),
        *(InverseGapWeighting(gamma=amount), EpsilonGreedy(epsilon=share)),
    ):
        assert policy_from_spec(policy.spec) == policy


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1e13, 10**400])
def test_parameters_are_checked(bad: float) -> None:
    for kind, name in (
        *((LinUCB, "alpha"), (ThompsonSampling, "width")),
        *((InverseGapWeighting, "gamma"), (EpsilonGreedy, "epsilon")),
    ):
        with pytest.raises(ValueError, match=name):
            kind(**{name: bad})  # type: ignore[arg-type]  # one of four classes
        with pytest.raises(TypeError, match=name):
            kind(**{name: True})  # type: ignore[arg-type]  # as above


def test_a_spec_is_split() -> None:
    assert parse_spec("name:a=1, b = x=y") == ("name", {"a": "1", "b": "x=y"})
    assert parse_spec("name") == ("name", {})
