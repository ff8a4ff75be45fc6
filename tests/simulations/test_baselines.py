"""What the baselines are, worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from bandit_router.errors import SettingsError
from bandit_router.events import Model
from bandit_router.features import HashedFeatures
from simulations.baselines import Ridge, best_mix, player_from_spec
from simulations.replay import Scene
from simulations.simulate import simulate
from simulations.tables import Table
from simulations.worlds import small_world

WORLD = small_world(0).table(300, 1)
HAND = Table(  # mean cost 1, 2, 4 [USD]; mean quality 0.2, 0.3, 0.8
    name="hand",
    prompt_ids=("a", "b"),
    prompts=("Hi", "2 + 2?"),
    models=(Model("small"), Model("middle"), Model("a:large=x,y")),
    quality=np.array([[0.0, 0.3, 0.8], [0.4, 0.3, 0.8]]),
    cost_usd=np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]),
)


def scene(table: Table = HAND, **settings: float) -> Scene:
    n = len(table)
    features = np.column_stack([np.ones(n), np.arange(n)])
    return replace(
        Scene(table=table, order=np.arange(n), features=features, guessed_tokens=np.ones(n)), **settings
    )


@pytest.mark.parametrize(
    ("budget", "p"),
    [
        (0.5, (1, 0, 0)),  # less than the cheapest costs
        (1.0, (1, 0, 0)),
        (2.5, (0.5, 0, 0.5)),  # the middle one lies below the line from small to large
        (3.25, (0.25, 0, 0.75)),
        (9.0, (0, 0, 1)),
    ],
)
def test_zero_mixes_along_the_hull(budget: float, p: tuple[float, ...]) -> None:
    np.testing.assert_allclose(player_from_spec("zero", scene(budget_usd=budget)).choose(0), p)


def test_zero_without_a_budget_is_the_best_point_of_the_hull() -> None:
    assert player_from_spec("zero", scene()).choose(0).tolist() == [0, 0, 1]
    # reward = quality - 1.0 * cost / 4: -0.05, -0.2, -0.2
    assert player_from_spec("zero", scene(price_weight=1.0)).choose(0).tolist() == [1, 0, 0]


def test_a_dear_model_that_is_worse_is_never_mixed_in() -> None:
    p = best_mix(np.array([1.0, 2.0, 4.0]), np.array([0.2, 0.6, 0.5]), 3.0)
    assert p.tolist() == [0, 1, 0]


def test_best_fixed_is_affordable() -> None:
    assert player_from_spec("best-fixed", scene()).choose(0).tolist() == [0, 0, 1]
    assert player_from_spec("best-fixed", scene(budget_usd=2.0)).choose(0).tolist() == [0, 1, 0]
    assert player_from_spec("best-fixed", scene(budget_usd=0.1)).choose(0).tolist() == [1, 0, 0]


def test_oracle_takes_the_cheapest_of_the_best() -> None:
    tied = replace(HAND, quality=np.array([[0.8, 0.3, 0.8], [0.4, 0.9, 0.8]]))
    oracle = player_from_spec("oracle", scene(tied))
    assert [int(oracle.choose(row).argmax()) for row in (0, 1)] == [0, 1]


def test_fixed_takes_any_name() -> None:
    assert player_from_spec("fixed:a:large=x,y", scene()).choose(0).tolist() == [0, 0, 1]
    with pytest.raises(SettingsError, match="no model 'huge' in hand; there are small, middle"):
        player_from_spec("fixed:huge", scene())


def test_random_is_uniform() -> None:
    assert (
        player_from_spec("random", scene()).choose(0) == player_from_spec("uniform", scene()).choose(0)
    ).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("conjuror", "no policy 'conjuror'; there are linucb, thompson.*fixed:MODEL.*knn.*river"),
        ("knn:k=0", "at least 1"),
        ("knn:k=2.5", "whole number"),
        ("knn:q=3", "unexpected keyword"),
        ("knn:k=many", "could not convert"),
        ("zero:k=3", "unexpected keyword"),
        ("linucb:alpha=-1", "alpha"),
        ("knn:k", "expected name:key=value"),
    ],
)
def test_wrong_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        player_from_spec(spec, scene())


@pytest.mark.parametrize("spec", ["knn:k=20", "ridge", "river"])
def test_baselines_that_learn_beat_uniform(spec: str) -> None:
    for weight in (0.0, 0.3):
        runs = simulate(WORLD, [spec, "uniform"], seeds=2, price_weights=(weight,))
        mine, uniform = (
            np.mean([r.reward.mean() for r in runs if r.policy == s]) for s in (spec, "uniform")
        )
        assert mine - uniform > 0.03  # the standard error of uniform over 600 rounds is 0.012


def test_full_information_learns_more_than_a_bandit() -> None:
    runs = simulate(WORLD, ["ridge", "thompson"], seeds=3)
    ridge, thompson = (
        np.mean([r.reward.mean() for r in runs if r.policy == s]) for s in ("ridge", "thompson")
    )
    assert ridge > thompson


def test_neighbours_are_the_nearest() -> None:
    line = Table(
        name="line",
        prompt_ids=tuple("abcdef"),
        prompts=tuple("abcdef"),
        models=(Model("x"), Model("y")),
        quality=np.zeros((6, 2)),
        cost_usd=np.zeros((6, 2)),
    )
    player = player_from_spec("knn:k=2,epsilon=0", scene(line))
    assert player.choose(0).max() == 1.0
    for row, k, quality in [(0, 0, 0.9), (1, 0, 0.9), (4, 0, 0.1), (5, 0, 0.1), (2, 1, 0.5)]:
        player.learn(row, k, quality)
    assert player.choose(0).tolist() == [1, 0]  # .9 of its neighbours at 0 and 1, against .5
    assert player.choose(5).tolist() == [0, 1]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(
        SettingsError, match=r"ridge: needs sklearn: pip install 'bandit-router\[simulate\]'"
    ):
        Ridge(scene())


def test_features_reach_every_baseline() -> None:
    assert HashedFeatures().extract_many([]).shape == (0, 64)
