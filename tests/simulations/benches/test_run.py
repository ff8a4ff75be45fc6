"""Every bench in process yields rows of one shape, on tiny sizes; what is unknown is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bandit_router.errors import SettingsError
from simulations.benches.rows import Effort
from simulations.benches.run import BENCHES, benches, machine

TINY = Effort(rounds=1, calls=2, log_rows=3, peers=False)


@pytest.mark.parametrize("name", ["arithmetic", "choose", "durable", "simulate", "ready"])
def test_a_bench_yields_rows(name: str) -> None:
    rows = list(BENCHES[name](TINY))
    assert rows
    assert {row.bench for row in rows} == {name}
    assert all(math.isfinite(row.ours) and row.ours > 0 for row in rows)
    assert all(row.theirs is not None or row.note.startswith(("absent: ", "the bar ")) or not row.against
               for row in rows)  # fmt: skip


def test_peers_that_are_not_asked_are_named() -> None:
    rows = list(BENCHES["durable"](TINY))
    assert [(row.theirs, row.met, row.note) for row in rows] == [
        (None, None, "absent: paretobandit: not asked")
    ]


def test_an_unknown_bench_is_refused() -> None:
    with pytest.raises(SettingsError, match="no bench 'tea'; there are arithmetic, "):
        benches(["import", "tea"])
    assert list(benches()) == list(BENCHES)


def test_the_machine_is_named() -> None:
    assert all(isinstance(value, str) and value for value in machine().values())


def test_the_environments_are_a_folder() -> None:
    assert isinstance(Effort().environments, Path)
