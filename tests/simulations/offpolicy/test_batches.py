"""Policies on many rows give what they give row by row."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.policies import policy_from_spec, with_floor
from simulations.offpolicy.batches import BLOCK, choose_many

SPECS = ("greedy", "uniform", "linucb:alpha=0.5", "egreedy:epsilon=0.2", "igw:gamma=30", "thompson")


@pytest.mark.parametrize("spec", [*SPECS, "thompson:width=3", "thompson:width=0"])
def test_many_rows_are_each_row(spec: str) -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal(0.5, 0.1, (400, 5)).round(2)  # ties too
    std = rng.choice([0.0, 1e-6, 0.02, 0.1], (400, 5), p=[0.05, 0.05, 0.3, 0.6])
    there = rng.random((400, 5)) < 0.8
    there[:, 2] |= ~there.any(axis=1)
    mean, std = np.where(there, mean, np.nan), np.where(there, std, np.nan)
    policy = policy_from_spec(spec)
    found = choose_many(policy, mean, std, there, floor=0.05)
    for i, some in enumerate(there):
        expected = with_floor(policy.probabilities(mean[i, some], std[i, some]), 0.05)
        np.testing.assert_allclose(found[i, some], expected, atol=1e-9)
        assert not found[i, ~some].any()


def test_blocks_join_up() -> None:
    rng, n = np.random.default_rng(1), 2 * BLOCK + 7
    mean, std, there = rng.random((n, 2)), np.full((n, 2), 0.1), np.ones((n, 2), dtype=bool)
    found = choose_many(policy_from_spec("thompson"), mean, std, there)
    at = np.array([0, BLOCK - 1, BLOCK, 2 * BLOCK, n - 1])
    some = choose_many(policy_from_spec("thompson"), mean[at], std[at], there[at])
    np.testing.assert_allclose(found[at], some, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
