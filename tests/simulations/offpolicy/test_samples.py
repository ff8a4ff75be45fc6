"""What a policy is judged on: rows without a reward weigh nothing, costs where they were told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit_router.values import Array
from simulations import estimators as est
from simulations.offpolicy.coverage import draw_log, scenery_of
from simulations.offpolicy.draws import Draws
from simulations.offpolicy.samples import Foretold, Sample, paid
from simulations.worlds import small_world

N = 600
ALL = np.ones(N, dtype=bool)


@pytest.fixture(scope="module")
def logged() -> tuple[Draws, Array]:
    return draw_log(scenery_of(small_world(0).table(300, 1), dim=6), N, np.random.default_rng(0))


def test_a_row_without_a_reward_weighs_nothing(
    logged: tuple[Draws, Array],
) -> None:
    draws, p = logged
    silent = np.arange(N) % 2 == 0
    half = replace(draws, reward=np.where(silent, np.nan, draws.reward))
    whole, some = (Foretold.of(d, folds=3, seed=0) for d in (draws, half))
    assert (whole.responses == 1).all()
    assert some.responses == pytest.approx(0.5, abs=0.2)
    full = Sample.of(draws, p, ALL, whole, most=3.0)
    spoken = Sample.of(half, p, ALL, some, most=3.0)
    assert full.most == 3.0
    assert spoken.most > 5.0
    assert not spoken.target[silent].any()
    assert spoken.effective < 0.6 * full.effective
    values = [sample.estimates(0)["dr"] for sample in (full, spoken)]
    assert abs(values[0].value - values[1].value) < 2 * (values[1].high - values[1].value)


def test_what_a_request_would_have_cost(
    logged: tuple[Draws, Array],
) -> None:
    draws, p = logged
    price = np.array([0.001, 0.002, 0.004, 0.01])
    usd = np.where(np.arange(N) < 500, price[draws.chosen], np.nan)
    found = paid(replace(draws, paid_usd=usd), p, ALL)
    assert found is not None
    own = draws.of_chosen(p)[:500]
    assert found == est.snips(own, draws.logged[:500], usd[:500])
    assert found.low < float((p @ price).mean()) < found.high
    assert paid(draws, p, ALL) is None
