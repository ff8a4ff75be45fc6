"""RouterBench's protocol: zero router, oracle and cascade by hand, routers on a small world."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.errors import TableError
from bandit_router.events import Model
from bandit_router.features import HashedFeatures
from simulations.protocols.routerbench import routerbench
from simulations.simulate import stage
from simulations.tables import Table
from simulations.worlds import small_world

# Every prompt alike, so that whatever is held back is the same.
ALIKE = Table(
    name="alike",
    prompt_ids=tuple("abcdefgh"),
    prompts=("Hi",) * 8,
    models=(Model("cheap"), Model("middle"), Model("dear")),
    quality=np.tile([0.5, 0.6, 0.9], (8, 1)),
    cost_usd=np.tile([0.001, 0.003, 0.005], (8, 1)),
)


def test_zero_router_oracle_and_cascade_by_hand() -> None:
    result = routerbench(stage(ALIKE, HashedFeatures()), ["ridge"], seeds=2, labels=4)
    found = {line.router: {k: v[0] for k, v in line.numbers.items()} for line in result.lines}
    assert found["middle"] == pytest.approx({"quality": 0.6, "cost_usd": 0.003})
    assert found["oracle"] == pytest.approx({"quality": 0.9, "cost_usd": 0.005})
    # The hull goes straight from (.001, .5) to (.005, .9), over the middle one: mean height .7; by the
    # authors' code its area .7 * .004 = .0028 is divided by .005.
    zero = {"quality": 0.9, "cost_usd": 0.005, "aiq_paper": 0.7, "aiq_code": 0.56, "above_zero": 0.0}
    assert found["zero"] == pytest.approx(zero)
    # A judge who is right wants .9. The cascade reaches (.001, .5), with more to spend (.004, .6), and at
    # last (.009, .9). Its hull goes straight over the second: .7 at .005, where the dearest model ends it.
    cascade = found["cascade, judge errs 0%"]
    assert (cascade["quality"], cascade["cost_usd"]) == pytest.approx((0.9, 0.009))
    assert cascade["aiq_paper"] == pytest.approx(0.6)
    # Ridge knows them by heart, and traces the single models.
    assert found["ridge"]["aiq_paper"] == pytest.approx(0.7, abs=1e-6)


def test_a_router_that_learns_lies_above_the_zero_router() -> None:
    table = small_world(0).table(400, 1)
    result = routerbench(stage(table, HashedFeatures(), floor=1.0), ["ridge"], seeds=2)
    found = {line.router: line.numbers for line in result.lines}
    assert found["ridge"]["above_zero"][0] > 0
    assert found["oracle"]["quality"][0] >= found["ridge"]["quality"][0]
    assert result.curves["ridge"].shape == (42, 2)


def test_what_is_refused() -> None:
    scene = stage(ALIKE.with_pool(["dear"]), HashedFeatures())
    with pytest.raises(TableError, match="routerbench needs at least two models, got 'dear' only"):
        routerbench(scene, ["ridge"], seeds=1)
