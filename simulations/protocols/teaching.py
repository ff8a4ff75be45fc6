"""Routers that learn from some rows of a table, and foretell what models come to on the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandit_router.errors import SettingsError, TableError
from bandit_router.values import Array
from simulations.baselines import Ridge, player_from_spec, ridge_weights
from simulations.costs import Costs
from simulations.replay import Foreteller, Rows, Scene, play
from simulations.simulate import Progress

FORETELLERS = "thompson, linucb and the other policies that learn, knn, ridge"
POLICIES = ("thompson", "knn", "ridge")  # of protocols that measure on rows held back
FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """What a router foretells of rows that it has not seen, after it learnt from others.

    Attributes
    ----------
    spec : str
    seed : int
        Of the order: which rows were seen.
    held : ndarray of int of shape (m,)
        The rows of the table that it has not seen.
    quality, cost_usd : ndarray of shape (m, K)
        As foretold for these; the cost in [USD].
    """

    spec: str
    seed: int
    held: Rows
    quality: Array
    cost_usd: Array


def split(scene: Scene, seed: int, labels: int | None) -> tuple[Rows, Rows]:
    """Return the rows that are learnt from, in an order, and those that are held back.

    The same seed is the same order as in a simulation.

    Parameters
    ----------
    scene : Scene
    seed : int
    labels : int, optional
        How many are learnt from; 7 of 10 by default.

    Raises
    ------
    TableError
        Nothing is left on one of the sides.
    """
    n = len(scene.order)
    seen = n * 7 // 10 if labels is None else labels
    if not 0 < seen < n:
        raise TableError(f"{scene.table.name}: of {n} rows {seen} to learn from leave none on one side")
    order = np.random.default_rng(seed).permutation(scene.order)
    return order[:seen], order[seen:]


def teach(
    scene: Scene,
    specs: Sequence[str],
    *,
    seeds: int,
    labels: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Taught]:
    """Let routers learn by living through some rows, and yield what they foretell of the others.

    A router hears the quality of the model it chose, one label a row; ``ridge`` hears all models'. Costs
    are foretold by the router's own predictions, from the calls that it made (``ridge``: from all).

    Parameters
    ----------
    scene : Scene
        Of `simulations.simulate.stage`, without a price weight.
    specs : sequence of str
        Policies, as `player_from_spec`.
    seeds : int
        Orders: seeds 0, 1, ...
    labels : int, optional
        How many rows are learnt from; 7 of 10 by default.
    progress : callable, optional
        Called with the lives that are done, and all there are.

    Raises
    ------
    SettingsError
        A SPEC is wrong, or names a player that foretells nothing.
    """
    specs = list(dict.fromkeys(spec.strip() for spec in specs))
    for spec in specs:
        _foreteller(spec, scene)
    lives = [(spec, seed) for spec in specs for seed in range(seeds)]
    for done, (spec, seed) in enumerate(lives, start=1):
        yield _teach(scene, spec, seed, labels)
        if progress is not None:
            progress(done, len(lives))


def _foreteller(spec: str, scene: Scene) -> Foreteller:
    player = player_from_spec(spec, scene)
    if not isinstance(player, Foreteller):
        raise SettingsError(f"{spec!r} foretells no quality; these do: {FORETELLERS}")
    return player


def _teach(scene: Scene, spec: str, seed: int, labels: int | None) -> Taught:
    seen, held = split(scene, seed, labels)
    player = _foreteller(spec, replace(scene, order=seen))
    # The numbers behind the order, as in a simulation.
    rng = np.random.default_rng(seed)
    rng.permutation(scene.order)
    chosen = play(player, seen, rng.random(len(scene.order))[: len(seen)], scene.table.quality)
    return Taught(
        spec=spec,
        seed=seed,
        held=held,
        quality=np.array([player.promise(row) for row in held.tolist()]),
        cost_usd=_costs(scene, seen, None if isinstance(player, Ridge) else chosen, held),
    )


def _costs(scene: Scene, seen: Rows, chosen: Rows | None, held: Rows) -> Array:
    """Foretell the costs of the rows held back; without `chosen` every model was seen."""
    if not scene.table.has_cost:
        return np.zeros((len(held), len(scene.table.models)))
    known = None if scene.warmth is None else scene.warmth.predictions
    costs = Costs(scene.table, scene.features, scene.guessed_tokens, known=known)
    for t, row in enumerate(seen.tolist()):
        for k in range(len(scene.table.models)) if chosen is None else (int(chosen[t]),):
            costs.learn(row, k)
    return np.array([costs.forecast(row)[0] for row in held.tolist()])


def crossfit(x: Array, reward: Array, *, seed: int = 0, folds: int = FOLDS) -> Array:
    """Return what ridge on full information foretells of each row from the other folds, of shape (n, K).

    The best linear policy that the rows can teach: nothing is foretold from a row itself. Its argmax is
    what a linear router of these features is measured against; the oracle is mostly luck.

    Parameters
    ----------
    x : ndarray of shape (n, dim)
        Features, the first one 1.
    reward : ndarray of shape (n, K)
        Of all models.
    seed : int
        Which rows are in which fold.
    folds : int

    Raises
    ------
    TableError
        There are fewer rows than two a fold.
    """
    n = len(reward)
    if n < 2 * folds:
        raise TableError(f"expected at least {2 * folds} rows for {folds} folds, got {n}")
    fold = np.random.default_rng(seed).permutation(n) % folds
    foretold = np.empty_like(reward)
    for k in range(folds):
        held = fold == k
        foretold[held] = x[held] @ ridge_weights(x[~held], reward[~held])
    return foretold
