"""A learner that notices when a model has changed."""

from __future__ import annotations

from bandit_router.drift import KEEP, SETTLED, Surprises, fading, surprise
from bandit_router.evidence import Evidence, Observation
from bandit_router.policies import Policy
from bandit_router.values import Array
from simulations.replay import Bandit, Scene, observation

EVERY = 25  # rounds after which what is known of unsettled models fades


class Drifting(Bandit):
    """The router's own core, and drift events: what they multiply is the evidence of one model.

    Parameters
    ----------
    policy : Policy
    scene : Scene

    Attributes
    ----------
    events : list of (int, str, float)
        The changes that were noticed: after how many choices, of which model, what its earlier evidence
        was multiplied by.
    """

    def __init__(self, policy: Policy, scene: Scene) -> None:
        super().__init__(policy, scene)
        self.events: list[tuple[int, str, float]] = []
        self.surprises = [Surprises() for _ in self.names]
        self.heard: list[list[Observation]] = [[] for _ in self.names]
        self.unsettled: dict[int, int] = {}  # rewards since the change
        self._choices = 0

    def choose(self, row: int) -> Array:
        """As `Player.choose`."""
        self._choices += 1
        if self.unsettled and self._choices % EVERY == 0:
            for k in self.unsettled:
                self.beliefs.evidence[self.names[k]].scale(fading(EVERY))
            self.beliefs.adopt(self.beliefs.fit())
        return super().choose(row)

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        """As `Player.learn`; a change is looked for in how surprising this is."""
        x = self.scene.features[row]
        mean, std = self.beliefs.predict(x)
        z = surprise(
            quality, float(mean[k]), float(std[k]), noise=self.beliefs.prior.noise, weight=weight
        )
        super().learn(row, k, quality, weight=weight)
        self.heard[k].append(observation(x, quality, weight))
        if k in self.unsettled:
            self.unsettled[k] += 1
            if self.unsettled[k] >= SETTLED:
                del self.unsettled[k]
        since = self.surprises[k].add(z)
        if since:
            self._shorten(k, since)

    def _shorten(self, k: int, since: int) -> None:
        """Let what was learnt before the latest `since` rewards count less."""
        name = self.names[k]
        evidence, recent = self.beliefs.evidence[name], Evidence(self.beliefs.dim)
        for said in self.heard[k][-since:]:
            recent.add(said)
        evidence.merge(recent, sign=-1.0)
        evidence.scale(KEEP)
        evidence.merge(recent)
        self.heard[k] = self.heard[k][-since:]
        self.unsettled[k] = 0
        self.events.append((self._choices, name, KEEP))
        self.beliefs.adopt(self.beliefs.fit())
