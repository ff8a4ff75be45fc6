"""Amounts by prompt: sums that commute, a direct solve, and no bias."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.amounts import LEAST, SPREAD, Amounts
from bandit_router.errors import FormatError, NewerFormatError
from bandit_router.evidence import Evidence, evidence_to_bytes
from bandit_router.posterior import Beliefs
from bandit_router.values import Array

HALF_LIFE = 1_000.0
NOW = 1.77e9


def some(n: int, *, seed: int = 0, dim: int = 4) -> tuple[Array, Array]:
    """Features and amounts of n prompts; the second feature multiplies the amount."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(0, 0.5, (n, dim - 1))])
    return x, np.exp(0.8 * x[:, 1] + rng.normal(0, 0.4, n))


def told(n: int = 200, *, at: float = NOW, seed: int = 0) -> Amounts:
    amounts = Amounts(half_life=HALF_LIFE)
    for x, amount in zip(*some(n, seed=seed), strict=True):
        amounts.add("small", x, float(amount), at=at)
    amounts.fit(at=at)
    return amounts


def test_the_mean_of_the_predictions_is_the_mean_of_the_amounts() -> None:
    """Over the prompts seen, to rounding, where none is beyond what was seen."""
    amounts = told()
    (sums,) = amounts.evidence.values()
    weights = amounts.shapes(at=NOW).models["small"].weights
    mean_square = float(weights @ sums.A @ weights) / sums.n
    assert mean_square == pytest.approx(1.0, rel=1e-9)
    x, amount = some(200)
    predicted = np.array([amounts.multiple("small", row) for row in x]) * amount.mean()
    assert predicted.mean() == pytest.approx(amount.mean(), rel=0.02)
    assert ((predicted - amount) ** 2).mean() < 0.75 * amount.var()


def test_weights_are_a_direct_solve() -> None:
    amounts, (x, amount) = told(), some(200)
    beliefs = Beliefs(["small"], 4, half_life=HALF_LIFE)
    evidence = Evidence(4, half_life=HALF_LIFE)
    evidence.add_many(x, np.ones(200), np.sqrt(amount), np.full(200, NOW))
    beliefs.replace({"small": evidence}, at=NOW)
    weights = beliefs.fit(at=NOW).weights[0]
    scale = amount.sum() / ((x @ weights) ** 2).sum()
    shape = amounts.shapes(at=NOW).models["small"]
    inside = x[5] @ shape.weights
    assert shape.least < inside < shape.most
    assert amounts.multiple("small", x[5]) * amount.mean() == pytest.approx(
        scale * (x[5] @ weights) ** 2
    )


@given(st.permutations(range(30)))
def test_any_order_gives_the_same(order: list[int]) -> None:
    x, amount = some(30)
    both = [Amounts(half_life=HALF_LIFE) for _ in range(2)]
    for amounts, rows in zip(both, (range(30), order), strict=True):
        for row in rows:
            moment = NOW + 300.0 * row
            amounts.add(("small", "large")[row % 2], x[row], float(amount[row]), at=moment)
        amounts.fit(at=NOW + 9_000.0)
    for model in ("small", "large", "unheard of"):
        one, other = (amounts.multiple(model, x[0]) for amounts in both)
        assert one == pytest.approx(other, rel=1e-9)


def test_what_is_taken_away_leaves_nothing_behind() -> None:
    kept, (x, amount) = told(60), some(50, seed=1)
    mixed = told(60)
    for sign in (1.0, -1.0):
        for row, size in zip(x, amount, strict=True):
            mixed.add("small", row, float(size), at=NOW, sign=sign)
            mixed.add("large", row, float(size), at=NOW, sign=sign)
    mixed.fit(at=NOW)
    for model in ("small", "large"):
        assert mixed.multiple(model, x[0]) == pytest.approx(kept.multiple(model, x[0]), rel=1e-9)


def test_merged_sums_are_those_of_all() -> None:
    one, other, both = told(40), told(40, seed=1), told(40)
    for x, amount in zip(*some(40, seed=1), strict=True):
        both.add("small", x, float(amount), at=NOW)
    one.merge(other.evidence)
    for amounts in (one, both):
        amounts.fit(at=NOW)
    x = some(1, seed=3)[0][0]
    assert one.multiple("small", x) == pytest.approx(both.multiple("small", x), rel=1e-9)
    one.merge(other.evidence, sign=-1.0)
    one.fit(at=NOW)
    assert one.multiple("small", x) == pytest.approx(told(40).multiple("small", x), rel=1e-6)


def test_other_features_are_left_out() -> None:
    amounts = told(40)
    before = amounts.to_bytes()
    amounts.add("small", np.ones(7), 1.0, at=NOW)
    amounts.merge({"small": Evidence(7, half_life=HALF_LIFE)})
    assert amounts.to_bytes() == before
    assert amounts.multiple("small", np.ones(7)) == 1.0
    assert amounts.multiple("small", None) == 1.0


def test_nothing_is_predicted_beyond_what_was_seen() -> None:
    amounts, (_, amount) = told(), some(200)
    root = np.sqrt(amount)
    shape = amounts.shapes(at=NOW).models["small"]
    assert shape.most / shape.least == pytest.approx((1 + SPREAD * root.std() / root.mean()) / LEAST)
    for far, edge in ((1e3, shape.most), (-1e3, shape.least)):
        assert amounts.multiple("small", np.array([1.0, far, 0.0, 0.0])) == edge**2


def test_it_is_stale_when_much_is_new() -> None:
    amounts = Amounts(half_life=HALF_LIFE)
    x, amount = some(400)
    fits = 0
    for row, size in zip(x, amount, strict=True):
        amounts.add("small", row, float(size), at=NOW)
        if amounts.stale(at=NOW):
            amounts.fit(at=NOW)
            fits += 1
    assert 10 < fits < 16


def test_old_amounts_count_for_less() -> None:
    """Ten half-lives later the feature means nothing."""
    amounts = told()
    rng = np.random.default_rng(5)
    x = np.column_stack([np.ones(200), rng.normal(0, 0.5, (200, 3))])
    for row in x:
        amounts.add("small", row, 1.0, at=NOW + 10 * HALF_LIFE)
    amounts.fit(at=NOW + 10 * HALF_LIFE)
    assert amounts.multiple("small", np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(1.0, abs=0.1)


def test_bytes_give_the_same_sums_and_refuse_others() -> None:
    amounts = told(40)
    again = Amounts.from_bytes(amounts.to_bytes(), half_life=HALF_LIFE)
    assert again.to_bytes() == amounts.to_bytes()
    assert again.multiple("small", np.ones(4)) == 1.0  # until it is fitted
    again.fit(at=NOW)
    assert again.multiple("small", np.ones(4)) == amounts.multiple("small", np.ones(4))
    with pytest.raises(FormatError, match="half-life"):
        Amounts.from_bytes(amounts.to_bytes(), half_life=1.0)
    two = {"a": Evidence(2, half_life=HALF_LIFE), "b": Evidence(3, half_life=HALF_LIFE)}
    with pytest.raises(FormatError, match="one dimension"):
        Amounts.from_bytes(evidence_to_bytes(two), half_life=HALF_LIFE)
    with pytest.raises(NewerFormatError):
        Amounts.from_bytes(b"BRES\xff\xff" + amounts.to_bytes()[6:], half_life=HALF_LIFE)


@pytest.mark.parametrize("right", [True, False])
def test_what_was_known_counts_until_it_is_contradicted(right: bool) -> None:
    """It is all of it while nothing is seen; and all or nothing of it once there is something to compare."""
    before = Amounts(half_life=HALF_LIFE)
    x, amount = some(300, seed=1)
    for row, a in zip(x, amount, strict=True):
        before.add("small", row, float(a if right else 9.0 * a), at=NOW)
        before.add("large", row, float(9.0 * a if right else a), at=NOW)
    amounts = Amounts(half_life=HALF_LIFE, known=before.evidence)
    amounts.fit(at=NOW)
    before.fit(at=NOW)
    assert amounts.power == 1.0
    assert amounts.multiple("large", x[3]) == pytest.approx(before.multiple("large", x[3]))
    for row, a in zip(*some(60, seed=2), strict=True):  # of one model alone
        amounts.add("small", row, float(a), at=NOW)
    amounts.fit(at=NOW)
    assert amounts.power == (1.0 if right else 0.0)
    counted = Amounts(half_life=HALF_LIFE)
    counted.merge(amounts.evidence)
    counted.merge(before.evidence if right else {})
    counted.fit(at=NOW)
    for model in ("small", "large"):
        assert amounts.multiple(model, x[3]) == pytest.approx(counted.multiple(model, x[3]))
    assert set(amounts.evidence) == {"small"}


def test_what_was_known_with_other_features_is_no_measure() -> None:
    """The first length that is known is the length of all."""
    amounts = Amounts(half_life=HALF_LIFE, known=told().evidence)
    amounts.add("small", np.ones(7), 1.0, at=NOW)
    assert amounts.evidence == {}
