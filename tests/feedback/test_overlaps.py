"""Signals side by side."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.log.overlaps import Answer
from bandit_router.rewards import METRICS, Metric, Trust, Vote
from feedback.overlaps import SIGNALS, Overlaps, Signal, overlaps_of, with_trust

METRICS_HERE = {**METRICS, "stars": Metric(low=1, high=5)}


def answer(*votes: tuple[str, str, object], model: str = "small", level: float = 0.5) -> Answer:
    said = tuple(Vote(name=n, source=s, value=v) for n, s, v in votes)  # type: ignore[arg-type]  # any
    return Answer(model=model, level=level, votes=said)


def test_users_are_one_signal_and_each_judge_is_its_own() -> None:
    overlaps = overlaps_of(
        [
            answer(("thumb", "user:1", True), ("thumb", "user:2", False), ("judge", "judge:a", 0.9)),
            answer(("judge", "judge:b", 0.2), ("comment", "user:1", "bad"), model="large", level=0.7),
            answer(("stars", "user:1", 2.0), ("vote", "user:1", 0.75), ("gone", "user:1", 1.0)),
        ],
        METRICS_HERE,
    )
    assert [str(s) for s in overlaps.signals] == [
        "judge judge:a",
        "judge judge:b",
        "stars",
        "thumb",
        "vote",
    ]
    assert [s.people for s in overlaps.signals] == [False, False, True, True, False]
    wanted = [
        [0.9, np.nan, np.nan, 0.5, np.nan],
        [np.nan, 0.2, np.nan, np.nan, np.nan],
        [np.nan, np.nan, 0.25, np.nan, 0.75],
    ]
    np.testing.assert_array_equal(overlaps.values, wanted)
    assert list(overlaps.models) == ["small", "large", "small"]
    np.testing.assert_array_equal(overlaps.levels, [0.5, 0.7, 0.5])


def test_values_are_those_before_any_calibration() -> None:
    trust = Trust(weight=0.1, slope=3.0, offset=0.5)
    metrics = with_trust(METRICS, [(Signal(name="judge", source="judge:a"), trust)])
    overlaps = overlaps_of([answer(("judge", "judge:a", 0.9))], metrics)
    assert overlaps.values[0, 0] == 0.9
    assert overlaps.signals[0].trust == trust


def test_only_those_who_speak_often_are_looked_at() -> None:
    often = [answer(*(("judge", f"judge:{i:02}", 0.5) for i in range(SIGNALS))) for _ in range(2)]
    overlaps = overlaps_of([*often, answer(("judge", "judge:rare", 0.5))], METRICS)
    assert len(overlaps.signals) == SIGNALS
    assert "judge:rare" not in {signal.source for signal in overlaps.signals}


def test_trust_is_put_beside_what_there_is() -> None:
    one, other = Signal(name="judge", source="judge:a"), Signal(name="judge", source="judge:b")
    first = with_trust(METRICS, [(one, Trust(weight=0.1))])
    both = with_trust(first, [(other, Trust(weight=0.2))])
    assert {source: trust.weight for source, trust in both["judge"].trust.items()} == {
        "judge:a": 0.1,
        "judge:b": 0.2,
    }
    assert both["judge"].weight == METRICS["judge"].weight
    assert not METRICS["judge"].trust


def test_shapes_are_checked() -> None:
    thumb, judge = Signal(name="thumb", source="*"), Signal(name="judge", source="judge:a")
    with pytest.raises(ValueError, match=r"expected shape \(1, 2\), got \(1, 1\)"):
        Overlaps(signals=[thumb, judge], values=np.ones((1, 1)), models=["small"])
    with pytest.raises(ValueError, match="levels"):
        Overlaps(signals=[thumb], values=np.ones((1, 1)), models=["small"], levels=np.ones(2))
