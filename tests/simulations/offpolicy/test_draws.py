"""What of a log counts as a draw, and what is left out by which name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandit_router import EventLog, Model, Outcome, Router, Uniform
from bandit_router.errors import ReplayError
from simulations.offpolicy.draws import LEFT, draws_of
from simulations.rounds import Rounds, read

MODELS = [Model("a"), Model("b")]


@pytest.fixture
def rounds(tmp_path: Path) -> Rounds:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with Router.open(url, models=MODELS, policy=Uniform()) as router:
        talk = [router.choose(f"turn {i}", conversation="c", user="u") for i in range(3)]
        for decision, rating in zip(talk, (0.0, 0.5, 1.0), strict=True):
            router.feedback(decision.id, "rating", rating)
        router.choose("only", models=["a"])
        moved = router.choose("moved", conversation="d", user="u")
        router.choose("its second turn", conversation="d", user="u")
        router.report(moved.id, Outcome(model="b" if moved.model == "a" else "a"))
        router.choose("silent")
    with EventLog.open(url) as log:
        return read(log)


def test_a_conversation_is_one_draw_with_the_mean_of_its_turns(rounds: Rounds) -> None:
    draws = draws_of(rounds)
    assert (len(draws), draws.turns) == (2, 4)
    np.testing.assert_equal(draws.reward, [0.5, np.nan])
    assert draws.logged.tolist() == [0.5, 0.5]
    assert draws.over_at is not None
    assert draws.over_at.tolist() == [rounds.at[2], rounds.at[-1]]
    assert draws.weight is None
    half = draws_of(replace(rounds, weight=rounds.weight / np.array([2, 1, 1, 1, 1, 1, 1])))
    np.testing.assert_allclose(half.weight, [5 / 6, np.nan])
    assert draws.left_out == {LEFT["moved"]: 1, LEFT["only"]: 1, LEFT["headless"]: 1}
    assert len(set(rounds.cluster[:3].tolist())) == 1
    assert rounds.head[:3].tolist() == [0, 0, 0]


def test_probabilities_that_cannot_be_are_counted_and_refused(rounds: Rounds) -> None:
    wrong = rounds.probability.copy()
    wrong[0] = 0.7  # not what stands beside it
    found = draws_of(replace(rounds, probability=wrong))
    assert len(found) == 1
    assert found.left_out[LEFT["improbable"]] == 1
    assert found.left_out[LEFT["headless"]] == 3
    nothing = replace(rounds, probability=np.zeros(len(rounds)), probabilities=0 * rounds.probabilities)
    with pytest.raises(ReplayError, match=r"known probability.*no valid probabilities"):
        draws_of(nothing)


def test_later_turns_whose_draw_is_not_in_the_period_are_left_out(rounds: Rounds) -> None:
    head = rounds.head.copy()
    head[1:3] = -1
    cut = replace(rounds, head=head)
    assert draws_of(cut).left_out[LEFT["headless"]] == 3


def test_some_of_the_draws(rounds: Rounds) -> None:
    draws = draws_of(rounds)
    last = draws.some(np.array([False, True]))
    assert draws.over_at is not None
    assert last.over_at is not None
    assert (len(last), last.at[0], last.over_at[0]) == (1, draws.at[1], draws.over_at[1])
    assert replace(draws, over_at=None).some(np.array([True, False])).over_at is None
