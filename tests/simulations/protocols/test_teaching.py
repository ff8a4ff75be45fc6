"""Routers taught on some rows: what they see, what they hold back, and how well they foretell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit_router.errors import SettingsError, TableError
from bandit_router.features import HashedFeatures
from simulations.protocols.teaching import crossfit, split, teach
from simulations.simulate import simulate, stage
from simulations.worlds import small_world

TABLE = small_world(0).table(200, 1)
SCENE = stage(TABLE, HashedFeatures(), floor=1.0)


def test_rows_are_split_as_a_simulation_orders_them() -> None:
    seen, held = split(SCENE, 3, 50)
    run = simulate(TABLE, ["uniform"], seeds=1, first_seed=3)[0]
    np.testing.assert_array_equal(np.concatenate([seen, held]), run.order)
    assert (len(seen), len(held)) == (50, 150)
    assert [len(part) for part in split(SCENE, 0, None)] == [140, 60]


@pytest.mark.parametrize("labels", [0, 200, 500])
def test_both_sides_need_rows(labels: int) -> None:
    with pytest.raises(TableError, match=f"of 200 rows {labels} to learn from"):
        split(SCENE, 0, labels)


def test_what_is_foretold_rests_on_the_rows_seen_alone() -> None:
    seen, _ = split(SCENE, 0, 60)
    quality, cost = TABLE.quality.copy(), TABLE.cost_usd.copy()
    unseen = np.setdiff1d(np.arange(len(TABLE)), seen)
    quality[unseen], cost[unseen] = 0.0, 9.0
    other = replace(SCENE, table=replace(TABLE, quality=quality, cost_usd=cost))
    for spec in ("thompson", "knn:k=5", "ridge"):
        mine, theirs = (next(teach(scene, [spec], seeds=1, labels=60)) for scene in (SCENE, other))
        np.testing.assert_array_equal(mine.quality, theirs.quality)
        np.testing.assert_array_equal(mine.cost_usd, theirs.cost_usd)


def test_forecasts_are_better_than_nothing() -> None:
    mean = TABLE.quality.mean()
    for spec in ("thompson", "knn", "ridge"):
        taught = next(teach(SCENE, [spec], seeds=1))
        error = np.mean((taught.quality - TABLE.quality[taught.held]) ** 2)
        assert error < np.mean((mean - TABLE.quality[taught.held]) ** 2)
        dearest = TABLE.cost_usd.mean(axis=0).argmax()
        assert taught.cost_usd.mean(axis=0).argmax() == dearest


def test_neighbours_of_a_model_never_tried_are_all() -> None:
    taught = next(teach(replace(SCENE, floor=0.0), ["knn:epsilon=0"], seeds=1, labels=2))
    assert np.isfinite(taught.quality).all()


def test_lives_are_counted_and_repeated_specs_live_once() -> None:
    told: list[tuple[int, int]] = []
    found = list(
        teach(SCENE, ["ridge", " ridge"], seeds=2, labels=30, progress=lambda *at: told.append(at))
    )
    assert [(taught.spec, taught.seed) for taught in found] == [("ridge", 0), ("ridge", 1)]
    assert told == [(1, 2), (2, 2)]


def test_who_foretells_nothing_is_refused() -> None:
    for spec in ("uniform", "fixed:small-fast", "river"):
        with pytest.raises(SettingsError, match="foretells no quality; these do: thompson"):
            next(teach(SCENE, [spec], seeds=1))


def test_crossfit_sees_no_row_that_it_foretells() -> None:
    x, reward = SCENE.features, TABLE.quality.copy()
    before = crossfit(x, reward)
    reward[7] = 1.0 - reward[7]
    after = crossfit(x, reward)
    np.testing.assert_array_equal(before[7], after[7])
    assert not np.array_equal(before, after)


def test_crossfit_finds_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(300), rng.normal(size=(300, 3))])
    truth = x @ rng.normal(size=(4, 2))
    np.testing.assert_allclose(crossfit(x, truth), truth, atol=0.02)
    with pytest.raises(TableError, match="at least 10 rows for 5 folds, got 9"):
        crossfit(x[:9], truth[:9])
