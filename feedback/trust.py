"""How far each signal is to be believed, learnt from the decisions about which two or more of them spoke.

Every signal is taken as ``y = a + s q + e``: what users would say of the answer, on a scale of its own, with
an error of its own. From how signals go together (and not from how they agree with one of them, which errs
too) follow the loadings ``l = corr(y, q)`` (`factor`), and from these the scale and the weight. What a prompt
alone explains is taken out first, for no choice between models depends on it.

A weight is relative to the most reliable signal's. An observation is as noisy as the luck of one answer and
the signal's error together, on the scale of the reference: ``T / l^2``, with ``T = var(q)``. A signal's bias
towards some models does not average out as noise does, and so its variance counts `BIAS_COUNTS` times.

What it assumes: the errors of different signals have nothing in common (two judges of one make are nearly one
judge). Users may speak of bad answers more often than of good ones, but not because a judge errs: scales
survive such a choice by quality, spreads do not quite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandit_router.rewards import Trust
from bandit_router.values import Array, check_unit
from feedback.factor import Fit, find_biases, fit_factor
from feedback.overlaps import MIN_OVERLAPS, Overlaps, Sample, Signal

RELIABILITY = 0.4  # of one user's word, next to nothing where three signals overlap
_WEIGHT_SD, _SLOPE_SD = 0.25, 0.5  # how far from the usual ones they may well be
_WIDEST = 0.5  # an interval of a weight that is wider does not tell it
_NOTHING = 0.1  # a reliability that may be none, and is surely below this, is none
_CHANCE = 4.0  # standard errors that a correlation of two judges must exceed
_DRAWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was learnt of one signal.

    Attributes
    ----------
    n, overlaps : int
        Decisions that it spoke about, and those of them about which another one did too.
    reliability : float
        The squared correlation with what it should say; NaN where that is not known.
    error : float
        Standard deviation of its error on the scale of the reference; infinite where it says nothing.
    bias : float
        Standard deviation, over models, of how far it favours them, on that scale.
    interval : (float, float)
        Of the weight before it is drawn towards its metric's; 95 %.
    trust : Trust
        Proposed; the present one where `refusal` says why.
    needed : int
        About how many overlaps would tell, where these do not.
    refusal : str
        Why nothing is proposed; empty where the data can tell.
    doubt : str
        Why the weight stays, as far as its interval allows; empty where the data can tell.
    """

    signal: Signal
    n: int
    overlaps: int
    reliability: float = math.nan
    error: float = math.nan
    bias: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    trust: Trust
    needed: int = 0
    refusal: str = ""
    doubt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What was learnt of all signals.

    Attributes
    ----------
    reference : Signal, optional
        On whose scale the others are put; None is their consensus.
    anchored : bool
        Whether it rests on the reliability assumed of the reference, for want of a third signal.
    """

    findings: tuple[Finding, ...]
    reference: Signal | None
    anchored: bool


def learn_trust(
    overlaps: Overlaps,
    *,
    reliability: float | None = None,
    seed: int = 0,
    draws: int = _DRAWS,
) -> Learnt:
    """Learn what each signal's values mean and how much they count.

    Parameters
    ----------
    overlaps : Overlaps
    reliability : float, optional
        That of one user's word: how two users' words about one answer correlate. All there is to go by
        where only two signals overlap, which without it are refused; next to nothing where three do.
    seed, draws : int
        Of the bootstrap over decisions that the intervals come from.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(0.5, 0.2, 3_000)
    >>> values = np.stack([truth + rng.normal(0, error, 3_000) for error in (0.1, 0.2, 0.2)], axis=1)
    >>> signals = [Signal(name="judge", source=name) for name in "abc"]
    >>> learnt = learn_trust(Overlaps(signals=signals, values=values, models=["small"] * 3_000))
    >>> [round(finding.reliability, 1) for finding in learnt.findings]
    [0.8, 0.5, 0.5]
    """
    if reliability is not None and not 0 < check_unit("reliability", reliability) < 1:
        raise ValueError(f"reliability: expected more than 0 and less than 1, got {reliability:g}")
    sample = Sample.of(overlaps)
    reference = sample.reference()
    findings = [_unknown(sample, j, reference) for j in range(len(overlaps.signals))]
    live = [j for j in range(len(findings)) if sample.tells(j) and sample.spread(j) > 0]
    known = sample.triangles(live)
    anchored = not known and reference is not None and reliability is not None
    if anchored and reference is not None:
        known = sample.reached(live, [reference])
    if known:
        for j, finding in zip(
            known, _judged(sample, known, reference, reliability, seed, draws), strict=True
        ):
            findings[j] = finding
    for j in range(len(findings)):
        if sample.tells(j) and not sample.spread(j) > 0:
            findings[j] = _silent(sample, j)
    signal = overlaps.signals[reference] if reference is not None and reference in known else None
    return Learnt(findings=tuple(findings), reference=signal, anchored=anchored)


def _unknown(sample: Sample, j: int, reference: int | None) -> Finding:
    signal, n = sample.signals[j], sample.overlaps(j)
    refusal = f"{MIN_OVERLAPS} overlaps with one other signal are needed"
    if sample.tells(j):
        refusal = "of two signals neither tells which is right: a third one is needed"
        if reference is not None:
            refusal += ", or how reliable one user's word is"
    return Finding(
        signal=signal,
        n=int(sample.spoke[j]),
        overlaps=n,
        trust=signal.trust,
        needed=MIN_OVERLAPS,
        refusal=refusal,
    )


def _silent(sample: Sample, j: int) -> Finding:
    """Of a signal that says the same of every answer."""
    signal = sample.signals[j]
    return Finding(
        signal=signal,
        n=int(sample.spoke[j]),
        overlaps=sample.overlaps(j),
        reliability=0.0,
        error=math.inf,
        interval=(0.0, 0.0),
        trust=signal.trust.with_weight(0.0),
    )


def _judged(
    sample: Sample,
    live: Sequence[int],
    reference: int | None,
    reliability: float | None,
    seed: int,
    draws: int,
) -> list[Finding]:
    values, there = sample.values[:, live], sample.there[:, live]
    base = live.index(reference) if reference in live else None
    rng, n = np.random.default_rng(seed), len(values)
    assumed = RELIABILITY if reliability is None else reliability
    fit = fit_factor(values, there, np.ones(n), base, assumed)
    again = [
        fit_factor(values, there, picked.astype(np.float64), base, assumed)
        for picked in rng.multinomial(n, np.full(n, 1 / n), size=draws)
    ]
    drawn = _Drawn(
        top=max(sample.signals[j].weight for j in live),
        biases=find_biases(values, there, sample.models, fit, base),
        fit=fit,
        again=again,
    )
    means = _means(sample.raw[:, live], fit, base)
    findings = [drawn.finding(sample, j, i, means[i]) for i, j in enumerate(live)]
    if base is None and fit.agreement < _CHANCE:
        return [_disagreeing(finding) for finding in findings]
    return _undecided(findings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """A fit, and the same on decisions drawn again and again."""

    top: float  # the weight of the most reliable signal
    biases: Array
    fit: Fit
    again: Sequence[Fit]

    def weights(self, fit: Fit) -> Array:
        totals = fit.totals(self.biases)
        least = float(totals.min())
        return self.top * least / totals if 0 < least < math.inf else np.zeros(len(totals))

    def finding(self, sample: Sample, j: int, i: int, means: tuple[float, float]) -> Finding:
        signal = sample.signals[j]
        weights = np.array([self.weights(fit)[i] for fit in self.again])
        slopes = np.array([fit.slopes[i] for fit in self.again])
        own = max(float(self.fit.loadings[i]), 0.0) ** 2
        low, high = (float(x) for x in np.quantile(weights, [0.025, 0.975]))
        finding = Finding(
            signal=signal,
            n=int(sample.spoke[j]),
            overlaps=sample.overlaps(j),
            reliability=own,
            error=math.sqrt(self.fit.truth * (1 / own - 1)) if own > 0 else math.inf,
            bias=float(self.biases[i]),
            interval=(low, high),
            trust=signal.trust.with_weight(0.0),
        )
        least, most = np.quantile([fit.loadings[i] for fit in self.again], [0.025, 0.975])
        if least <= 0 and max(most, 0.0) ** 2 < _NOTHING:
            return finding
        width = (high - low) / max(self.top, 1e-9)
        needed = math.ceil(finding.overlaps * (width / _WIDEST) ** 2) if width > _WIDEST else 0
        weight = _drawn_to(signal.weight, float(self.weights(self.fit)[i]), weights.std() / _WEIGHT_SD)
        slope = _drawn_to(1.0, float(self.fit.slopes[i]), slopes.std() / _SLOPE_SD)
        wanted, said = means
        trust = replace(signal.trust, weight=weight, slope=slope, offset=wanted - slope * said)
        return replace(finding, trust=trust, needed=needed)


def _drawn_to(usual: float, found: float, spread: float) -> float:
    """Return what is found, drawn towards what is usual as far as it is uncertain."""
    sure = 1 / (1 + spread**2)
    return sure * found + (1 - sure) * usual


def _undecided(findings: Sequence[Finding]) -> list[Finding]:
    """Weights are relative: where one is not known, all stay, as far as their intervals allow."""
    wide = [finding for finding in findings if finding.needed]
    if not wide:
        return list(findings)
    needed = max(finding.needed for finding in wide)
    worst = next(finding for finding in wide if finding.needed == needed)
    low, high = worst.interval
    doubt = (
        f"the weight of {worst.signal} may be anything from {low:.2f} to {high:.2f}: "
        f"about {needed} overlaps are needed"
    )
    return [
        replace(f, trust=f.trust.with_weight(_within(f)), needed=needed, doubt=doubt)
        if f.trust.weight
        else f
        for f in findings
    ]


def _within(finding: Finding) -> float:
    """The present weight, or the end of the interval that is nearest to it."""
    low, high = finding.interval
    return min(max(finding.signal.trust.weight, low), high)


def _disagreeing(finding: Finding) -> Finding:
    refusal = "no two of them agree more than by chance: words of users are needed"
    return replace(finding, trust=finding.signal.trust, refusal=refusal)


def _means(raw: Array, fit: Fit, base: int | None) -> list[tuple[float, float]]:
    """For each signal: the mean that it should have, and the one that it has, on the same decisions."""
    own = np.nanmean(raw, axis=0)
    if base is None:
        share = np.maximum(fit.loadings, 0.0) ** 2
        level = float(share @ own / share.sum()) if share.sum() else 0.0
        return [(level, float(mean)) for mean in own]
    means = []
    for i in range(raw.shape[1]):
        both = np.isfinite(raw[:, i]) & np.isfinite(raw[:, base])
        if both.sum() < MIN_OVERLAPS:
            means.append((float(own[base]), float(own[i])))
        else:
            means.append((float(raw[both, base].mean()), float(raw[both, i].mean())))
    return means
