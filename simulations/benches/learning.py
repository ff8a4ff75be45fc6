"""Learning offline: rounds that a policy lives through in a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from bandit_router.events import Model
from bandit_router.policies import LinUCB, Policy, ThompsonSampling
from simulations.benches.rows import Bar, Effort, Row, interleaved
from simulations.replay import Bandit, Scene, play
from simulations.tables import Table

DIM, MODELS = 64, 10
POLICIES: tuple[Policy, ...] = (LinUCB(), ThompsonSampling())


def simulation(effort: Effort) -> Iterator[Row]:
    """Learning rounds of `simulate`, on one core, features ready."""
    scene = _scene(10 * effort.calls)
    contestants = {policy.spec: partial(_rounds_per_s, policy, scene) for policy in POLICIES}
    found = interleaved(contestants, effort.rounds)
    for policy in POLICIES:
        yield Row(
            bench="simulate",
            what=f"{policy.spec.partition(':')[0]} learning rounds, {DIM} x {MODELS}, one core",
            unit="/s",
            ours=found[policy.spec],
            bar=Bar(limit=20_000, at_least=True, ratio=False),
        )


def _scene(rounds: int) -> Scene:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rounds, DIM)) / 8.0
    x[:, 0] = 1.0
    quality = np.clip(0.5 + x @ rng.normal(size=(DIM, MODELS)) / 4.0, 0.0, 1.0)
    table = Table(
        name="bench",
        prompt_ids=tuple(map(str, range(rounds))),
        prompts=("",) * rounds,
        models=tuple(Model(f"model-{k}") for k in range(MODELS)),
        quality=quality,
        cost_usd=np.zeros((rounds, MODELS)),
    )
    return Scene(table=table, order=np.arange(rounds), features=x, guessed_tokens=np.ones(rounds))


def _rounds_per_s(policy: Policy, scene: Scene) -> float:
    draws = np.random.default_rng(1).random(len(scene.order))
    began = time.perf_counter()
    play(Bandit(policy, scene), scene.order, draws, scene.table.quality)
    return len(scene.order) / (time.perf_counter() - began)
