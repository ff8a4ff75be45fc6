"""What learning trust is worth, measured where the truth is known: a table of grades of the same answers.

One judge is taken for the truth. On half of the prompts trust in the others is learnt, from all of the truth,
or from thumbs on a tenth of the answers that are up as often as the truth is good. On the other half the
weighted mean of the others is held against the truth: between all answers, between the models on the same
prompt, which is what routing lives on, and by each model's mean, which is what is learnt without features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandit_router.errors import SettingsError
from bandit_router.rewards import METRICS, Trust
from bandit_router.values import Array
from feedback.overlaps import Overlaps, Signal
from feedback.trust import learn_trust

GRADES = ("quality", "judge_")  # how columns of grades begin
THUMBS = 0.1  # of the answers
DRAWS = 20
_SEEN = {"all": 1.0, "thumbs": THUMBS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far a signal agrees with the truth on prompts that nothing was learnt from: means over the halves.

    Attributes
    ----------
    judges : str
        ``as they are``, or with one that ``guesses`` added, or one that says a ``constant``.
    labels : str
        From what trust was learnt: ``all`` of the truth, ``thumbs``, or nothing (``-``).
    correlation, within : float
        With the truth, over all answers, and after each prompt's mean is taken out.
    rms, means : float
        Root of the mean squared difference from the truth: of answers, and of the models' means.
    gain, gain_low, gain_high : float, optional
        Of `within` over the fixed weights' on the same half; with its 95 % interval over the halves.
    """

    judges: str
    labels: str
    signal: str
    correlation: float
    within: float
    rms: float
    means: float
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None


def grades_of(columns: Mapping[str, object]) -> dict[str, Array]:
    """Return each judge's grades of shape (prompts, models), from columns like ``quality__MODEL``.

    Raises
    ------
    SettingsError
        Judges graded other models.
    """
    grades: dict[str, dict[str, Array]] = {}
    for name, column in columns.items():
        judge, _, model = name.partition("__")
        if judge.startswith(GRADES):
            grades.setdefault(judge, {})[model] = np.asarray(column, dtype=np.float64)
    models = {tuple(sorted(by_model)) for by_model in grades.values()}
    if len(models) != 1:
        raise SettingsError("table: expected columns JUDGE__MODEL, of each judge for the same models")
    order = models.pop()
    return {judge: np.stack([by_model[m] for m in order], axis=1) for judge, by_model in grades.items()}


def measure(
    grades: Mapping[str, Array], *, truth: str = "quality", halves: int = 20, seed: int = 0
) -> list[Agreement]:
    """Measure single judges, the fixed weights and the learnt ones.

    Raises
    ------
    SettingsError
        No such judge, or fewer than two others.
    """
    others = {judge: y for judge, y in grades.items() if judge != truth}
    if truth not in grades or len(others) < 2:
        raise SettingsError(
            f"table: expected {truth} and two other judges, got {', '.join(sorted(grades))}"
        )
    guesses, shape = np.random.default_rng(seed), grades[truth].shape
    panels = {
        "as they are": others,
        "one guesses": {**others, "guesses": guesses.random(shape)},
        "one constant": {**others, "constant": np.full(shape, 0.9)},
    }
    return [
        row
        for name, panel in panels.items()  # each on the same halves
        for row in _panel(name, panel, grades[truth], halves, np.random.default_rng(seed))
    ]


def _panel(
    name: str, panel: Mapping[str, Array], truth: Array, halves: int, rng: np.random.Generator
) -> list[Agreement]:
    signals = [Signal(name="judge", source=j, weight=METRICS["judge"].weight) for j in panel]
    signals = [replace(signal, trust=Trust(weight=signal.weight)) for signal in signals]
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for _ in range(halves):
        order = rng.permutation(len(truth))
        seen, unseen = order[: len(order) // 2], order[len(order) // 2 :]
        held = [panel[j][unseen] for j in panel]
        for judge, y in zip(panel, held, strict=True):
            found.setdefault(("-", judge), []).append(_agreement(y, truth[unseen]))
        fixed = _combined(held, [signal.trust for signal in signals])
        found.setdefault(("-", "fixed weights"), []).append(_agreement(fixed, truth[unseen]))
        for labels, share in _SEEN.items():
            told = _told(truth[seen], share, rng)
            trusts = _learnt(signals, [panel[j][seen] for j in panel], told)
            learnt = _combined(held, trusts)
            found.setdefault((labels, "learnt weights"), []).append(_agreement(learnt, truth[unseen]))
    base = np.array(found["-", "fixed weights"])[:, 1]
    return [_row(name, *key, np.array(values), base) for key, values in found.items()]


def _told(truth: Array, share: float, rng: np.random.Generator) -> Array:
    """The truth itself, or thumbs on a share of the answers."""
    if share == 1.0:
        return truth
    thumbs = (rng.random(truth.shape) < truth).astype(np.float64)
    return np.where(rng.random(truth.shape) < share, thumbs, np.nan)


def _learnt(signals: list[Signal], grades: list[Array], told: Array) -> list[Trust]:
    n, k = told.shape
    values = np.stack([told.ravel(), *(y.ravel() for y in grades)], axis=1)
    users = Signal(name="thumb", source="*", people=True)
    models = [f"model-{i}" for i in range(k)] * n
    learnt = learn_trust(Overlaps(signals=[users, *signals], values=values, models=models), draws=DRAWS)
    return [finding.trust for finding in learnt.findings[1:]]


def _combined(grades: list[Array], trusts: list[Trust]) -> Array:
    weights = np.array([trust.counts for trust in trusts])
    meant = [trust.offset + trust.slope * y for trust, y in zip(trusts, grades, strict=True)]
    return np.asarray(np.average(meant, axis=0, weights=weights if weights.any() else None))


def _agreement(y: Array, truth: Array) -> tuple[float, ...]:
    within = [x - x.mean(axis=1, keepdims=True) for x in (y, truth)]
    apart = y - truth
    rms, means = (float(np.sqrt(np.mean(d**2))) for d in (apart, apart.mean(axis=0)))
    return _correlation(y, truth), _correlation(*within), rms, means


def _correlation(x: Array, y: Array) -> float:
    if np.ptp(x) < 1e-9:
        return 0.0
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def _row(judges: str, labels: str, signal: str, values: Array, base: Array) -> Agreement:
    numbers = dict(zip(("correlation", "within", "rms", "means"), values.mean(axis=0), strict=True))
    row = Agreement(
        judges=judges, labels=labels, signal=signal, **{n: float(x) for n, x in numbers.items()}
    )
    if labels == "-":
        return row
    gains = values[:, 1] - base
    low, high = (float(x) for x in np.quantile(gains, [0.025, 0.975]))
    return replace(row, gain=float(gains.mean()), gain_low=low, gain_high=high)


def votes_of(columns: Mapping[str, Sequence[str | None]]) -> dict[str, Overlaps]:
    """Return, per source of human votes on pairs of answers, what two people and a judge said of the same pair.

    Of a pair about which more people voted, the first two count, as the table has them.
    """
    pairs: dict[tuple[str, ...], list[float]] = {}
    verdicts: dict[tuple[str, ...], float] = {}
    names = ("source", "prompt_id", "turn", "model_a", "model_b", "annotator", "winner", "judge_gpt4")
    voted: set[tuple[str, ...]] = set()
    for row in zip(*(columns[name] for name in names), strict=True):
        *where, one, other, person, winner, judge = (str(x) for x in row)
        turned = one > other
        pair = (*where, *sorted((one, other)))
        if (*pair, person) in voted:
            continue
        voted.add((*pair, person))
        pairs.setdefault(pair, []).append(_side(winner, turned=turned))
        verdicts[pair] = _side(judge, turned=turned)
    return {source: _side_by_side(source, pairs, verdicts) for source in sorted({p[0] for p in pairs})}


def _side(winner: str, *, turned: bool) -> float:
    value = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(winner, np.nan)
    return 1.0 - value if turned else value


def _side_by_side(
    source: str, pairs: Mapping[tuple[str, ...], list[float]], verdicts: Mapping[tuple[str, ...], float]
) -> Overlaps:
    mine = {pair: [*said, np.nan][:2] for pair, said in pairs.items() if pair[0] == source}
    return Overlaps(
        signals=[
            Signal(name="person", source="1", people=True),
            Signal(name="person", source="2"),
            Signal(name="judge", source="gpt-4"),
        ],
        values=np.array([[*said, verdicts[pair]] for pair, said in mine.items()]),
        models=[" and ".join(pair[-2:]) for pair in mine],
    )
