"""When the loop's health raises an alarm, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from bandit_router.errors import SettingsError
from bandit_router.values import check_amount, check_count, check_unit

_COUNTS = ("slices", "each", "decisions", "words", "judgements")
_SHARES = (
    *("join_rate", "lost_words", "same_value", "top_share", "outcomes", "unknown_costs"),
    *("failed_judgements", "degraded", "capped_words"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When to raise an alarm: the table ``[alarms]`` of a config.

    Parameters
    ----------
    window_h : float
        How far back is looked [h].
    slices, each : int
        In how many equal slices the window is cut, and how many decisions of each are looked at (of the
        latest, five times as many).
    decisions, words, judgements : int
        Below so many of the sample nothing is said about shares of them.
    join_rate : float
        The share of decisions that should have feedback.
    lost_words : float
        The share of words whose decision may never be found.
    same_value : float
        The share of one kind's words that may say the same.
    top_share : float
        The share of decisions that one model may take where others could serve.
    drift : float
        How far a feature's mean, or a model's mean reward, may move within the window [standard deviations].
    outcomes : float
        The share of decisions of which it should be known how the call went.
    unknown_costs : float
        The share of outcomes whose cost may be unknown.
    failed_judgements : float
        The share of a judge's judgements that may end without a grade.
    degraded : float
        The share of decisions that may be made while something is away.
    capped_words : float
        The share of words that may count less than half, because whoever says them has said too much.
    store_away_s, behind_s : float
        How long the store may be away, and beliefs behind the log [s].
    still_s : float
        How long beliefs may stand still while rewards come [s].
    skew_s : float
        How far clocks may be apart [s].

    Raises
    ------
    SettingsError
        A value of the wrong type or out of range.

    Examples
    --------
    >>> Thresholds(join_rate=0.02).drift
    0.5
    """

    window_h: float = 24.0
    slices: int = 24
    each: int = 100
    decisions: int = 300
    words: int = 100
    judgements: int = 20
    join_rate: float = 0.005
    lost_words: float = 0.05
    same_value: float = 0.995
    top_share: float = 0.985
    drift: float = 0.5
    outcomes: float = 0.5
    unknown_costs: float = 0.5
    failed_judgements: float = 0.3
    degraded: float = 0.1
    capped_words: float = 0.1
    store_away_s: float = 60.0
    behind_s: float = 60.0
    still_s: float = 600.0
    skew_s: float = 5.0

    def __post_init__(self) -> None:
        try:
            for name in _COUNTS:
                if not 1 <= check_count(name, getattr(self, name)) <= 10_000:
                    raise ValueError(f"{name}: expected 1 to 10000, got {getattr(self, name)}")
            for name in _SHARES:
                check_unit(name, getattr(self, name))
            for name in ("window_h", "drift", "store_away_s", "behind_s", "still_s", "skew_s"):
                if not check_amount(name, getattr(self, name)):
                    raise ValueError(f"{name}: expected more than 0, got 0")
        except (TypeError, ValueError) as error:
            raise SettingsError(f"alarms: {error}") from error


def thresholds_from_json(body: Mapping[str, object]) -> Thresholds:
    """Return the thresholds that a table ``[alarms]`` sets; what it does not name is the default.

    Raises
    ------
    SettingsError
        No such entry, or a bad value.
    """
    names = [entry.name for entry in fields(Thresholds)]
    for name in body:
        if name not in names:
            raise SettingsError(f"alarms: no entry {name!r}; there are {', '.join(names)}")
    return Thresholds(**body)  # type: ignore[arg-type]  # checked there
