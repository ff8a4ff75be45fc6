"""What a log says about policies: draws and SPECs in, one frozen result out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router import policies
from bandit_router.errors import ReplayError
from bandit_router.values import Array
from simulations import estimators as est
from simulations.estimators import Estimate
from simulations.offpolicy.crossfit import cross_fitted, foretold_before
from simulations.offpolicy.diagnosis import Calibration, Reach, calibration, reach
from simulations.offpolicy.draws import Draws, draws_of
from simulations.offpolicy.responses import bounds, response_probabilities
from simulations.offpolicy.targets import Target, probabilities_of, target_from_spec
from simulations.rounds import Rounds

ENOUGH = 30.0  # effective rows below which no value is told
HELD = 0.95  # share of what a policy draws that the log must have been able to draw
SWEEP = (1.0, 3.0, 10.0, 30.0, 100.0)  # of clip and tau; lambda is their square
_ALL = 1e-6  # share that may fall to rounding
_BOOTSTRAP = 10_000  # rows up to which the bootstrap takes less than a second; beyond, it says no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How an estimate moves with its parameter."""

    estimator: str
    parameter: float
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the log says about one policy.

    Attributes
    ----------
    spec : str
    refusal : str, optional
        Why it says nothing.
    estimates : dict of str to Estimate
        By estimator; of intervals of another kind, ``ips (bernstein)``.
    swept : tuple of Swept
    low, high : Estimate, optional
        If every reward that the log cannot know were 0, and if every one were 1 (`bounds`); None where it
        knows all.
    paid_usd : float, optional
        What a request would have cost [USD], self-normalised.
    share : dict of str to float
        How often it would draw each model.
    reach : Reach
    unfit : int
        Draws at which it could draw none of the eligible models.
    """

    spec: str
    reach: Reach
    unfit: int = 0
    refusal: str | None = None
    estimates: dict[str, Estimate] = field(default_factory=dict)
    swept: tuple[Swept, ...] = ()
    low: Estimate | None = None
    high: Estimate | None = None
    paid_usd: float | None = None
    share: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What a log says about some policies.

    Attributes
    ----------
    models : tuple of str
    draws, turns, heard : int
        Draws, the decisions behind them, and the draws of which a reward was heard.
    model_sets : int
        How many different sets of models were to choose from.
    left_out : dict of str to int
    calibration : Calibration
    policies : tuple of Verdict
    """

    models: tuple[str, ...]
    draws: int
    turns: int
    heard: int
    model_sets: int
    left_out: dict[str, int]
    calibration: Calibration
    policies: tuple[Verdict, ...]

    def document(self) -> dict[str, Any]:
        """Return all of it as plain JSON; a number that is not finite is None."""
        plain: dict[str, Any] = _plain(asdict(self))
        plain["calibration"]["sound"] = self.calibration.sound
        return plain

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per policy and estimator: a data frame's."""
        return [
            {"policy": verdict.spec, "estimator": name, **asdict(estimate)}
            for verdict in self.policies
            for name, estimate in verdict.estimates.items()
        ]


def judge(
    rounds: Rounds,
    specs: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Verdicts:
    """Say what a log says about policies.

    Parameters
    ----------
    rounds : Rounds
    specs : sequence of str
        As `target_from_spec`.
    folds : int
        Of the reward models.
    seed : int
        Of folds, of rejection and of the bootstrap.
    progress : callable, optional
        Called with the policies that are done, and all there are.

    Raises
    ------
    SettingsError
        A SPEC is wrong.
    ReplayError
        The log supports no answer at all: nothing drawn with a known probability, or no reward.
    """
    targets = [target_from_spec(spec) for spec in dict.fromkeys(specs)]
    draws = draws_of(rounds)
    if not draws.heard.any():
        raise ReplayError(f"no reward was heard of any of the {len(draws)} draws of that period")
    model = _Model(
        responses=response_probabilities(draws),
        foretold=cross_fitted(draws, folds=folds, seed=seed),
        before=foretold_before(draws),
    )
    verdicts = []
    for target in targets:
        verdicts.append(_verdict(draws, target, model, seed))
        if progress is not None:
            progress(len(verdicts), len(targets))
    return Verdicts(
        models=draws.models,
        draws=len(draws),
        turns=draws.turns,
        heard=int(draws.heard.sum()),
        model_sets=len(np.unique(np.packbits(draws.eligible, axis=1), axis=0)),
        left_out=dict(draws.left_out),
        calibration=calibration(draws),
        policies=tuple(verdicts),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Model:
    """What is thought of a log: how likely rewards were heard, and what each would have been.

    Attributes
    ----------
    responses : ndarray of shape (n,)
    foretold, before : ndarray of shape (n, K)
        By all other rows, and by earlier ones only.
    """

    responses: Array
    foretold: Array
    before: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sample:
    """The rows on which one policy is judged; a row without a reward has a ratio of 0."""

    target: Array
    logged: Array
    reward: Array
    q: Array
    v: Array
    before: tuple[Array, Array]
    clusters: est.Clusters
    most: float

    @property
    def weighed(self) -> tuple[Array, Array, Array]:
        return self.target, self.logged, self.reward

    @property
    def foretold(self) -> tuple[Array, Array, Array, Array, Array]:
        return (*self.weighed, self.q, self.v)


def _verdict(draws: Draws, target: Target, model: _Model, seed: int) -> Verdict:
    p = probabilities_of(target, draws, seed=seed)
    rows: NDArray[np.bool_] = np.asarray(p.any(axis=1))
    unfit, found = int((~rows).sum()), reach(draws, p, rows)
    heard = draws.heard & rows
    own = draws.of_chosen(p)
    told = est.effective_size((own / (draws.logged * model.responses))[heard])
    if told < ENOUGH or found.overlap < HELD:
        why = _refusal(target, found, told, unfit, len(draws))
        return Verdict(spec=target.spec, reach=found, unfit=unfit, refusal=why)
    sample = _sample(draws, p, own, rows, model, found.most)
    unknown = not heard[rows].all() or found.overlap < 1 - _ALL
    low, high = bounds(draws, p, rows) if unknown else (None, None)
    return Verdict(
        spec=target.spec,
        reach=found,
        unfit=unfit,
        estimates=_estimates(sample, seed),
        swept=_swept(sample),
        low=low,
        high=high,
        paid_usd=_paid(draws, own, rows),
        share=dict(zip(draws.models, p[rows].mean(axis=0).tolist(), strict=True)),
    )


def _sample(
    draws: Draws, p: Array, own: Array, rows: NDArray[np.bool_], model: _Model, most: float
) -> _Sample:
    heard = draws.heard
    (q, v), before = (
        (draws.of_chosen(foretold)[rows], np.einsum("nk,nk->n", p, foretold)[rows])
        for foretold in (model.foretold, model.before)
    )
    return _Sample(
        target=np.where(heard, own, 0.0)[rows],
        logged=np.where(heard, draws.logged * model.responses, 1.0)[rows],
        reward=np.nan_to_num(draws.reward)[rows],
        q=q,
        v=v,
        before=before,
        clusters=draws.cluster[rows] if draws.talks else None,
        most=most / float(model.responses[rows].min()),
    )


def _refusal(target: Target, found: Reach, told: float, unfit: int, n: int) -> str:
    if unfit == n:
        return f"{target.spec} could draw none of the models that were eligible"
    if found.overlap == 0 or found.agreeing == 0:
        return f"nothing that {target.spec} draws was ever drawn: the log has no support for it"
    if found.overlap < HELD:
        return (
            f"the log has no support for {1 - found.overlap:.0%} of what {target.spec} draws: "
            "those models were eligible with a probability of 0"
        )
    return (
        f"the log tells as much as {told:.1f} decisions of {target.spec} itself; "
        f"fewer than {ENOUGH:g} support no answer"
    )


def _estimates(s: _Sample, seed: int) -> dict[str, Estimate]:
    c = s.clusters
    found = {
        "ips": est.ips(*s.weighed, clusters=c),
        "snips": est.snips(*s.weighed, clusters=c),
        "dm": est.direct(s.v, clusters=c),
        "dr": est.dr(*s.foretold, clusters=c),
        "sndr": est.sndr(*s.foretold, clusters=c),
        "ips (bernstein)": est.ips(*s.weighed, interval="bernstein", most=s.most),
        "dr (bernstein)": est.dr(*s.foretold, interval="bernstein", most=s.most),
    }
    with suppress(ValueError):  # where next to nothing is kept it has no interval
        found["replay"] = est.replay(*s.weighed, seed=seed, clusters=c)
    if s.reward.min() >= 0 and s.reward.max() <= 1:
        found["ips (sequence)"] = est.ips(*s.weighed, interval="sequence")
        found["dr (sequence)"] = est.dr(*s.weighed, *s.before, interval="sequence", most=s.most)
    if len(s.reward) <= _BOOTSTRAP:
        found["ips (bootstrap)"] = est.ips(*s.weighed, interval="bootstrap", clusters=c)
        found["dr (bootstrap)"] = est.dr(*s.foretold, interval="bootstrap", clusters=c)
    return found


def _swept(s: _Sample) -> tuple[Swept, ...]:
    c = s.clusters
    moves: dict[str, Callable[[float], tuple[float, Estimate]]] = {
        "clipped-ips": lambda m: (m, est.clipped_ips(*s.weighed, clip=m, clusters=c)),
        "switch-dr": lambda m: (m, est.switch_dr(*s.foretold, tau=m, clusters=c)),
        "dros": lambda m: (m * m, est.dros(*s.foretold, shrink=m * m, clusters=c)),
    }
    return tuple(
        Swept(estimator=name, parameter=at, estimate=estimate)
        for name, move in moves.items()
        for at, estimate in map(move, SWEEP)
    )


def _paid(draws: Draws, own: Array, rows: NDArray[np.bool_]) -> float | None:
    known = rows & ~np.isnan(draws.paid_usd)
    ratio = (own / draws.logged)[known]
    return float(ratio @ draws.paid_usd[known] / ratio.sum()) if ratio.any() else None


def _plain(value: Any) -> Any:  # Any: JSON
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def known_policies() -> str:
    """Return which SPECs there are, for a help text."""
    return ", ".join(["logged", "fixed:MODEL", *policies.POLICIES, "learn:POLICY"])
