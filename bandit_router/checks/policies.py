"""What every `Policy` keeps to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bandit_router.checks.check import Check, checks_of, demand
from bandit_router.policies import Policy, policy_from_spec, with_floor
from bandit_router.values import Array

_EXACT = 1e-9  # what rounding may do to a probability
_SMOOTH = 1e-4  # what a quadrature may do to it from one promise to the next

Make = Callable[[], Policy]


def policy_checks(make_policy: Make) -> Iterator[Check]:
    """Yield the checks that a policy must pass.

    Parameters
    ----------
    make_policy : callable
        Returns the policy; the same one at every call.
    """
    return checks_of(_CLAUSES, make_policy)


def _promises() -> Iterator[tuple[Array, Array]]:
    """Means and widths of 1 to 50 models: alike, apart, equal, and of widths 1 to 10,000 or none."""
    generator = np.random.default_rng(20090331)
    for models in (1, 2, 3, 8, 50):
        for spread in (0.0, 0.01, 0.3):
            mean = 0.5 + spread * generator.standard_normal(models)
            yield mean, np.full(models, 0.1)
            yield mean, 10.0 ** generator.uniform(-4, 0, models)
            yield mean, np.where(generator.random(models) < 0.5, 0.0, 0.1)
            yield mean, np.zeros(models)


def _demand_probabilities(policy: Policy, mean: Array, std: Array) -> None:
    p = policy.probabilities(mean, std)
    where = "for mean {} and std {}, got {}"
    demand(p.shape == mean.shape, f"expected one probability for each model {where}", mean, std, p)
    demand(bool(np.isfinite(p).all()), f"expected finite probabilities {where}", mean, std, p)
    demand(bool((p >= 0).all()), f"expected no negative probability {where}", mean, std, p)
    demand(abs(p.sum() - 1) <= _EXACT, f"expected a sum of one {where}", mean, std, p)


def sums_to_one(make: Make) -> None:
    """Finite, not negative, one for each model, and one in sum."""
    for mean, std in _promises():
        _demand_probabilities(make(), mean, std)


def survives_extremes(make: Make) -> None:
    """The same at scales from 1e-12 to 1e12, at widths of nothing, and far apart."""
    for scale in (1e-12, 1e12):
        for mean, std in _promises():
            _demand_probabilities(make(), scale * mean, scale * std)
            _demand_probabilities(make(), scale * mean, std)
            _demand_probabilities(make(), mean, scale * std)


def leaves_inputs_alone(make: Make) -> None:
    """What is promised is not changed."""
    for mean, std in _promises():
        given = mean.copy(), std.copy()
        make().probabilities(*given)
        kept = np.array_equal(given[0], mean) and np.array_equal(given[1], std)
        demand(kept, "expected mean {} and std {} to stay, got {}", mean, std, given)


def follows_a_permutation(make: Make) -> None:
    """Models in another order have the same probabilities, in that order."""
    for i, (mean, std) in enumerate(_promises()):
        order = np.random.default_rng(i).permutation(len(mean))
        p, q = make().probabilities(mean, std), make().probabilities(mean[order], std[order])
        demand(
            bool(np.allclose(q, p[order], rtol=0, atol=_EXACT)),
            "expected {} after reordering mean {} and std {}, got {}",
            *(p[order], mean, std, q),
        )


def rises_with_the_mean(make: Make) -> None:
    """A model that promises more is not drawn less."""
    for mean, std in _promises():
        p = make().probabilities(mean, std)
        for k in (0, int(mean.argmax()), int(mean.argmin())):
            for raised in (0.001, 0.05, 1.0):
                higher = mean + raised * (np.arange(len(mean)) == k)
                q = make().probabilities(higher, std)
                demand(
                    q[k] >= p[k] - _SMOOTH,
                    "expected model {} of mean {} and std {} to gain from {} more, got {} after {}",
                    *(k, mean, std, raised, q[k], p[k]),
                )


def is_certain_of_one(make: Make) -> None:
    """One model alone is drawn for certain."""
    for mean, std in ((0.5, 0.1), (0.0, 0.0), (-1e12, 1.0), (1e-12, 1e12)):
        p = make().probabilities(np.array([mean]), np.array([std]))
        demand(p.tolist() == [1.0], f"expected one model to be certain, got {p}")


def repeats_itself(make: Make) -> None:
    """The same promises have the same probabilities, to the bit."""
    policy = make()
    for mean, std in _promises():
        first = policy.probabilities(mean, std)
        for again in (policy, make()):
            second = again.probabilities(mean.copy(), std.copy())
            demand(np.array_equal(first, second), "expected {} again, got {}", first, second)


def reads_its_spec(make: Make) -> None:
    """The SPEC gives the policy back."""
    policy = make()
    read = policy_from_spec(policy.spec)
    demand(read == policy, f"expected {policy.spec!r} to give {policy!r} back, got {read!r}")


def keeps_the_floor(make: Make) -> None:
    """With a floor laid over it, every model keeps its share, and the sum is still one."""
    for mean, std in _promises():
        for floor in (0.0, 0.02, 1.0):
            p = with_floor(make().probabilities(mean, std), floor)
            share = floor / len(mean)
            demand(
                bool((p >= share * (1 - _EXACT)).all()), "expected at least {} each, got {}", share, p
            )
            demand(abs(p.sum() - 1) <= _EXACT, "expected a sum of one with floor {}, got {}", floor, p)


_CLAUSES = (
    sums_to_one,
    survives_extremes,
    leaves_inputs_alone,
    follows_a_permutation,
    rises_with_the_mean,
    is_certain_of_one,
    repeats_itself,
    reads_its_spec,
    keeps_the_floor,
)
