"""IPS and DR cover the truth of a world; DR is at least as precise as IPS."""

from __future__ import annotations

import numpy as np
from scipy import stats

from bandit_router.values import Array
from simulations import estimators as est
from simulations.estimators import Estimate
from simulations.offpolicy.coverage import cover, doubted, rarest_of, scenery_of
from simulations.offpolicy.crossfit import cross_fitted
from simulations.offpolicy.draws import Draws
from simulations.worlds import small_world

LOGS = 60


def some_estimates(draws: Draws, target: Array) -> dict[str, Estimate]:
    w, foretold = (draws.of_chosen(target), draws.logged, draws.reward), cross_fitted(draws, folds=2)
    s = (*w, draws.of_chosen(foretold), (target * foretold).sum(axis=1))
    return {
        "ips": est.ips(*w),
        "dr": est.dr(*s),
        "sequence": est.ips(*w, interval="sequence"),
    }


def test_intervals_cover_the_truth_of_a_world() -> None:
    scene = scenery_of(small_world(0).table(500, 1), dim=8)
    found = cover(scene, logs=LOGS, n=400, estimate=some_estimates)
    # So few of 60 cover at 94 %, which Student's interval of 400 skewed terms reaches, once in ten thousand.
    fewest = stats.binom.ppf(1e-4, LOGS, 0.94)
    assert all(each.covered >= fewest for each in found.values())
    assert found["dr"].rmse <= found["ips"].rmse
    assert abs(found["dr"].bias) < 4 * found["dr"].rmse / np.sqrt(LOGS)


def test_lies_are_called_wrong_and_the_truth_is_not() -> None:
    scene = scenery_of(small_world(0).table(500, 1), dim=8)
    found = doubted(scene, logs=20)
    # The truth is called wrong once in ten thousand logs.
    assert found == {"as they are": 0, "two models exchanged": 20, "1/K for all": 20}


def test_the_rarest_model_is_a_harder_question() -> None:
    scene = scenery_of(small_world(0).table(500, 1), dim=8)
    hard = rarest_of(scene)
    ratio = [float((each.target / each.logging).max()) for each in (scene, hard)]
    assert ratio[1] > 2 * ratio[0]
    (k,) = np.flatnonzero(hard.target[0])
    assert hard.truth == scene.quality[:, k].mean()
