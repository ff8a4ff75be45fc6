"""Comparisons: both sides or neither; they move models against each other, and not both up or down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from beliefs import demand_fold

from bandit_router import ConflictError, LogUnavailableError, Router, Uniform, UnknownDecisionError
from bandit_router.events import new_id

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def decide(router: Router, model: str) -> str:
    return router.choose("Which is better?", models=[model], user="user:1").id


def means(router: Router) -> dict[str, float]:
    return {model: belief["mean_reward"] for model, belief in router.beliefs().items()}


def test_a_comparison_is_a_word_about_each_side(router: Router) -> None:
    small, large = decide(router, "small"), decide(router, "large")
    won, lost = router.compare(large, small, key="k")
    assert (won.decision_id, won.name, won.source) == (large, "vote", "user:1")
    assert (lost.decision_id, lost.name, lost.source) == (small, "vote", "user:1")
    assert won.applied
    assert lost.applied
    assert isinstance(won.value, float)
    assert isinstance(lost.value, float)
    assert won.value - lost.value == pytest.approx(1.0)  # nothing was known: both promised a half
    again = router.compare(large, small, key="k")
    assert [word.duplicate for word in again] == [True, True]
    assert [word.id for word in again] == [won.id, lost.id]
    assert {belief["n"] for belief in router.beliefs().values()} == {0.5}
    demand_fold(router)


def test_who_changes_their_mind_or_takes_it_back_leaves_nothing_behind(router: Router) -> None:
    small, large = decide(router, "small"), decide(router, "large")
    router.compare(large, small)
    won, lost = router.compare(small, large)
    assert means(router)["small"] > means(router)["large"]
    router.retract(won.id)
    router.retract(lost.id)
    assert {belief["n"] for belief in router.beliefs().values()} == {0.0}
    demand_fold(router)


def test_many_comparisons_part_the_models_and_leave_the_level(open_router: Open) -> None:
    router = open_router(policy=Uniform())
    for i in range(30):
        router.feedback(decide(router, ("small", "large")[i % 2]), "thumb", i % 10 > 1)  # both at 0.8
    for _ in range(20):
        router.compare(decide(router, "large"), decide(router, "small"))
    for _ in range(5):
        router.compare(decide(router, "large"), decide(router, "small"), tie=True)
    found = means(router)
    assert found["large"] > 0.8 > found["small"]
    assert (found["large"] + found["small"]) / 2 == pytest.approx(0.8, abs=0.1)


def test_both_or_neither(router: Router) -> None:
    small, large = decide(router, "small"), decide(router, "large")
    router.feedback(small, "thumb", True, source="user:1", key="k")
    with pytest.raises(ConflictError, match="another body"):
        router.compare(large, small, key="k")
    assert router.decision(large).feedback == ()
    with pytest.raises(UnknownDecisionError):
        router.compare(large, "nothing")
    with pytest.raises(LogUnavailableError, match="not there yet"):
        router.compare(large, new_id())  # it may be on its way from another worker
    assert router.decision(large).feedback == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"winner": "x", "loser": "x"}, "loser: expected another"),
        ({"winner": "", "loser": "x"}, "winner"),
        ({"winner": "x", "loser": 5}, "loser"),
        ({"winner": "x", "loser": "y", "tie": 1}, "tie: expected true or false"),
        ({"winner": "x", "loser": "y", "conversation": "c"}, "got a conversation"),
        ({"winner": "x", "loser": "y", "at": "soon"}, "at"),
        ({"winner": "x", "loser": "y", "colour": "red"}, "colour"),
    ],
)
def test_what_is_malformed_is_named(router: Router, arguments: dict[str, object], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        router.compare(**arguments)  # type: ignore[arg-type] # that is what is tried


def test_the_same_pair_from_both_sides_at_once(open_router: Open) -> None:
    routers = [open_router(), open_router()]
    small, large = decide(routers[0], "small"), decide(routers[0], "large")

    def say(i: int) -> None:
        pair = (small, large) if i % 2 else (large, small)
        routers[i % 2].compare(*pair, source=f"rater:{i}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(say, range(16)))
    assert len(routers[0].decision(small).feedback) == 16
    demand_fold(*routers)


def test_it_has_an_async_twin(router: Router) -> None:
    small, large = decide(router, "small"), decide(router, "large")
    won, lost = asyncio.run(router.acompare(large, small, source="rater:1"))
    assert (won.applied, lost.applied, won.source) == (True, True, "rater:1")
