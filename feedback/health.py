"""Is the loop still learning? What a sample of the log says, and the alarms that follow from it.

A loop breaks without an error: a join key that never matches, a thumb that is always true, a model that takes
everything. Each alarm has a code that stays, and one sentence that says what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection

from bandit_router.log.recent import Recent, read_recent
from bandit_router.log.registration import Registration
from bandit_router.values import utc
from feedback.thresholds import Thresholds
from feedback.vitals import Vitals, vitals_of

_SURE = 5.0  # standard errors that no chance explains
Read = Callable[[Callable[[Connection], Any]], Any]  # as `EventLog.read`; Any: what a query returns
Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that somebody should look at.

    Attributes
    ----------
    code : str
        One word for each kind, which stays: see `CODES`.
    severity : {"warning", "critical"}
    message : str
        What was found, with numbers, and what to do.
    router : str, optional
        Whose loop it is about; None: the whole service.
    """

    code: str
    severity: Severity
    message: str
    router: str | None = None


def examine(
    read: Read, registration: Registration, thresholds: Thresholds, *, now: float
) -> tuple[Vitals, Recent]:
    """Return how a router's loop is, from a bounded number of the log's rows.

    Raises
    ------
    LogUnavailableError
    """
    recent: Recent = read(
        lambda c: read_recent(
            c,
            registration.name,
            now=now,
            window_s=3600 * thresholds.window_h,
            slices=thresholds.slices,
            each=thresholds.each,
        )
    )
    return vitals_of(recent, registration), recent


def alarms_of(vitals: Vitals, thresholds: Thresholds) -> tuple[Alarm, ...]:
    """Return what follows from a sample; nothing from too small a one."""
    found = []
    for code, (severity, check) in _CHECKS.items():
        said = check(vitals, thresholds)
        if said is not None:
            found.append(Alarm(code=code, severity=severity, message=said, router=vitals.router))
    return tuple(found)


def _feedback_missing(v: Vitals, t: Thresholds) -> str | None:
    if v.joined.of < t.decisions or v.joined.share >= t.join_rate:
        return None
    return (
        f"{v.joined} decisions have feedback, expected {t.join_rate:.2%}: see that pages send the decision's "
        "own id (or its feedback_token), and that what they send is answered with 200 or 202"
    )


def _words_lost(v: Vitals, t: Thresholds) -> str | None:
    if v.lost.of < t.words or v.lost.share <= t.lost_words:
        return None
    return (
        f"{v.lost} words are about decisions that never appeared: see that they carry the id that the router "
        "gave, and that no worker's journal still holds those decisions"
    )


def _feedback_constant(v: Vitals, t: Thresholds) -> str | None:
    for name, (count, value) in v.same.items():
        if count.of >= t.words and count.share > t.same_value:
            return (
                f"{count} words of {name!r} say {value:.20}: nothing is learnt from a word that is always the "
                "same; look at what sends it"
            )
    return None


def _one_model(v: Vitals, t: Thresholds) -> str | None:
    if v.top is None:
        return None
    model, count = v.top
    if count.of < t.decisions or count.share <= t.top_share:
        return None
    return (
        f"{model!r} served {count} decisions where others could have: if it is not that much better, raise "
        "`floor`, set a half-life, or look for feedback that favours it"
    )


def _floor_broken(v: Vitals, t: Thresholds) -> str | None:
    if v.floor is None or v.floor >= 1 - 1e-6:
        return None
    return (
        f"an eligible model had {v.floor:.2g} of the probability that `floor` promises: workers of another "
        "version or with other settings may be running"
    )


def _draws_unlike(v: Vitals, t: Thresholds) -> str | None:
    other, expected, error = v.explored
    if v.top is None or v.top[1].of < t.decisions or abs(other - expected) <= _SURE * error + 1:
        return None
    return (
        f"another than the likeliest model served {other:,} times, expected {expected:,.0f} by the logged "
        "probabilities: do not evaluate policies on this log before it is known why"
    )


def _features_drift(v: Vitals, t: Thresholds) -> str | None:
    if v.features is None or v.features.effect < t.drift:
        return None
    return (
        f"since {_when(v, v.features.place)} the mean of feature {v.features.column} is "
        f"{v.features.effect:.2g} standard deviations away: prompts have changed; where that stays, set a "
        "half-life, so that old evidence fades"
    )


def _rewards_drift(v: Vitals, t: Thresholds) -> str | None:
    if v.rewards is None or v.rewards[1].effect < t.drift:
        return None
    model, change = v.rewards
    return (
        f"since {_when(v, change.place)} the mean reward of {model!r} is {change.effect:.2g} standard "
        "deviations away: the model or its users have changed; set a half-life, or put the model with reset"
    )


def _outcomes_missing(v: Vitals, t: Thresholds) -> str | None:
    if v.outcomes.of < t.decisions or v.outcomes.share >= t.outcomes:
        return None
    return (
        f"{v.outcomes} decisions have an outcome, expected {t.outcomes:.0%}: report tokens and latency of "
        "every call; until then cost and latency are guesses"
    )


def _costs_unknown(v: Vitals, t: Thresholds) -> str | None:
    if not v.priced or v.unknown_costs.of < t.decisions or v.unknown_costs.share <= t.unknown_costs:
        return None
    return (
        f"of {v.unknown_costs} outcomes the cost is not known, though prices or a budget decide: report "
        "tokens or cost_usd, and give every model its prices"
    )


def _judge_failing(v: Vitals, t: Thresholds) -> str | None:
    for judge, count in v.judged.items():
        if count.of >= t.judgements and count.share > t.failed_judgements:
            return (
                f"{count} judgements of {judge!r} ended without a grade: see `bandit-router judge status` and "
                "the judge's replies"
            )
    return None


def _degraded(v: Vitals, t: Thresholds) -> str | None:
    if v.degraded.of < t.decisions or v.degraded.share <= t.degraded:
        return None
    return (
        f"{v.degraded} decisions were made while the log, or what embeds prompts, was slow or away: see its "
        "load, and /readyz"
    )


def _words_capped(v: Vitals, t: Thresholds) -> str | None:
    if v.capped.of < t.words or v.capped.share <= t.capped_words:
        return None
    return (
        f"{v.capped} words count less than half, because their rater's or key's allowance is used up: see "
        "who says so much, and `rater_limit` or the key's influence if they are right to"
    )


def _when(v: Vitals, place: float) -> str:
    return utc(v.moments[int(place)]).isoformat(timespec="minutes")


_Check = Callable[[Vitals, Thresholds], str | None]
_CHECKS: Mapping[str, tuple[Severity, _Check]] = {
    "feedback_missing": ("warning", _feedback_missing),
    "words_lost": ("warning", _words_lost),
    "feedback_constant": ("warning", _feedback_constant),
    "one_model": ("warning", _one_model),
    "floor_broken": ("critical", _floor_broken),
    "draws_unlike": ("critical", _draws_unlike),
    "features_drift": ("warning", _features_drift),
    "rewards_drift": ("warning", _rewards_drift),
    "outcomes_missing": ("warning", _outcomes_missing),
    "costs_unknown": ("warning", _costs_unknown),
    "judge_failing": ("warning", _judge_failing),
    "degraded": ("warning", _degraded),
    "words_capped": ("warning", _words_capped),
}
LOOP = tuple(_CHECKS)
