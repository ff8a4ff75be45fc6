"""Our defaults, peers and baselines through the same orders, and how far each is from our defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bandit_router.errors import PeerError
from bandit_router.features import FeatureExtractor, HashedFeatures
from bandit_router.prompt import Prompt
from bandit_router.values import Array
from simulations.compare.dialogue import Dialogue
from simulations.metrics import mean_interval, paired_interval
from simulations.replay import Player, Scene
from simulations.runs import Run
from simulations.simulate import simulate
from simulations.tables import Table

Interval = tuple[float, float, float]

OURS = "thompson"
BASELINES = ("best-fixed", "uniform", "knn:k=50", "ridge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A peer that may be started, and the settings that it is to be tried at.

    Attributes
    ----------
    name : str
    command : tuple of str
        That starts it.
    settings : tuple of str
    """

    name: str
    command: tuple[str, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What one policy's life through one order came to.

    Attributes
    ----------
    policy : str
        A SPEC, or ``peer:setting``.
    seed : int
        Of the order.
    price_weight : float
    n : int
        Rounds.
    reward, last_third, quality, cost_usd : float
        Means over the rounds; the second of the reward over the last third of them.
    """

    policy: str
    seed: int
    price_weight: float
    n: int
    reward: float
    last_third: float
    quality: float
    cost_usd: float

    @classmethod
    def of(cls, run: Run) -> Life:
        """Sum a run up."""
        n = len(run.reward)
        return cls(
            policy=run.policy,
            seed=run.seed,
            price_weight=run.price_weight,
            n=n,
            reward=float(run.reward.mean()),
            last_third=float(run.reward[-math.ceil(n / 3) :].mean()),
            quality=float(run.quality.mean()),
            cost_usd=float(run.cost_usd.mean()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one policy did, and how far it is from our defaults on the same orders.

    Attributes
    ----------
    policy : str
    price_weight : float
    orders : int
        How many, each a pair.
    reward, last_third : tuple of float
        Mean reward of the whole stream and of its last third: mean, low, high (95 %).
    ahead, ahead_last : tuple of float
        The same less what our defaults got, paired by order; negative where it is worse.
    """

    policy: str
    price_weight: float
    orders: int
    reward: Interval
    last_third: Interval
    ahead: Interval
    ahead_last: Interval

    @property
    def verdict(self) -> str:
        """Say "below" or "above" our defaults where the interval of the whole stream leaves out 0."""
        _, low, high = self.ahead
        return "below" if high < 0 else "above" if low > 0 else "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that was found on one table.

    Attributes
    ----------
    table, pool : str
        Their names.
    lives : tuple of Life
        The first policy is what the others are compared with.
    versions : dict of str to str
        Of the peers, as they say them.
    missing : dict of str to str
        ``peer:setting`` that cannot be compared, and why.
    """

    table: str
    pool: str | None
    lives: tuple[Life, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def standings(self) -> list[Standing]:
        """Return one per price weight and policy; orders that not both have are left out."""
        return standings(self.lives)


def compare(
    table: Table,
    contenders: Sequence[Contender],
    *,
    specs: Sequence[str] = (OURS, *BASELINES),
    price_weights: Sequence[float] = (0.0,),
    seeds: int = 10,
    rows: int | None = None,
    known: Comparison | None = None,
) -> Iterator[Comparison]:
    """Let our policies, baselines and peers live through the same orders of a table.

    Yields what is known so far: first of ours and the baselines, then after each setting of each peer.
    A peer that fails is named with its reason, and its lives at that setting do not count.

    Parameters
    ----------
    table : Table
    contenders : sequence of Contender
    specs : sequence of str
        Policies of `simulate`; the first is what all are compared with.
    price_weights, seeds, rows
        As `simulate`; a table without costs knows the price weight 0 only.
    known : Comparison, optional
        Of the same table and rows: the peers' lives in it are taken over, not lived again; also those of
        peers, price weights and orders that are not asked for now.
    """
    weights = tuple(price_weights) if table.has_cost else (0.0,)
    features = _Once()
    runs = simulate(table, specs, seeds=seeds, price_weights=weights, rows=rows, features=features)
    ours = [Life.of(run) for run in runs]
    peers = {} if known is None else _peers(known)
    versions, missing = dict(known.versions) if known else {}, dict[str, str]()

    def so_far() -> Comparison:
        lives = (*ours, *(life for each in peers.values() for life in each))
        return Comparison(
            table=table.name,
            pool=table.pool,
            lives=lives,
            versions=dict(versions),
            missing=dict(missing),
        )

    yield so_far()
    for contender, setting in ((c, setting) for c in contenders for setting in c.settings):
        spec = f"{contender.name}:{setting}"
        old = peers.pop(spec, [])
        try:
            with Dialogue(contender.name, contender.command) as dialogue:
                new = _lived(dialogue, setting, table, weights, seeds, rows, features, old)
                versions[contender.name] = dialogue.version or versions.get(contender.name, "")
            peers[spec] = old + new
        except PeerError as error:
            missing[spec] = str(error)
        yield so_far()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Once(HashedFeatures):
    """The default features, extracted once for all that live through a table."""

    found: list[Array] = field(default_factory=list)

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        if not self.found:
            self.found.append(HashedFeatures.extract_many(self, prompts))
        return self.found[0]


def standings(lives: Sequence[Life]) -> list[Standing]:
    """Return how each policy stands to the first one, per price weight of that one, paired by order."""
    found = []
    for weight in dict.fromkeys(life.price_weight for life in lives if life.policy == lives[0].policy):
        mine = [life for life in lives if life.price_weight == weight]
        ours = _by_seed(mine, lives[0].policy)
        for policy in dict.fromkeys(life.policy for life in mine):
            found.append(_standing(policy, weight, _by_seed(mine, policy), ours))
    return found


def _peers(known: Comparison) -> dict[str, list[Life]]:
    """The lives of peers, by policy."""
    peers: dict[str, list[Life]] = {}
    for life in known.lives:
        if life.policy.partition(":")[0] in known.versions:
            peers.setdefault(life.policy, []).append(life)
    return peers


def _lived(
    dialogue: Dialogue,
    setting: str,
    table: Table,
    weights: Sequence[float],
    seeds: int,
    rows: int | None,
    features: FeatureExtractor,
    old: Sequence[Life],
) -> list[Life]:
    """The lives that are still to be lived."""
    lives = []
    for weight in weights:
        first = sum(life.price_weight == weight for life in old)  # orders are lived from 0 on
        if first >= seeds:
            continue
        runs = simulate(
            table,
            [f"{dialogue.name}:{setting}"],
            seeds=seeds - first,
            first_seed=first,
            price_weights=[weight],
            rows=rows,
            features=features,
            maker=partial(_guest, dialogue, setting),
        )
        lives += [Life.of(run) for run in runs]
    return lives


def _guest(dialogue: Dialogue, setting: str, spec: str, scene: Scene) -> Player:
    return dialogue.player(setting, scene)


def _by_seed(lives: Sequence[Life], policy: str) -> dict[int, Life]:
    return {life.seed: life for life in lives if life.policy == policy}


def _standing(
    policy: str, price_weight: float, theirs: Mapping[int, Life], ours: Mapping[int, Life]
) -> Standing:
    seeds = [seed for seed in ours if seed in theirs]
    reward, last = _means(theirs, seeds)
    our_reward, our_last = _means(ours, seeds)
    return Standing(
        policy=policy,
        price_weight=price_weight,
        orders=len(seeds),
        reward=mean_interval(reward),
        last_third=mean_interval(last),
        ahead=paired_interval(reward, our_reward),
        ahead_last=paired_interval(last, our_last),
    )


def _means(lives: Mapping[int, Life], seeds: Sequence[int]) -> tuple[Array, Array]:
    reward = np.array([lives[seed].reward for seed in seeds])
    return reward, np.array([lives[seed].last_third for seed in seeds])
