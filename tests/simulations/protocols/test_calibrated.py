"""Calibrating on a table, where it is tried, and on what a log says was promised."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router import Model, Outcome, Router
from bandit_router.errors import SettingsError
from bandit_router.features import HashedFeatures
from bandit_router.log import EventLog
from simulations.protocols.calibrated import calibrate_on_log, calibrate_on_table, document
from simulations.protocols.calibrating import Target
from simulations.protocols.routellm import pair_of
from simulations.rounds import Rounds, read
from simulations.simulate import stage
from simulations.worlds import small_world

PAIR = pair_of(small_world(0).table(600, 1), "small-fast", "large-strong")
SCENE = stage(PAIR, HashedFeatures(), floor=1.0)


def test_a_share_is_kept_on_rows_that_nobody_saw() -> None:
    found = calibrate_on_table(SCENE, "thompson", Target(share=0.3), seeds=3, labels=200)
    assert found.share[0] == pytest.approx(0.3, abs=0.005)
    # 3 x 200 rows tried, as many calibrated on: a standard deviation of about .027; four of them.
    assert found.tried["share"][0] == pytest.approx(0.3, abs=0.11)
    assert 0 < found.tried["saved"][0] < 1
    assert found.requests == 200
    assert document(found)["settings"]["preference"]["price_weight"] == pytest.approx(
        found.price_weight[0], rel=1e-4
    )


def rounds_of(url: str) -> Rounds:
    models = [
        Model("small", input_usd_per_mtok=0.1, output_usd_per_mtok=0.4),
        Model("large", input_usd_per_mtok=2.5, output_usd_per_mtok=10.0),
    ]
    with Router.open(url, models=models, floor=0.5, seed=0) as router:
        for i in range(40):
            decision = router.choose("What is 2 + 2? " + "and then " * (i % 5))
            router.report(decision.id, Outcome(input_tokens=10 + i % 5, output_tokens=50))
            router.feedback(decision.id, "judge", 0.9 if decision.model == "large" else 0.3)
    with EventLog.open(url, create=False) as log:
        return read(log, "default")


def test_a_log_is_calibrated_by_its_promises(sqlite_url: str) -> None:
    rounds = rounds_of(sqlite_url)
    found = calibrate_on_log(rounds, Target(share=0.25), weak="small", strong="large")
    assert found.requests == 40
    large, small = (rounds.models.index(name) for name in ("large", "small"))
    unit = float(rounds.cost_usd[:, large].mean())
    assert found.cost_unit_usd == pytest.approx(unit)
    gain = (rounds.mean - found.price_weight[0] / unit * rounds.cost_usd) @ np.eye(2)
    assert np.mean(gain[:, large] > gain[:, small]) == pytest.approx(found.share[0])
    assert not found.tried
    assert document(found)["tried"] == {}


def test_logs_that_are_refused(sqlite_url: str) -> None:
    rounds = rounds_of(sqlite_url)
    with pytest.raises(ValueError, match="no model or pool 'absent'"):
        calibrate_on_log(rounds, Target(share=0.5), weak="absent")
    with pytest.raises(SettingsError, match="costs nothing"):
        calibrate_on_log(rounds, Target(share=0.5), cost_unit_usd=0.0)
