"""Let a policy live through a full-information table, seeing only what it chose.

One loop for all: a `Player` says how likely it would choose each model for a row, one model is drawn,
and the player is told what that model's answer was worth. `Bandit` is the router's own core: beliefs,
predictions, preference, pace, policy, floor. The baselines are players too.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bandit_router.choosing import Offer, good_enough, weigh, within_trials
from bandit_router.evidence import Evidence, Observation
from bandit_router.newcomers import Newcomers
from bandit_router.pacing import Pacer
from bandit_router.policies import DEFAULT_FLOOR, Policy, draw
from bandit_router.posterior import Beliefs
from bandit_router.predictions import Predictions, contribution
from bandit_router.preference import Preference
from bandit_router.prompt import Prompt
from bandit_router.values import Array
from simulations.costs import Costs, outcome
from simulations.priors import evidence_of_answers
from simulations.streams import Mask, Stream
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
        predictions = Predictions()
        for row, x in enumerate(features):
            guessed = Prompt.of(prior.prompts[row]).input_tokens
            for k, model in enumerate(prior.models):
                amounts = contribution(outcome(prior, row, k), guessed)
                predictions.add(model.name, amounts, at=0.0, x=x)
        evidence = evidence_of_answers(prior, features)
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
    max_quality_drop : float, optional
        Below the predicted quality of the best model, that any model may promise.
    warmth : Warmth, optional
        What is known before round one.
    stream : Stream, optional
        Where the world changes; `table` is the stream's then, a row a round.
    """

    table: Table
    order: Rows
    features: Array
    guessed_tokens: Array
    price_weight: float = 0.0
    budget_usd: float | None = None
    floor: float = DEFAULT_FLOOR
    max_quality_drop: float | None = None
    warmth: Warmth | None = None
    stream: Stream | None = None

    def on(self, stream: Stream) -> Scene:
        """Return the scene of a stream of rows of this one's table."""
        return replace(
            self,
            table=stream.table,
            order=np.arange(len(stream.rows)),
            features=self.features[stream.rows],
            guessed_tokens=self.guessed_tokens[stream.rows],
            stream=stream,
        )

    @property
    def available(self) -> Mask:
        """Which models can be asked, of shape (n, K)."""
        if self.stream is None:
            return np.broadcast_to(np.True_, self.table.quality.shape)
        return self.stream.available

    @property
    def parts(self) -> list[Rows]:
        """The rows that are lived through, cut where the world changes."""
        if self.stream is None:
            return [self.order]
        return [self.order[phase.rounds] for phase in self.stream.phases]

    @property
    def reward(self) -> Array:
        """``quality - price_weight * cost / cost unit`` of all rows of the table, of shape (n, K)."""
        return self.table.reward(self.price_weight)

    @property
    def charge(self) -> Array:
        """What each answer costs, in reward, of shape (n, K)."""
        return self.table.quality - self.reward

    def means(self, rows: Rows) -> tuple[Array, Array]:
        """Return each model's mean reward and mean cost [USD] over some rows, of shape (K,).

        Of a model that cannot be asked in all of them: -inf and infinity.
        """
        there = self.available[rows].all(axis=0)
        reward, cost = self.reward[rows].mean(axis=0), self.table.cost_usd[rows].mean(axis=0)
        return np.where(there, reward, -np.inf), np.where(there, cost, np.inf)


class Player(Protocol):
    """Whoever chooses a model for every row, and may learn from what came of it."""

    def choose(self, row: int) -> Array:
        """Return how likely each model is chosen for a row of the table, of shape (K,)."""
        ...

    def report(self, row: int, k: int) -> None:
        """See what the answer of the `k`-th model to that row cost, and how long it took."""
        ...

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """Be told that the answer of the `k`-th model to that row had this quality, and how much it counts."""
        ...


@runtime_checkable
class Foreteller(Player, Protocol):
    """A player that says what it expects of each model."""

    def promise(self, row: int) -> Array:
        """Return the reward that each model's answer to a row is expected to have, of shape (K,)."""
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
        player.report(row, k)
        player.learn(row, k, float(told[row, k]))
        chosen[t] = k
    return chosen


def play_stream(player: Player, stream: Stream, draws: Array) -> Rows:
    """Live through a stream, and return the models chosen, of shape (n,).

    What an answer cost is seen at once; what it was worth when feedback comes, if it does.
    """
    chosen = np.empty(len(draws), dtype=np.intp)
    coming: dict[int, list[int]] = defaultdict(list)
    for t, u in enumerate(draws.tolist()):
        for row in coming.pop(t, ()):
            _hear(player, stream, row, int(chosen[row]))
        chosen[t] = k = draw(player.choose(t), u)
        player.report(t, k)
        if stream.delay[t] == 0:
            _hear(player, stream, t, k)
        else:
            coming[t + int(stream.delay[t])].append(t)
    return chosen


def _hear(player: Player, stream: Stream, row: int, k: int) -> None:
    weight = float(stream.weight[row, k])
    if weight > 0.0:
        player.learn(row, k, float(stream.told[row, k]), weight=weight)


class Mind:
    """The router's beliefs, which fit themselves again as their evidence grows.

    Attributes
    ----------
    beliefs : Beliefs
    """

    def __init__(self, beliefs: Beliefs) -> None:
        self.beliefs = beliefs
        self._n = 0

    def learn(self, model: str, seen: Observation) -> None:
        """Take in one contribution, and fit where a tenth was added since the last fit."""
        self.beliefs.learn(model, seen)
        if self.beliefs.stale >= max(FIRST_FIT, GROWTH * self._n):
            self._n += self.beliefs.stale
            self.beliefs.adopt(self.beliefs.fit())


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
        self.mind = Mind(Beliefs(self.names, scene.features.shape[1], known=known))
        self.beliefs = self.mind.beliefs
        self.preference = Preference(
            price_weight=scene.price_weight, max_quality_drop=scene.max_quality_drop
        )
        self.unit_usd = scene.table.cost_unit_usd
        budget = scene.budget_usd
        self.pacer = None if budget is None else Pacer(budget, len(self.names))
        self.newcomers = Newcomers()
        self.costs = _costs(scene) if scene.price_weight or budget else None
        self._price = np.ones(len(self.names))
        self._free = self._predicted_usd = np.zeros(len(self.names))

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        offer = self._offer(row)
        there = self.scene.available[row]
        if self.pacer is not None:
            self._reprice(row, self.pacer, offer.cost_usd)
            there = within_trials(
                offer, there, self.newcomers, self.beliefs.rewards, budget_usd=self.pacer.budget_usd
            )
        there = good_enough(offer, there, self.preference, self.pacer)
        self._predicted_usd = offer.cost_usd
        if self.pacer is not None:
            self.pacer.record(self.policy, offer.worth(there), offer.std, offer.cost_usd)
        p = np.zeros(len(there))
        p[there] = weigh(self.policy, offer.only(there), floor=self.scene.floor, pacer=self.pacer)
        return p

    def _reprice(self, row: int, pacer: Pacer, now_usd: Array) -> None:
        """Tell the pacer when prices are others than they were, as a router is told."""
        if self.scene.stream is None:
            return
        price = self.scene.stream.price[row]
        if (price != self._price).any():
            pacer.reprice(now_usd * self._price / price, now_usd)
            self._price = price

    def _offer(self, row: int) -> Offer:
        mean, std = self.beliefs.predict(self.scene.features[row])
        utility, cost_usd, latency_s = mean, self._free, self._free
        if self.costs is not None:
            cost_usd, latency_s = self.costs.forecast(row)
            if self.scene.stream is not None:
                cost_usd = cost_usd * self.scene.stream.price[row]
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

    def promise(self, row: int) -> Array:
        """As `Foreteller.promise`: the mean of the beliefs."""
        mean, _ = self.beliefs.predict(self.scene.features[row])
        return mean

    def report(self, row: int, k: int) -> None:
        """As `Player.report`."""
        if self.costs is None:
            return
        self.costs.learn(row, k)
        if self.pacer is not None:
            predicted_usd = float(self._predicted_usd[k])
            self.pacer.spend(predicted_usd)
            cost_usd = float(self.scene.table.cost_usd[row, k])
            self.pacer.settle(predicted_usd, cost_usd)
            self.newcomers.charge(self.names[k], predicted_usd)
            self.newcomers.settle(self.names[k], predicted_usd, cost_usd)

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """As `Player.learn`."""
        self.mind.learn(self.names[k], observation(self.scene.features[row], quality, weight))


def _costs(scene: Scene) -> Costs:
    """What calls cost at list prices: price changes are known, and not for predictions to find out."""
    table = scene.table if scene.stream is None else scene.stream.listed
    known = None if scene.warmth is None else scene.warmth.predictions
    return Costs(table, scene.features, scene.guessed_tokens, known=known)


def observation(x: Array, quality: float, weight: float = 1.0) -> Observation:
    """Return what a quality with some weight adds to the sums, without the checks of `Observation.of`."""
    return Observation(
        x=x,
        at=0.0,
        weight=weight,
        weighted_reward=weight * quality,
        weighted_square=weight * quality * quality,
    )
