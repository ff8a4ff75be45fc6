"""The schedule is the seed's alone, brings every kind of fault, and leaves each round time to be judged."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from simulations.chaos.faults import DEEDS
from simulations.chaos.schedule import CALM_S, FRESH, KINDS, ROUND_S, schedule

SEEDS = range(20)


@pytest.mark.parametrize("minutes", [0.1, 0.5, 3.0])
def test_the_same_seed_brings_the_same(minutes: float) -> None:
    assert schedule(1, minutes) == schedule(1, minutes)
    assert schedule(1, minutes) != schedule(2, minutes)
    assert sum(round_.seconds for round_ in schedule(1, minutes)) == pytest.approx(60 * minutes)


def test_three_minutes_bring_every_kind() -> None:
    for seed in SEEDS:
        came = Counter(fault.kind for round_ in schedule(seed, 3.0) for fault in round_.faults)
        assert came.keys() == set(KINDS)


def test_one_part_suffers_one_fault_at_a_time() -> None:
    for round_ in (round_ for seed in SEEDS for round_ in schedule(seed, 3.0)):
        for target in {fault.target for fault in round_.faults}:
            own = [fault for fault in round_.faults if fault.target == target]
            assert all(one.at_s + one.seconds < other.at_s for one, other in pairwise(own))


def test_what_folds_anew_comes_early_and_nothing_comes_at_the_end() -> None:
    for round_ in (round_ for seed in SEEDS for round_ in schedule(seed, 3.0)):
        assert round_.seconds == ROUND_S
        for fault in round_.faults:
            assert fault.at_s < round_.seconds - CALM_S
            assert not fault.kind.folds_anew or fault.at_s < FRESH * round_.seconds


def test_every_worker_gets_its_share() -> None:
    targets = {fault.target for round_ in schedule(1, 6.0, workers=3) for fault in round_.faults}
    assert {"worker 1", "worker 2", "worker 3", "worker 3 - redis", "worker 3 - postgres"} <= targets


def test_what_is_wanted_alone_comes_alone() -> None:
    (round_,) = schedule(1, 0.5, only=["redis link: cut", "flush"])
    assert {str(fault.kind) for fault in round_.faults} == {"redis link: cut", "redis: flush"}
    with pytest.raises(ValueError, match="expected parts of worker: kill, "):
        schedule(1, 0.5, only=["earthquake"])


def test_every_kind_can_be_done() -> None:
    assert DEEDS.keys() == {(kind.part, kind.name) for kind in KINDS}
