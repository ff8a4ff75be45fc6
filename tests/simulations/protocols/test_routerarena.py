"""RouterArena's protocol: scores of models by hand, and a router that chooses by its own forecasts."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.features import HashedFeatures
from simulations.protocols.arena import arena_score
from simulations.protocols.routerarena import routerarena, wisest
from simulations.protocols.teaching import Taught
from simulations.simulate import stage
from simulations.worlds import small_world

TABLE = small_world(0).table(200, 1)


def test_models_and_routers_are_scored() -> None:
    result = routerarena(stage(TABLE, HashedFeatures(), floor=1.0), ["ridge"], seeds=2)
    found = {line.router: {k: v[0] for k, v in line.numbers.items()} for line in result.lines}
    assert list(found) == [*TABLE.names, "random", "ridge", "oracle"]
    mean = np.mean([found[name]["accuracy"] for name in TABLE.names])
    assert found["random"]["accuracy"] == pytest.approx(mean)
    assert found["oracle"]["score"] == max(numbers["score"] for numbers in found.values())
    for numbers in found.values():
        # Of means over two orders, so nearly.
        score = arena_score(numbers["accuracy"], 1000 * numbers["cost_usd"])
        assert numbers["score"] == pytest.approx(score, abs=0.005)


def test_the_router_plays_where_it_promises_most() -> None:
    # A better answer costs ten times as much: at 1 and 10 USD for 1,000 queries C is .494 and .279,
    # for 1.1 * .8 * .494 / (.08 + .494) = .757 against 1.1 * .9 * .279 / (.09 + .279) = .749.
    table = TABLE.with_pool(TABLE.names[:2])
    promised = np.tile([0.8, 0.9], (5, 1)), np.tile([0.001, 0.01], (5, 1))
    taught = Taught(spec="s", seed=0, held=np.arange(5), quality=promised[0], cost_usd=promised[1])
    assert wisest(taught, table).tolist() == [0] * 5
    # For nearly nothing more it takes the better one.
    taught = Taught(
        spec="s",
        seed=0,
        held=np.arange(5),
        quality=promised[0],
        cost_usd=np.tile([0.001, 0.0011], (5, 1)),
    )
    assert wisest(taught, table).tolist() == [1] * 5
