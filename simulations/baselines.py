"""What a policy must beat: fixed models, mixing without looking, neighbours, ridge, and a peer's bandit.

Each is a `Player`. Which of them may see more than what they chose is said in their first line.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bandit_router.errors import SettingsError
from bandit_router.policies import POLICIES, Uniform, parse_spec, policy_from_spec, with_floor
from bandit_router.values import Array, check_count, check_unit
from simulations.drifting import Drifting
from simulations.replay import FIRST_FIT, GROWTH, Bandit, Player, Rows, Scene
from simulations.streams import Mask

STRENGTHS = (0.3, 1, 3, 10, 30, 100, 300, 1000)  # of ridge


class Onlooker:
    """A player to whom outcomes and feedback say nothing."""

    def report(self, row: int, k: int) -> None:
        """As `Player.report`; nothing is seen."""

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """As `Player.learn`; nothing is learnt."""


class Mix(Onlooker):
    """The same probabilities for every row: a fixed model, the zero router, uniform.

    Where the world changes, the same between changes.

    Parameters
    ----------
    scene : Scene
    mix : callable
        Returns the probabilities, of shape (K,), for some rows of the scene.
    """

    def __init__(self, scene: Scene, mix: Callable[[Rows], Array]) -> None:
        self.p = np.zeros(scene.table.quality.shape)
        for rows in scene.parts:
            self.p[rows] = mix(rows)

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        p: Array = self.p[row]
        return p


def open_in(scene: Scene, rows: Rows) -> Mask:
    """Return which models can be asked in all of some rows, of shape (K,)."""
    there: Mask = np.logical_and.reduce(scene.available[rows], axis=0)
    return there


def fixed(scene: Scene, model: str) -> Mix:
    """Return the player that always chooses one model.

    Raises
    ------
    SettingsError
        No such model in the table.
    """
    names = scene.table.names
    if model not in names:
        known = ", ".join(names)
        raise SettingsError(f"fixed: no model {model!r} in {scene.table.name}; there are {known}")
    k = names.index(model)

    def mix(rows: Rows) -> Array:
        there = open_in(scene, rows)
        return _one(k, len(names)) if there[k] else there / there.sum()

    return Mix(scene, mix)


def uniform(scene: Scene) -> Mix:
    """Return the player that chooses every model alike."""

    def mix(rows: Rows) -> Array:
        there = open_in(scene, rows)
        share: Array = there / there.sum()
        return share

    return Mix(scene, mix)


def best_fixed(scene: Scene) -> Mix:
    """Return the model of the highest mean reward, in hindsight; within the budget, if there is one."""

    def mix(rows: Rows) -> Array:
        reward, cost = scene.means(rows)
        if scene.budget_usd is not None:
            reward = np.where(cost <= max(scene.budget_usd, cost.min()), reward, -np.inf)
        return _one(int(np.argmax(reward)), len(reward))

    return Mix(scene, mix)


def zero(scene: Scene) -> Mix:
    """Return the zero router: the best mix of models, in hindsight, without looking at the prompt.

    Without a budget it is one model, that of the highest mean reward. With one it lies on the upper
    concave hull of (mean cost, mean reward), where the mean cost is the budget.
    """
    budget = np.inf if scene.budget_usd is None else scene.budget_usd

    def mix(rows: Rows) -> Array:
        reward, cost = scene.means(rows)
        there = np.isfinite(cost)
        p = np.zeros(len(cost))
        p[there] = best_mix(cost[there], reward[there], budget)
        return p

    return Mix(scene, mix)


def best_mix(cost: Array, reward: Array, budget: float) -> Array:
    """Return the probabilities, of shape (K,), of the best mix that costs at most `budget` on average.

    It mixes two models at most. If even the cheapest one costs more, it is that.

    Examples
    --------
    >>> best_mix(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.2, 1.0]), 2.0)
    array([0.5, 0. , 0.5])
    """
    within, beyond = np.flatnonzero(cost <= budget), np.flatnonzero(cost > budget)
    if not len(within):
        return _one(int(np.argmin(cost)), len(cost))
    mixes = [_one(int(i), len(cost)) for i in within]
    for i, j in itertools.product(within.tolist(), beyond.tolist()):
        share = (cost[j] - budget) / (cost[j] - cost[i])
        mixes.append(share * _one(i, len(cost)) + (1.0 - share) * _one(j, len(cost)))
    return max(mixes, key=lambda p: float(p @ reward))


class Oracle(Onlooker):
    """FULL INFORMATION: the model of the highest reward for every row, ties to the cheapest.

    With a budget it is still the highest reward, whatever it costs.
    """

    def __init__(self, scene: Scene) -> None:
        reward, cost = np.where(scene.available, scene.reward, -np.inf), scene.table.cost_usd
        tied = reward == reward.max(axis=1, keepdims=True)
        self._best = np.argmin(np.where(tied, cost, np.inf), axis=1)
        self._k = reward.shape[1]

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        return _one(int(self._best[row]), self._k)


class Neighbours(Onlooker):
    """Per model, the mean reward of the nearest earlier prompts that it answered.

    Parameters
    ----------
    scene : Scene
    k : int
        Neighbours.
    epsilon : float
        Probability that explores, over all models together.
    """

    def __init__(self, scene: Scene, *, k: int = 50, epsilon: float = 0.05) -> None:
        if check_count("k", k) < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        self.scene, self.k, self.epsilon = scene, k, check_unit("epsilon", epsilon)
        self.charge = scene.charge
        n, models = scene.charge.shape
        self.rows: list[Rows] = [np.empty(n, dtype=np.intp) for _ in range(models)]
        self.told: list[Array] = [np.empty(n) for _ in range(models)]
        self.count = [0] * models
        self._squares = np.einsum("nd,nd->n", scene.features, scene.features)

    def choose(self, row: int) -> Array:
        """As `Player.choose`; a model that was never tried comes first."""
        x = self.scene.features[row]
        there = self.scene.available[row]
        means = np.array([self._mean(k, x) for k in np.flatnonzero(there).tolist()])
        p = np.zeros(len(there))
        p[there] = with_floor(_one(int(np.argmax(means)), len(means)), self.epsilon)
        return p

    def promise(self, row: int) -> Array:
        """As `Foreteller.promise`; of a model that was never tried, the mean of all that was told."""
        x = self.scene.features[row]
        means = np.array([self._mean(k, x) for k in range(len(self.told))])
        told = [told[:n] for told, n in zip(self.told, self.count, strict=True)]
        return np.where(np.isinf(means), np.mean(np.concatenate(told)), means)

    def _mean(self, k: int, x: Array) -> float:
        rows = self.rows[k][: self.count[k]]
        if not len(rows):
            return np.inf
        told = self.told[k][: len(rows)]
        if len(rows) > self.k:
            distance = self._squares[rows] - 2.0 * (self.scene.features[rows] @ x)
            told = told[np.argpartition(distance, self.k)[: self.k]]
        return float(told.mean())

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """As `Player.learn`."""
        at = self.count[k]
        self.rows[k][at], self.told[k][at] = row, quality - self.charge[row, k]
        self.count[k] += 1


class Ridge(Onlooker):
    """FULL INFORMATION: ridge on the features, trained on all models' rewards of all earlier rows.

    Its strength is chosen by leave-one-out error at every fit. It is what could be learnt.
    """

    def __init__(self, scene: Scene) -> None:
        import_extra("sklearn.linear_model", "ridge")
        self.scene, self.reward = scene, scene.reward
        self.seen: list[int] = []
        self._weights = np.zeros((scene.features.shape[1], self.reward.shape[1]))
        self._next = FIRST_FIT
        self._fitted = 0

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        there = self.scene.available[row]
        if self._next == FIRST_FIT:
            share: Array = there / there.sum()
            return share
        promised = np.where(there, self.scene.features[row] @ self._weights, -np.inf)
        return _one(int(np.argmax(promised)), len(there))

    def promise(self, row: int) -> Array:
        """As `Foreteller.promise`, fitted on all rows so far."""
        if self._fitted < len(self.seen):
            self._fit()
        promised: Array = self.scene.features[row] @ self._weights
        return promised

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """As `Player.learn`, but for what every model's reward would have been."""
        self.seen.append(row)
        if len(self.seen) >= self._next:
            self._next = int(len(self.seen) * (1.0 + GROWTH)) + 1
            self._fit()

    def _fit(self) -> None:
        self._weights = ridge_weights(self.scene.features[self.seen], self.reward[self.seen])
        self._fitted = len(self.seen)


def ridge_weights(x: Array, reward: Array) -> Array:
    """Return the weights of ridge on features with a leading 1, of shape (dim, K).

    Its strength, the same for all models, is chosen by leave-one-out error.

    Parameters
    ----------
    x : ndarray of shape (n, dim)
    reward : ndarray of shape (n, K)
    """
    ridge = import_extra("sklearn.linear_model", "ridge").RidgeCV(alphas=STRENGTHS)
    model = ridge.fit(x[:, 1:], reward)
    weights: Array = np.vstack([model.intercept_, np.reshape(model.coef_, (reward.shape[1], -1)).T])
    return weights


class River(Onlooker):
    """river's ``LinUCBDisjoint`` through its own interface, with its own defaults.

    Parameters
    ----------
    scene : Scene
    seed : int
        Of its own generator.
    """

    def __init__(self, scene: Scene, *, seed: int = 0) -> None:
        self.scene, self.charge = scene, scene.charge
        self.bandit = import_extra("river.bandit", "river").LinUCBDisjoint(seed=seed)
        self.arms = list(range(self.charge.shape[1]))

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        there = [arm for arm in self.arms if self.scene.available[row, arm]]
        return _one(self.bandit.pull(there, self._context(row)), len(self.arms))

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """As `Player.learn`."""
        self.bandit.update(k, self._context(row), quality - float(self.charge[row, k]))

    def _context(self, row: int) -> dict[int, float]:
        return dict(enumerate(self.scene.features[row].tolist()))


class Fresh(Onlooker):
    """A player that begins anew, knowing nothing, whenever the world changes; and so must be told when.

    Parameters
    ----------
    scene : Scene
    spec : str
        SPEC of the player.
    """

    def __init__(self, scene: Scene, spec: str) -> None:
        self.scene, self.spec = replace(scene, warmth=None), spec
        self.starts = [int(rows[0]) for rows in scene.parts]
        self.since = self.starts[0]
        self.player = player_from_spec(spec, scene)

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        if row in self.starts[1:]:
            self.since, self.player = row, player_from_spec(self.spec, self.scene)
        return self.player.choose(row)

    def report(self, row: int, k: int) -> None:
        """As `Player.report`."""
        self.player.report(row, k)

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """As `Player.learn`; late words about earlier rounds are not heard."""
        if self.scene.stream is None or row >= self.since:
            self.player.learn(row, k, quality, weight=weight)


Maker = Callable[..., Player]

BASELINES: dict[str, Maker] = {
    "random": uniform,
    "best-fixed": best_fixed,
    "zero": zero,
    "oracle": Oracle,
    "knn": Neighbours,
    "ridge": Ridge,
    "river": River,
}


def player_from_spec(spec: str, scene: Scene) -> Player:
    """Return the player that a SPEC names: a learning policy, or a baseline.

    Parameters
    ----------
    spec : str
        Such as ``thompson``, ``linucb:alpha=0.5``, ``fixed:MODEL``, ``best-fixed`` or ``knn:k=50``.
    scene : Scene

    Raises
    ------
    SettingsError
        No such policy, no such option, a value out of range, or an extra is missing.
    """
    name = spec.strip().partition(":")[0]
    if name == "fixed":
        return fixed(scene, spec.strip().removeprefix("fixed").removeprefix(":"))
    if name == "fresh":
        return Fresh(scene, spec.strip().removeprefix("fresh").removeprefix(":"))
    if name == "alert":
        return _alert(scene, spec.strip().removeprefix("alert").removeprefix(":"))
    if name in BASELINES:
        return _baseline(spec, scene)
    if name not in POLICIES:
        known = ", ".join([*POLICIES, "fixed:MODEL", "fresh:SPEC", "alert:POLICY", *BASELINES])
        raise SettingsError(f"{spec!r}: no policy {name!r}; there are {known}")
    policy = policy_from_spec(spec)
    return uniform(scene) if isinstance(policy, Uniform) else Bandit(policy, scene)


def _alert(scene: Scene, spec: str) -> Player:
    return Drifting(policy_from_spec(spec or "thompson"), scene)


def _baseline(spec: str, scene: Scene) -> Player:
    name, options = parse_spec(spec)
    try:
        return BASELINES[name](scene, **{key: _number(value) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{spec!r}: {error}") from error


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _one(k: int, models: int) -> Array:
    p = np.zeros(models)
    p[k] = 1.0
    return p


def import_extra(module: str, what: str) -> Any:  # Any: these packages ship no types
    """Return a module of the extra ``simulate``.

    Raises
    ------
    SettingsError
        It is not installed; the message says how.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = "pip install 'bandit-router[simulate]'"
        raise SettingsError(f"{what}: needs {module.split('.')[0]}: {extra} ({error})") from error
