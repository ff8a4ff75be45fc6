"""A small world of the project's own: users with prompts, four models, thumbs and a judge.

It is made up, down to the last number, so that demos and tests need no data and no network. What it
has in common with the real one: no model is best at everything, the dear one is often not worth it,
few users ever say anything, those who do are very pleased or displeased, and judges are noisy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit_router.events import Model
from bandit_router.values import Array
from simulations.prompts import write_prompt
from simulations.tables import Table

KINDS = ("chat", "code", "maths", "translation", "summary", "facts", "writing")
KIND_SHARES = (0.22, 0.20, 0.14, 0.12, 0.12, 0.12, 0.08)
KIND_TOKENS = (90, 320, 210, 110, 130, 60, 340)  # of a middling answer
MODELS = (
    Model("small-fast", input_usd_per_mtok=0.10, output_usd_per_mtok=0.40, context_tokens=32_000),
    Model("medium-coder", input_usd_per_mtok=0.30, output_usd_per_mtok=0.90, context_tokens=64_000),
    Model("medium-polyglot", input_usd_per_mtok=0.50, output_usd_per_mtok=1.50, context_tokens=64_000),
    Model("large-strong", input_usd_per_mtok=3.00, output_usd_per_mtok=15.0, context_tokens=200_000),
)
QUALITY = (  # expected, a row per kind, a column per model
    (0.81, 0.58, 0.73, 0.70),
    (0.34, 0.86, 0.42, 0.70),
    (0.30, 0.72, 0.40, 0.80),
    (0.60, 0.38, 0.86, 0.70),
    (0.79, 0.55, 0.77, 0.68),
    (0.56, 0.48, 0.68, 0.82),
    (0.62, 0.45, 0.80, 0.70),
)
VERBOSITY = (0.7, 0.9, 1.0, 1.5)  # answer lengths, relative
TOKENS_PER_SECOND = (180.0, 110.0, 90.0, 45.0)
FIRST_TOKEN_S = (0.15, 0.25, 0.30, 0.60)
CONCENTRATION = 6.0  # of one answer's quality around what is expected: Beta
LENGTH_SPREAD = 0.35  # of the log of an answer's length
LATENCY_SPREAD = 0.20  # of the log of a latency
USERS = 200
TALKATIVE = 0.4  # the share of users who give thumbs at all
JUDGED = 0.2  # the share of answers that the judge sees
JUDGE_SPREAD = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldRequest:
    """What a user asks."""

    prompt: str
    kind: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What came of it, `quality` included, which nobody in the world sees.

    Attributes
    ----------
    quality : float
        In [0, 1].
    input_tokens, output_tokens : int
    latency_s : float
        [s]
    cost_usd : float
        [USD]
    answer : str
        A line that stands for the answer.
    model, user : str
        Who answered whom.
    """

    quality: float
    input_tokens: int
    output_tokens: int
    latency_s: float
    cost_usd: float
    answer: str
    model: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """Users, kinds of prompts, and models that differ by kind.

    All randomness comes from the generators that its methods are given.

    Attributes
    ----------
    kinds : tuple of str
        What users ask for.
    models : tuple of Model
        From the cheapest to the dearest.
    shares : ndarray of shape (kinds,)
        How often each kind is asked.
    quality : ndarray of shape (kinds, K)
        Expected, in [0, 1].
    habit : ndarray of shape (users,)
        How likely a user says so when an answer could not be better; 0 for most.

    Examples
    --------
    >>> world, rng = small_world(0), np.random.default_rng(1)
    >>> request = world.request(rng)
    >>> request.kind, request.user
    ('maths', 'user:151')
    >>> served = world.serve(request, "large-strong", rng)
    >>> served.output_tokens, round(served.cost_usd, 5)
    (432, 0.00656)
    """

    kinds: tuple[str, ...]
    models: tuple[Model, ...]
    shares: Array
    quality: Array
    habit: Array

    def __post_init__(self) -> None:
        for name in ("shares", "quality", "habit"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(model.name for model in self.models)

    def request(self, rng: np.random.Generator) -> WorldRequest:
        """Return what the next user asks."""
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        user = f"user:{rng.integers(len(self.habit))}"
        return WorldRequest(prompt=write_prompt(kind, rng), kind=kind, user=user)

    def serve(self, request: WorldRequest, model_name: str, rng: np.random.Generator) -> Served:
        """Return what that model makes of the request.

        Raises
        ------
        ValueError
            No such model in this world.
        """
        if model_name not in self.names:
            raise ValueError(f"model: expected one of {self.names}, got {model_name!r}")
        at, kind = self.names.index(model_name), self.kinds.index(request.kind)
        mean = self.quality[kind, at]
        inputs = 8 + len(request.prompt) // 4
        outputs = max(1, round(KIND_TOKENS[kind] * VERBOSITY[at] * rng.lognormal(0.0, LENGTH_SPREAD)))
        latency = FIRST_TOKEN_S[at] + outputs / TOKENS_PER_SECOND[at]
        return Served(
            quality=float(rng.beta(CONCENTRATION * mean, CONCENTRATION * (1 - mean))),
            input_tokens=inputs,
            output_tokens=outputs,
            latency_s=float(latency * rng.lognormal(0.0, LATENCY_SPREAD)),
            cost_usd=self.models[at].cost_usd(inputs, outputs),
            answer=f"[{model_name} answers a {request.kind} request in {outputs} tokens]",
            model=model_name,
            user=request.user,
        )

    def thumb(self, served: Served, rng: np.random.Generator) -> bool | None:
        """Return the user's thumb, or None as most often: only the very pleased or displeased talk."""
        pleased = np.clip((served.quality - 0.6) / 0.4, 0.0, 1.0)
        displeased = np.clip((0.5 - served.quality) / 0.5, 0.0, 1.0)
        habit = self.habit[int(served.user.removeprefix("user:"))]
        if rng.random() >= habit * max(pleased, displeased):
            return None
        return bool(pleased > displeased)

    def judge(self, served: Served, rng: np.random.Generator) -> float | None:
        """Return a judge's score in [0, 1] for a sampled share of answers, else None."""
        if rng.random() >= JUDGED:
            return None
        return float(np.clip(served.quality + rng.normal(0.0, JUDGE_SPREAD), 0.0, 1.0))

    def table(self, n: int, seed: int) -> Table:
        """Return what every model makes of n requests; `tasks` are the kinds."""
        rng = np.random.default_rng(seed)
        requests = [self.request(rng) for _ in range(n)]
        served = [[self.serve(request, name, rng) for name in self.names] for request in requests]
        return Table(
            name="small-world",
            prompt_ids=tuple(f"{seed}-{i}" for i in range(n)),
            prompts=tuple(request.prompt for request in requests),
            tasks=tuple(request.kind for request in requests),
            models=self.models,
            quality=np.array([[each.quality for each in row] for row in served]),
            cost_usd=np.array([[each.cost_usd for each in row] for row in served]),
            latency_s=np.array([[each.latency_s for each in row] for row in served]),
            input_tokens=np.array([[each.input_tokens for each in row] for row in served]),
            output_tokens=np.array([[each.output_tokens for each in row] for row in served]),
        )


def small_world(seed: int = 0) -> World:
    """Return the small world; the seed says which users give thumbs.

    The best fixed model, the dear one, is worth about 0.72; knowing the kind of a prompt about 0.82,
    at a quarter of the cost.
    """
    rng = np.random.default_rng(seed)
    talks = rng.random(USERS) < TALKATIVE
    return World(
        kinds=KINDS,
        models=MODELS,
        shares=np.array(KIND_SHARES),
        quality=np.array(QUALITY),
        habit=talks * rng.uniform(0.2, 0.9, USERS),
    )
