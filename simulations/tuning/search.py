"""Search settings on an earlier period of a log, confirm a few on a later one, recommend one or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bandit_router.values import Array
from simulations.offpolicy.diagnosis import calibration
from simulations.offpolicy.draws import Draws, Mask
from simulations.offpolicy.intervals import ALPHA
from simulations.offpolicy.verdicts import ENOUGH, finite
from simulations.tuning.candidates import Candidate, suggest
from simulations.tuning.changes import Change, Ground
from simulations.tuning.tracks import Track, probabilities, track_of

if TYPE_CHECKING:
    from optuna.study import Study

FEWEST = 200  # draws with a reward in each period, below which nothing is searched
FINALISTS = 3  # candidates that are confirmed; their intervals share the error
TRIALS = 60
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """How a candidate did in the period that the search never saw.

    Attributes
    ----------
    candidate : Candidate
    reward : Change
        Per decision, against what the log does; the intervals of all finalists hold at once.
    usd : Change, optional
        The same of the cost [USD].
    """

    candidate: Candidate
    reward: Change
    usd: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a search came to.

    Attributes
    ----------
    refusal : str, optional
        Why nothing is recommended.
    recommended : Confirmed, optional
    finalists : tuple of Confirmed
        By the lower end of their intervals.
    searched, confirmed : int
        Draws of both periods.
    """

    searched: int
    confirmed: int
    refusal: str | None = None
    recommended: Confirmed | None = None
    finalists: tuple[Confirmed, ...] = field(default=())

    @classmethod
    def of(cls, told: list[Confirmed], *, searched: int, confirmed: int) -> Tuned:
        """Recommend the highest lower end, if it is above 0."""
        ranked = sorted(told, key=lambda one: -one.reward.low)
        fit = [one for one in ranked if one.reward.effective >= ENOUGH and one.reward.low > 0]
        return cls(
            searched=searched,
            confirmed=confirmed,
            refusal=None if fit else "no candidate is better than what is used now beyond chance",
            recommended=fit[0] if fit else None,
            finalists=tuple(ranked),
        )

    def document(self) -> dict[str, Any]:  # Any: JSON
        """Return it as plain JSON; a number that is not finite is None."""
        plain: dict[str, Any] = finite(asdict(self))
        return plain


def tune_draws(
    draws: Draws,
    *,
    trials: int = TRIALS,
    share: float = 0.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tuned:
    """Search on the first draws of a log, and confirm on the others.

    Parameters
    ----------
    draws : Draws
        In the order of time.
    trials : int
        Candidates that are looked at.
    share : float
        Of the draws, that the search sees.
    seed : int
        Of the search.
    progress : callable, optional
        Called with the trials that are done, and all there are.
    """
    cut = int(share * len(draws))
    earlier = np.arange(len(draws)) < cut
    # A conversation in both periods would be seen by the search.
    later = ~earlier & ~np.isin(draws.cluster, draws.cluster[earlier])
    held = int(later.sum())
    why = _unfit(draws, int((draws.heard & earlier).sum()), int((draws.heard & later).sum()))
    if why:
        return Tuned(refusal=why, searched=cut, confirmed=held)
    tracks = {half_life: track_of(draws, half_life) for half_life in _half_lives(draws)}
    found = _search(draws.some(earlier), tracks, trials, seed, progress)
    if not found:
        why = f"no candidate had {ENOUGH:g} effective draws in the search"
        return Tuned(refusal=why, searched=cut, confirmed=held)
    return _confirm(Ground.of(draws.some(later)), found, tracks, later, cut)


def _unfit(draws: Draws, earlier: int, later: int) -> str | None:
    if min(earlier, later) < FEWEST:
        return f"{earlier} and {later} draws have a reward; each period needs {FEWEST}"
    if len(draws.models) < 2:
        return "there is one model only"
    if not calibration(draws).sound:
        return "the logged probabilities are not those of the draws"
    if (draws.logged > 1 - 1e-9).mean() > 0.5:
        return "most draws were certain: the log has no support for anything else"
    return None


def _half_lives(draws: Draws) -> tuple[float | None, ...]:
    """None, and a half and a tenth of the log's length [s]."""
    span = float(draws.at[-1] - draws.at[0])
    return (None, round(span / 2), round(span / 10)) if span > 100 else (None,)


def _search(
    draws: Draws, tracks: dict[float | None, Track], trials: int, seed: int, progress: Progress | None
) -> list[Candidate]:
    """Return the finalists: the highest lower bounds, one of each kind of policy and half-life."""
    study = new_study(seed)
    ground = Ground.of(draws)
    seen: dict[Candidate, float] = {}
    for done in range(1, trials + 1):
        trial = study.ask()
        candidate = suggest(trial, tuple(tracks))
        seen[candidate] = _lower(ground, candidate, tracks[candidate.half_life_s])
        study.tell(trial, max(seen[candidate], -1.0))
        if progress is not None:
            progress(done, trials)
    return best_of(seen)


def new_study(seed: int) -> Study:
    """Return a search that proposes candidates, the same for the same seed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


def best_of(seen: dict[Candidate, float]) -> list[Candidate]:
    """Return the finalists by the lower ends of the search: the best of each policy and half-life."""
    kinds: dict[tuple[str, float | None], Candidate] = {}
    for candidate in sorted(seen, key=lambda one: -seen[one]):
        if seen[candidate] > -np.inf:
            kinds.setdefault((candidate.policy.split(":")[0], candidate.half_life_s), candidate)
    return list(kinds.values())[:FINALISTS]


def _lower(ground: Ground, candidate: Candidate, track: Track) -> float:
    n = len(ground.draws)
    change = ground.reward(_probabilities(ground.draws, candidate, track, slice(n)))
    return change.low if change.effective >= ENOUGH else -np.inf


def _probabilities(draws: Draws, candidate: Candidate, track: Track, rows: Mask | slice) -> Array:
    return probabilities(candidate, draws, Track(mean=track.mean[rows], std=track.std[rows]))


def _confirm(
    ground: Ground, found: list[Candidate], tracks: dict[float | None, Track], rows: Mask, searched: int
) -> Tuned:
    """Tell each finalist's change with Bonferroni's share of the error; the best lower end, if above 0."""
    alpha, told = ALPHA / len(found), []
    for candidate in found:
        p = _probabilities(ground.draws, candidate, tracks[candidate.half_life_s], rows)
        reward, usd = ground.reward(p, alpha=alpha), ground.dollars(p, alpha=alpha)
        told.append(Confirmed(candidate=candidate, reward=reward, usd=usd))
    return Tuned.of(told, searched=searched, confirmed=len(ground.draws))
