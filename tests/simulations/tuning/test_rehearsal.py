"""Settings searched by playing live in a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulations.tuning.checking import check
from simulations.tuning.rehearsal import tune_table
from simulations.worlds import small_world


def test_a_poor_policy_is_replaced_and_noise_is_not() -> None:
    table = small_world(0).table(420, 1)
    found = tune_table(table, now="uniform", trials=1)
    assert found.recommended is not None
    assert found.recommended.reward.low > 0
    even = replace(table, quality=np.full(table.quality.shape, 0.5))
    assert tune_table(even, now="uniform", trials=1).recommended is None


def test_too_small_a_table_is_refused() -> None:
    found = tune_table(small_world(0).table(100, 1))
    assert found.refusal == "each part needs 200 rows"


def test_check_plays_what_is_recommended() -> None:
    found = check(small_world(0).table(900, 1), seeds=1, noise_seeds=1, rows=450)
    assert (found.recommended, found.better, found.noise_recommended) == (1, 1, 0)
    assert found.gain > 0
