"""Whether intervals cover the truth as often as they claim: many logs drawn from a full-information table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from bandit_router.features import HashedFeatures
from bandit_router.policies import InverseGapWeighting, ThompsonSampling
from bandit_router.posterior import Beliefs
from bandit_router.prompt import Prompt
from bandit_router.values import Array
from simulations import estimators as est
from simulations.estimators import Estimate
from simulations.offpolicy.batches import choose_many
from simulations.offpolicy.crossfit import cross_fitted, foretold_before
from simulations.offpolicy.diagnosis import calibration
from simulations.offpolicy.draws import Draws
from simulations.tables import Table

MODELS = 5  # at most: the first, every so many-th
TAUGHT = 200  # rows from which both policies know something
FLOOR = 0.1  # of the policy that logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """How one estimator did over many logs.

    Attributes
    ----------
    logs, covered : int
        Logs, and those whose interval holds the truth.
    bias, rmse, width : float
        Mean error, root of the mean squared error, mean width of the interval.
    """

    logs: int = 0
    covered: int = 0
    bias: float = 0.0
    rmse: float = 0.0
    width: float = 0.0

    @property
    def honest(self) -> bool:
        """Whether as few may cover by chance where 95 % should (one in a thousand is a no)."""
        return bool(stats.binom.cdf(self.covered, self.logs, 0.95) > 1e-3)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenery:
    """A table, a policy that logs and one in question, with the truth about it.

    Attributes
    ----------
    x : ndarray of shape (n, dim)
    quality, logging, target : ndarray of shape (n, K)
    """

    models: tuple[str, ...]
    x: Array
    quality: Array
    mean: Array
    std: Array
    logging: Array
    target: Array
    truth: float = field(default=0.0)


def scenery_of(table: Table, *, seed: int = 0, dim: int = 24) -> Scenery:
    """Return a setting from a table: both policies go by what some of its rows teach.

    SquareCB logs, with a tenth of exploration; the policy in question is Thompson sampling.
    """
    names = table.names[:: max(1, len(table.names) // MODELS)][:MODELS]
    quality = table.with_pool(names).quality
    x = features_of(table, dim)
    taught = np.random.default_rng(seed).choice(len(x), size=min(TAUGHT, len(x)), replace=False)
    beliefs = Beliefs(names, x.shape[1])
    for k, name in enumerate(names):
        ones = np.ones(len(taught))
        beliefs.evidence[name].add_many(x[taught], ones, quality[taught, k], 0.0 * ones)
    beliefs.adopt(beliefs.fit())
    mean, std = (np.array(part) for part in zip(*map(beliefs.predict, x), strict=True))
    there = np.ones(mean.shape, dtype=np.bool_)
    target = choose_many(ThompsonSampling(), mean, std, there, floor=0.01)
    return Scenery(
        models=tuple(names),
        x=x,
        quality=quality,
        mean=mean,
        std=std,
        logging=choose_many(InverseGapWeighting(gamma=20.0), mean, std, there, floor=FLOOR),
        target=target,
        truth=float((target * quality).sum(axis=1).mean()),
    )


def rarest_of(scene: Scenery) -> Scenery:
    """Return the same with a harder question: the model that the log draws least, for all requests."""
    k = int(scene.logging.mean(axis=0).argmin())
    target = np.zeros(scene.target.shape)
    target[:, k] = 1.0
    return replace(scene, target=target, truth=float(scene.quality[:, k].mean()))


def features_of(table: Table, dim: int) -> Array:
    """Hashed features, turned into few: the check is of intervals, and a hundred fits are made for each log."""
    x = HashedFeatures().extract_many([Prompt.of(text) for text in table.prompts])
    turn = np.random.default_rng(0).normal(size=(x.shape[1] - 1, dim - 1)) / np.sqrt(dim - 1)
    return np.hstack([x[:, :1], x[:, 1:] @ turn])


def draw_log(scene: Scenery, n: int, rng: np.random.Generator) -> tuple[Draws, Array]:
    """Return n draws of the policy that logs, on rows drawn from the table, and the policy in question's p."""
    rows = rng.integers(len(scene.x), size=n)
    p = scene.logging[rows]
    chosen = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=p.shape[1] - 1)
    at = np.arange(n)
    draws = Draws(
        models=scene.models,
        x=scene.x[rows],
        at=at.astype(np.float64),
        chosen=chosen,
        logged=p[at, chosen],
        probabilities=p,
        mean=scene.mean[rows],
        std=scene.std[rows],
        reward=scene.quality[rows, chosen],
        paid_usd=np.full(n, np.nan),
        cluster=at,
        turns=n,
        left_out={},
    )
    return draws, scene.target[rows]


def estimates_of(draws: Draws, target: Array) -> dict[str, Estimate]:
    """Return all estimates of a policy whose probabilities are `target`, of shape (n, K)."""
    w = draws.of_chosen(target), draws.logged, draws.reward
    s, before = (
        (*w, draws.of_chosen(foretold), (target * foretold).sum(axis=1))
        for foretold in (cross_fitted(draws), foretold_before(draws))
    )
    most = float((target / draws.probabilities).max())
    return {
        "ips": est.ips(*w),
        "snips": est.snips(*w),
        "dr": est.dr(*s),
        "sndr": est.sndr(*s),
        "replay": est.replay(*w),
        "ips (bootstrap)": est.ips(*w, interval="bootstrap"),
        "ips (bernstein)": est.ips(*w, interval="bernstein", most=most),
        "dr (bernstein)": est.dr(*s, interval="bernstein", most=most),
        "ips (sequence)": est.ips(*w, interval="sequence"),
        "dr (sequence)": est.dr(*before, interval="sequence", most=most),
        "dm": est.direct(s[-1]),
        "clipped-ips 3": est.clipped_ips(*w, clip=3.0),
        "switch-dr 3": est.switch_dr(*s, tau=3.0),
        "dros 10": est.dros(*s, shrink=10.0),
    }


def cover(
    scene: Scenery,
    *,
    logs: int = 200,
    n: int = 1_000,
    seed: int = 0,
    estimate: Callable[[Draws, Array], dict[str, Estimate]] = estimates_of,
) -> dict[str, Covered]:
    """Return how often each interval covers the truth, over many logs of n draws each."""
    rng = np.random.default_rng(seed)
    told = [estimate(*draw_log(scene, n, rng)) for _ in range(logs)]
    return {name: _covered([found[name] for found in told], scene.truth) for name in told[0]}


def doubted(scene: Scenery, *, logs: int = 200, n: int = 1_000, seed: int = 0) -> dict[str, int]:
    """Return in how many logs the probabilities are called wrong: as they are, and where a log lies.

    It lies by exchanging those of the models that are drawn most and least, and by writing 1/K for all.
    """
    rng, k = np.random.default_rng(seed), len(scene.models)
    order, share = np.arange(k), scene.logging.mean(axis=0)
    order[[share.argmax(), share.argmin()]] = share.argmin(), share.argmax()
    counts = dict.fromkeys(("as they are", "two models exchanged", "1/K for all"), 0)
    for _ in range(logs):
        draws, _ = draw_log(scene, n, rng)
        lies = draws.probabilities, draws.probabilities[:, order], np.full((n, k), 1 / k)
        for name, p in zip(counts, lies, strict=True):
            written = replace(draws, probabilities=p, logged=draws.of_chosen(p))
            counts[name] += not calibration(written).sound
    return counts


def _covered(told: list[Estimate], truth: float) -> Covered:
    error = np.array([found.value - truth for found in told])
    return Covered(
        logs=len(told),
        covered=sum(found.low <= truth <= found.high for found in told),
        bias=float(error.mean()),
        rmse=float(np.sqrt((error**2).mean())),
        width=float(np.mean([found.high - found.low for found in told])),
    )
