"""Let a policy live through a full-information table, seeing only what it chose.

One loop for all: a `Player` says how likely it would choose each model for a row, one model is drawn,
and the player is told what that model's answer was worth. `Bandit` is the router's own core: beliefs,
predictions, preference, pace, policy, floor. The baselines are players too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bandit_router.choosing import Offer, weigh
from bandit_router.events import Outcome
from bandit_router.evidence import Evidence, Observation
from bandit_router.pacing import Pacer
from bandit_router.policies import DEFAULT_FLOOR, Policy, draw
from bandit_router.posterior import Beliefs
from bandit_router.predictions import Predictions, contribution
from bandit_router.preference import Preference
from bandit_router.prompt import Prompt
from bandit_router.values import Array
from simulations.tables import Table

Rows = NDArray[np.intp]

FIRST_FIT = 25  # contributions before the hyperparameters are fitted for the first time
GROWTH = 0.1  # share by which the evidence grows until they are fitted again


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Warmth:
    """What was known before round one, from a table of which everything may be seen.

    Attributes
    ----------
    evidence : dict of str to Evidence
        The sums of each model.
    predictions : bytes
        What its calls cost and how long they took, as `Predictions.to_bytes`.
    """

    evidence: dict[str, Evidence]
    predictions: bytes

    @classmethod
    def of(cls, prior: Table, features: Array) -> Warmth:
        """Read all rows and all models of a prior table, with features of shape (n, dim)."""
        evidence = {model.name: Evidence(features.shape[1]) for model in prior.models}
        predictions = Predictions()
        for row, x in enumerate(features):
            guessed = Prompt.of(prior.prompts[row]).input_tokens
            for k, model in enumerate(prior.models):
                evidence[model.name].add(_observation(x, float(prior.quality[row, k])))
                outcome = _outcome(prior, row, k)
                predictions.add(model.name, contribution(outcome, guessed), at=0.0)
        return cls(evidence=evidence, predictions=predictions.to_bytes())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What all players of one order share.

    Attributes
    ----------
    table : Table
    order : ndarray of shape (m,)
        The rows of the table that are lived through, in this order.
    features : ndarray of shape (n, dim)
        Of its prompts.
    guessed_tokens : ndarray of shape (n,)
        Input tokens as `Prompt.input_tokens` guesses them.
    price_weight : float
        Reward that one cost unit of the table is worth.
    budget_usd : float, optional
        Mean cost per request to be kept [USD].
    floor : float
        Probability that explores, over all models together.
    warmth : Warmth, optional
        What is known before round one.
    """

    table: Table
    order: Rows
    features: Array
    guessed_tokens: Array
    price_weight: float = 0.0
    budget_usd: float | None = None
    floor: float = DEFAULT_FLOOR
    warmth: Warmth | None = None

    @property
    def reward(self) -> Array:
        """``quality - price_weight * cost / cost unit`` of all rows of the table, of shape (n, K)."""
        return self.table.reward(self.price_weight)

    @property
    def charge(self) -> Array:
        """What each answer costs, in reward, of shape (n, K)."""
        return self.table.quality - self.reward

    def means(self) -> tuple[Array, Array]:
        """Return each model's mean reward and mean cost [USD] over the rounds, of shape (K,)."""
        return self.reward[self.order].mean(axis=0), self.table.cost_usd[self.order].mean(axis=0)


class Player(Protocol):
    """Whoever chooses a model for every row, and may learn from what came of it."""

    def choose(self, row: int) -> Array:
        """Return how likely each model is chosen for a row of the table, of shape (K,)."""
        ...

    def learn(self, row: int, k: int, quality: float) -> None:
        """Be told that the answer of the `k`-th model to that row had this quality."""
        ...


def play(player: Player, order: Rows, draws: Array, told: Array) -> Rows:
    """Live through the rows of a table in one order, and return the models chosen, of shape (m,).

    Parameters
    ----------
    player : Player
    order : ndarray of shape (m,)
        Rows of the table.
    draws : ndarray of shape (m,)
        Uniform numbers in [0, 1), one a round.
    told : ndarray of shape (n, K)
        The quality that the player is told, where it chose that model.
    """
    chosen = np.empty(len(order), dtype=np.intp)
    for t, (row, u) in enumerate(zip(order.tolist(), draws.tolist(), strict=True)):
        k = draw(player.choose(row), u)
        player.learn(row, k, float(told[row, k]))
        chosen[t] = k
    return chosen


class Bandit:
    """A policy with the router's own beliefs, predictions, preference, pace and floor.

    Parameters
    ----------
    policy : Policy
    scene : Scene
    """

    def __init__(self, policy: Policy, scene: Scene) -> None:
        self.policy, self.scene = policy, scene
        self.names = scene.table.names
        known = None if scene.warmth is None else scene.warmth.evidence
        self.beliefs = Beliefs(self.names, scene.features.shape[1], known=known)
        self.preference = Preference(price_weight=scene.price_weight)
        self.unit_usd = scene.table.cost_unit_usd
        budget = scene.budget_usd
        self.pacer = None if budget is None else Pacer(budget, len(self.names))
        self.costs = Costs(scene) if scene.price_weight or budget else None
        self._n = 0
        self._free = np.zeros(len(self.names))

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        offer = self._offer(row)
        if self.pacer is not None:
            self.pacer.record(self.policy, offer.utility, offer.std, offer.cost_usd)
        return weigh(self.policy, offer, floor=self.scene.floor, pacer=self.pacer)

    def _offer(self, row: int) -> Offer:
        mean, std = self.beliefs.predict(self.scene.features[row])
        utility, cost_usd, latency_s = mean, self._free, self._free
        if self.costs is not None:
            cost_usd, latency_s = self.costs.forecast(row)
            utility = self.preference.utility(mean, cost_usd, latency_s, cost_unit_usd=self.unit_usd)
        return Offer(
            models=self.scene.table.models,
            mean=mean,
            std=std,
            cost_usd=cost_usd,
            worst_usd=cost_usd,
            latency_s=latency_s,
            utility=utility,
        )

    def learn(self, row: int, k: int, quality: float) -> None:
        """As `Player.learn`; cost, tokens and latency of the chosen model are seen too."""
        self.beliefs.learn(self.names[k], _observation(self.scene.features[row], quality))
        if self.beliefs.stale >= max(FIRST_FIT, GROWTH * self._n):
            self._n += self.beliefs.stale
            self.beliefs.adopt(self.beliefs.fit())
        if self.costs is not None:
            spent_usd = self.costs.learn(row, k)
            if self.pacer is not None:
                self.pacer.spend(spent_usd)


class Costs:
    """The router's `Predictions` of what each row would cost, kept ready for all models.

    A prediction is linear in the tokens guessed of the prompt, so two numbers a model say it for every
    row. They are read anew whenever the calls of the model have grown by 5 %.
    """

    def __init__(self, scene: Scene) -> None:
        self.table, self.guessed = scene.table, scene.guessed_tokens
        known = scene.warmth
        self.predictions = Predictions() if known is None else Predictions.from_bytes(known.predictions)
        self._fixed, self._slope, self._latency = np.zeros((3, len(scene.table.models)))
        self._calls, self._due = np.zeros((2, len(scene.table.models)))
        self._refresh(slice(None))

    def forecast(self, row: int) -> tuple[Array, Array]:
        """Return the predicted cost [USD] and latency [s] of each model, of shape (K,)."""
        return self._fixed + self._slope * self.guessed[row], self._latency

    def learn(self, row: int, k: int) -> float:
        """See what the call of the `k`-th model cost, and return it [USD]."""
        amounts = contribution(_outcome(self.table, row, k), float(self.guessed[row]))
        self.predictions.add(self.table.models[k].name, amounts, at=0.0)
        self._calls[k] += 1
        if self._calls[k] >= self._due[k]:
            self._due[k] = self._calls[k] * 1.05
            # While some were never called, they are thought to be like the others.
            self._refresh(slice(k, k + 1) if self._calls.all() else slice(None))
        return float(self.table.cost_usd[row, k])

    def _refresh(self, which: slice) -> None:
        models = list(self.table.models[which])
        none, some = (self.predictions.forecast(models, prompt) for prompt in (_NONE, _SOME))
        self._slope[which] = (some.cost_usd - none.cost_usd) / (_SOME.input_tokens - _NONE.input_tokens)
        self._fixed[which] = none.cost_usd - self._slope[which] * _NONE.input_tokens
        self._latency[which] = none.latency_s


_NONE, _SOME = Prompt(text=""), Prompt(text="", other_chars=4000)


def _observation(x: Array, quality: float) -> Observation:
    return Observation(
        x=x, at=0.0, weight=1.0, weighted_reward=quality, weighted_square=quality * quality
    )


def _outcome(table: Table, row: int, k: int) -> Outcome:
    return Outcome(
        cost_usd=float(table.cost_usd[row, k]) if table.has_cost else None,
        input_tokens=_count(table.input_tokens, row, k),
        output_tokens=_count(table.output_tokens, row, k),
        latency_s=None if table.latency_s is None else _known(float(table.latency_s[row, k])),
    )


def _count(counts: Array | None, row: int, k: int) -> int | None:
    known = None if counts is None else _known(float(counts[row, k]))
    return None if known is None else round(known)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
