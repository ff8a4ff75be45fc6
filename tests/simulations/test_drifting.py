"""A learner that notices changes: of one model only, and without false alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit_router.drift import KEEP
from bandit_router.events import Model
from bandit_router.features import HashedFeatures
from bandit_router.policies import ThompsonSampling
from bandit_router.prompt import Prompt
from simulations.drifting import Drifting
from simulations.replay import Scene, play_stream
from simulations.scenarios import scenario_from
from simulations.simulate import simulate
from simulations.streams import World
from simulations.tables import Table

N = 1000


def flat(seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    return Table(
        name="flat",
        prompt_ids=tuple(map(str, range(N))),
        prompts=tuple(f"question {i} of {rng.integers(99)}" for i in range(N)),
        models=(Model("a"), Model("b"), Model("c")),
        quality=np.clip(np.array([0.7, 0.85, 0.75]) + rng.normal(0, 0.1, (N, 3)), 0, 1),
        cost_usd=np.zeros((N, 3)),
    )


def world(**entries: object) -> World:
    return World.of(scenario_from(entries), flat())


def lived(world: World) -> tuple[Drifting, np.ndarray]:
    table = world.table
    prompts = [Prompt.of(text) for text in table.prompts]
    scene = Scene(
        table=table,
        order=np.arange(N),
        features=HashedFeatures().extract_many(prompts),
        guessed_tokens=np.zeros(N),
    )
    rng = np.random.default_rng(1)
    stream = world.stream(scene.order, rng)
    player = Drifting(ThompsonSampling(), scene.on(stream))
    return player, play_stream(player, stream, rng.random(N))


def test_nothing_changes_where_nothing_does() -> None:
    player, _ = lived(world())
    assert player.events == []
    plain, alert = simulate(flat(), ["thompson", "alert:thompson"], seeds=1, rows=300)
    assert (plain.chosen == alert.chosen).all()


def test_a_fall_is_noticed_of_that_model_alone_and_it_is_found_again() -> None:
    player, chosen = lived(world(quality=[{"at": 400, "until": 600, "model": "b", "factor": 0.82}]))
    first = player.events[0]
    assert first[1:] == ("b", KEEP)
    assert 400 < first[0] < 460
    assert {name for _, name, _ in player.events} == {"b"}
    assert (chosen[300:400] == 1).mean() > 0.8
    assert (chosen[500:700] == 1).mean() < 0.15
    assert (chosen[900:] == 1).mean() > 0.5


def test_what_came_before_counts_less() -> None:
    player, _ = lived(world())
    n = player.beliefs.evidence["b"].n
    other = player.beliefs.evidence["a"].n
    player._shorten(1, 20)
    assert player.beliefs.evidence["b"].n == pytest.approx(KEEP * (n - 20) + 20)
    assert player.beliefs.evidence["a"].n == other


def test_it_can_be_made_of_any_policy() -> None:
    table = replace(flat(), pool="all")
    assert (
        simulate(table, ["alert:linucb:alpha=0.5"], seeds=1, rows=20)[0].policy
        == "alert:linucb:alpha=0.5"
    )
