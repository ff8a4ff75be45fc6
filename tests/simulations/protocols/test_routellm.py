"""RouteLLM's protocol on a small world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit_router.errors import SettingsError, TableError
from bandit_router.features import HashedFeatures
from simulations.protocols.routellm import pair_of, routellm
from simulations.simulate import stage
from simulations.worlds import small_world

TABLE = small_world(0).table(300, 1)
PAIR = pair_of(TABLE, "small-fast", "large-strong")


def test_the_pair_by_default_is_cheapest_and_best() -> None:
    pair = pair_of(TABLE)
    weak, strong = (TABLE.names.index(name) for name in pair.names)
    assert weak == TABLE.cost_usd.mean(axis=0).argmin()
    assert strong == TABLE.quality.mean(axis=0).argmax()


def test_without_costs_the_worst_is_weak() -> None:
    pair = pair_of(replace(TABLE, cost_usd=np.zeros_like(TABLE.cost_usd)))
    assert TABLE.names.index(pair.names[0]) == TABLE.quality.mean(axis=0).argmin()


def test_pairs_that_are_refused() -> None:
    with pytest.raises(TableError, match="no model or pool 'gpt-7'"):
        pair_of(TABLE, "gpt-7", None)
    with pytest.raises(TableError, match="expected different models"):
        pair_of(TABLE, "small-fast", "small-fast")
    with pytest.raises(TableError, match="routellm needs at least two models, got 'small-fast' only"):
        pair_of(TABLE.with_pool(["small-fast"]))
    with pytest.raises(SettingsError, match="there is no gap to recover"):
        pair_of(TABLE, "large-strong", "small-fast")


def test_what_is_learnt_beats_chance_and_nobody_beats_the_oracle() -> None:
    scene = stage(PAIR, HashedFeatures(), floor=1.0)
    result = routellm(scene, ["thompson", "ridge", "random"], seeds=3)
    apgr = {line.router: line.numbers["apgr"][0] for line in result.lines}
    assert list(apgr) == ["random", "thompson", "ridge", "oracle"]
    assert apgr["oracle"] > apgr["ridge"] > apgr["random"]
    assert apgr["thompson"] > apgr["random"]
    assert result.facts["weak"] == "small-fast"
    assert (result.facts["labels"], result.facts["held"]) == (210, 90)
    for curve in result.curves.values():
        assert curve.shape == (11, 2)
        np.testing.assert_allclose(curve[[0, -1]], [[0, 0], [1, 1]])
