"""The whole loop on the small world: users ask, the router chooses, some of them say what they think."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bandit_router.events import Outcome
from bandit_router.log import EventLog
from bandit_router.policies import Policy
from bandit_router.router import Router
from bandit_router.values import Array
from simulations.estimators import Estimate, ips
from simulations.rounds import read
from simulations.worlds import World

if TYPE_CHECKING:
    from simulations.remote import Remote

_BATCH = 8  # users who are served at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one request came to; `quality` is what the world knows and the router never sees."""

    model: str
    kind: str
    quality: float
    cost_usd: float
    thumb: bool | None
    judged: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """What one way of choosing comes to for some requests, on average.

    Attributes
    ----------
    quality : float
        As the world expects it.
    cost_usd : float
        Per request [USD].
    reward : float
        Quality less what the dollars are worth.
    """

    name: str
    quality: float
    cost_usd: float
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Played:
    """Everything that was played so far, beside what simpler ways would have come to.

    Attributes
    ----------
    turns : list of Turn
    expected : ndarray of shape (n, K)
        Quality of every model for every request, as the world knows it.
    cost_usd : ndarray of shape (n, K)
        What every model costs for such requests on average [USD].
    price : float
        Reward that a dollar is worth [1/USD].
    """

    models: tuple[str, ...]
    turns: list[Turn]
    expected: Array
    cost_usd: Array
    price: float

    def last(self, n: int) -> Played:
        """Return the last n requests alone."""
        return replace(
            self, turns=self.turns[-n:], expected=self.expected[-n:], cost_usd=self.cost_usd[-n:]
        )

    def first(self, n: int) -> Played:
        """Return the first n requests alone."""
        return replace(
            self, turns=self.turns[:n], expected=self.expected[:n], cost_usd=self.cost_usd[:n]
        )

    def share(self, model: str) -> float:
        """Return the share of requests that a model served."""
        return sum(turn.model == model for turn in self.turns) / len(self.turns)

    def router(self) -> Way:
        """Return what the router came to; its dollars are those that were paid."""
        place = [self.models.index(turn.model) for turn in self.turns]
        quality = float(self.expected[np.arange(len(place)), place].mean())
        return self._way("the router", quality, float(np.mean([turn.cost_usd for turn in self.turns])))

    def uniform(self) -> Way:
        """Return what choosing any model alike comes to."""
        return self._way("uniform", float(self.expected.mean()), float(self.cost_usd.mean()))

    def best_fixed(self) -> Way:
        """Return what the one model comes to that is best for all of them, in hindsight."""
        reward = (self.expected - self.price * self.cost_usd).mean(axis=0)
        best = int(reward.argmax())
        quality, cost = self.expected[:, best].mean(), self.cost_usd[:, best].mean()
        return self._way(f"always {self.models[best]}", float(quality), float(cost))

    def informed(self) -> Way:
        """Return what knowing the best model of every kind of prompt comes to."""
        best = (self.expected - self.price * self.cost_usd).argmax(axis=1)
        rows = np.arange(len(best))
        quality, cost = self.expected[rows, best].mean(), self.cost_usd[rows, best].mean()
        return self._way("knowing every kind's best", float(quality), float(cost))

    def _way(self, name: str, quality: float, cost_usd: float) -> Way:
        return Way(name=name, quality=quality, cost_usd=cost_usd, reward=quality - self.price * cost_usd)


class Demo:
    """Plays users through a router.

    Parameters
    ----------
    router : Router or Remote
        With the world's models.
    world : World
    seed : int
        Of users, prompts and answers.
    """

    def __init__(self, router: Router | Remote, world: World, *, seed: int = 0) -> None:
        self.router, self.world = router, world
        self._rng = np.random.default_rng(seed)
        self._costs = self._mean_costs(np.random.default_rng([seed, 1]))

    def _mean_costs(self, rng: np.random.Generator) -> Array:
        """What each model costs for each kind of prompt, of shape (kinds, K) [USD]."""
        sums = np.zeros((len(self.world.kinds), len(self.world.models)))
        counts = np.zeros(len(self.world.kinds))
        for _ in range(600):
            request = self.world.request(rng)
            row = self.world.kinds.index(request.kind)
            counts[row] += 1
            sums[row] += [self.world.serve(request, name, rng).cost_usd for name in self.world.names]
        return sums / np.maximum(counts, 1)[:, None]

    def play(self, requests: int, watch: Callable[[Played], None] = lambda _: None) -> Played:
        """Play so many requests, a few users at a time; `watch` sees how it goes."""
        turns: list[Turn] = []
        with ThreadPoolExecutor(_BATCH, thread_name_prefix="user") as users:
            while len(turns) < requests:
                size = min(_BATCH, requests - len(turns))
                turns += users.map(self._turn, self._rng.spawn(size))
                watch(self._so_far(turns))
        return self._so_far(turns)

    def _turn(self, rng: np.random.Generator) -> Turn:
        request = self.world.request(rng)
        decision = self.router.choose(request.prompt, user=request.user)
        served = self.world.serve(request, decision.model, rng)
        outcome = Outcome(
            input_tokens=served.input_tokens,
            output_tokens=served.output_tokens,
            latency_s=served.latency_s,
        )
        self.router.report(decision.id, outcome, answer=served.answer)
        thumb, judged = self.world.thumb(served, rng), self.world.judge(served, rng)
        if thumb is not None:
            self.router.feedback(decision.id, "thumb", thumb, source=request.user)
        if judged is not None:
            self.router.feedback(decision.id, "judge", judged, source="judge:stand-in")
        return Turn(
            model=decision.model,
            kind=request.kind,
            quality=served.quality,
            cost_usd=served.cost_usd,
            thumb=thumb,
            judged=judged,
        )

    def _so_far(self, turns: list[Turn]) -> Played:
        kinds = [self.world.kinds.index(turn.kind) for turn in turns]
        settings = self.router.settings
        unit = settings.cost_unit_usd
        return Played(
            models=self.world.names,
            turns=turns,
            expected=self.world.quality[kinds],
            cost_usd=self._costs[kinds],
            price=settings.preference.price_weight / unit if unit else 0.0,
        )


def off_policy_value(
    url: str, router: str, policy: Policy, *, floor: float
) -> tuple[Estimate, Estimate]:
    """Return what a policy, and the log's own, would have earned by the log's feedback (IPS).

    Parameters
    ----------
    url : str
        Of the log.
    router : str
    policy : Policy
        Judges by what was believed at each decision.
    floor : float
        Share of exploration that the policy keeps too.
    """
    with EventLog.open(url) as log:
        rounds = read(log, router)
    rows = np.flatnonzero(rounds.drawn & ~np.isnan(rounds.reward))
    chosen, reward = rounds.chosen[rows], rounds.reward[rows]
    target = rounds.under(policy, floor=floor)[rows, chosen]
    logged = rounds.probabilities[rows, chosen]
    return ips(target, logged, reward), ips(logged, logged, reward)
