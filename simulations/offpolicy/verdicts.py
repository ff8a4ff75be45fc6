"""What a log says about policies: draws and SPECs in, one frozen result out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_router import policies
from bandit_router.errors import ReplayError
from simulations.estimators import Estimate
from simulations.offpolicy.diagnosis import Calibration, Reach, calibration, reach
from simulations.offpolicy.draws import Draws, draws_of
from simulations.offpolicy.responses import bounds
from simulations.offpolicy.samples import Foretold, Sample, Swept, paid
from simulations.offpolicy.targets import Target, probabilities_of, target_from_spec
from simulations.rounds import Rounds

ENOUGH = 30.0  # effective rows below which no value is told
HELD = 0.95  # share of what a policy draws that the log must have been able to draw
_ALL = 1e-6  # share that may fall to rounding


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
    paid : Estimate, optional
        What a request would have cost [USD] (`samples.paid`).
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
    paid: Estimate | None = None
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
        plain: dict[str, Any] = finite(asdict(self))
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
    foretold = Foretold.of(draws, folds=folds, seed=seed)
    verdicts = []
    for target in targets:
        verdicts.append(_verdict(draws, target, foretold, seed))
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


def _verdict(draws: Draws, target: Target, foretold: Foretold, seed: int) -> Verdict:
    p = probabilities_of(target, draws, seed=seed)
    rows: NDArray[np.bool_] = np.asarray(p.any(axis=1))
    unfit, found = int((~rows).sum()), reach(draws, p, rows)
    if unfit == len(draws):
        why = f"{target.spec} could draw none of the models that were eligible"
        return Verdict(spec=target.spec, reach=found, unfit=unfit, refusal=why)
    sample = Sample.of(draws, p, rows, foretold, most=found.most)
    if why_not := _refusal(target, found, sample.effective):
        return Verdict(spec=target.spec, reach=found, unfit=unfit, refusal=why_not)
    unknown = not draws.heard[rows].all() or found.overlap < 1 - _ALL
    low, high = bounds(draws, p, rows) if unknown else (None, None)
    return Verdict(
        spec=target.spec,
        reach=found,
        unfit=unfit,
        estimates=sample.estimates(seed),
        swept=sample.swept(),
        low=low,
        high=high,
        paid=paid(draws, p, rows),
        share=dict(zip(draws.models, p[rows].mean(axis=0).tolist(), strict=True)),
    )


def _refusal(target: Target, found: Reach, effective: float) -> str | None:
    if found.overlap == 0 or found.agreeing == 0:
        return f"nothing that {target.spec} draws was ever drawn: the log has no support for it"
    if found.overlap < HELD:
        return (
            f"the log has no support for {1 - found.overlap:.0%} of what {target.spec} draws: "
            "those models were eligible with a probability of 0"
        )
    if effective < ENOUGH:
        return (
            f"the log tells as much as {effective:.1f} decisions of {target.spec} itself; "
            f"fewer than {ENOUGH:g} support no answer"
        )
    return None


def finite(value: Any) -> Any:  # Any: JSON
    """Return JSON without numbers that are not finite: they become None."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def known_policies() -> str:
    """Return which SPECs there are, for a help text."""
    return ", ".join(["logged", "fixed:MODEL", *policies.POLICIES, "learn:POLICY"])
