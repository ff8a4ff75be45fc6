"""Whether `tune` can be believed: logs of a poor setting, and logs of pure noise, made from a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bandit_router.prompt import Prompt
from bandit_router.values import Array
from simulations.offpolicy.coverage import features_of
from simulations.replay import Scene
from simulations.tables import Table
from simulations.tuning.candidates import Candidate
from simulations.tuning.living import Rows, live, log_of
from simulations.tuning.search import tune_draws

POOR = Candidate(
    policy="thompson:width=3", floor=0.5
)  # explores half of the time, and much of the other
MODELS = 5  # at most: the first, every so many-th
ROWS = 1_000  # of a log


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How tuning did over some seeds.

    Attributes
    ----------
    seeds, recommended, better : int
        Logs of the poor setting; those on which something was recommended; and on which that, played live on
        other rows, earned more than the poor setting did on the same.
    gain : float
        Mean difference in reward per decision, played live, where something was recommended.
    foretold : float
        What `tune` had said of it.
    noise_seeds, noise_recommended : int
        Logs whose rewards depend on nothing, and those on which something was recommended.
    """

    seeds: int
    recommended: int
    better: int
    gain: float
    foretold: float
    noise_seeds: int
    noise_recommended: int


def check(
    table: Table,
    *,
    seeds: int = 10,
    noise_seeds: int = 20,
    rows: int = ROWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checked:
    """Tune on logs of the poor setting, and of noise, and play what was recommended."""
    table = table.with_pool(table.names[:: max(1, len(table.names) // MODELS)][:MODELS])
    x, gains, foretold = features_of(table, 24), [], []
    for seed in range(seeds):
        found = _gain(table, x, seed, rows)
        gains += found[:1]
        foretold += found[1:]
        progress(seed + 1, seeds + noise_seeds)
    noise = 0
    for seed in range(noise_seeds):
        noise += _recommends_on_noise(table, x, seed, rows)
        progress(seeds + seed + 1, seeds + noise_seeds)
    return Checked(
        seeds=seeds,
        recommended=len(gains),
        better=sum(gain > 0 for gain in gains),
        gain=float(np.mean(gains)) if gains else 0.0,
        foretold=float(np.mean(foretold)) if foretold else 0.0,
        noise_seeds=noise_seeds,
        noise_recommended=noise,
    )


def _scene(table: Table, x: Array, order: Rows) -> Scene:
    guessed = np.array([Prompt.of(text).input_tokens for text in table.prompts], dtype=np.float64)
    return Scene(table=table, order=order, features=x, guessed_tokens=guessed)


def _gain(table: Table, x: Array, seed: int, rows: int) -> list[float]:
    """Return the gain, played live, and the one foretold; nothing where nothing was recommended."""
    order = np.random.default_rng(seed).permutation(len(x)).astype(np.intp)
    logged, fresh = order[: min(rows, len(x) // 2)], order[len(x) // 2 :][:rows]
    found = tune_draws(log_of(_poor(table, x, logged), POOR, seed=seed), seed=seed)
    if found.recommended is None:
        return []
    best = found.recommended.candidate
    scene = _scene(table, x, fresh)
    new = live(replace(scene, floor=best.floor), best, seed=seed)
    old = live(_poor(table, x, fresh), POOR, seed=seed)
    return [float(new.reward.mean() - old.reward.mean()), found.recommended.reward.value]


def _poor(table: Table, x: Array, order: Rows) -> Scene:
    return replace(_scene(table, x, order), floor=POOR.floor)


def _recommends_on_noise(table: Table, x: Array, seed: int, rows: int) -> bool:
    rng = np.random.default_rng(1_000 + seed)
    quality = (rng.random(table.quality.shape) < 0.5).astype(np.float64)
    order = rng.permutation(len(x))[:rows].astype(np.intp)
    log = log_of(_poor(replace(table, quality=quality), x, order), POOR, seed=seed)
    return tune_draws(log, seed=seed).recommended is not None
