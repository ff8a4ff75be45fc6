"""What thumbs, judges, ratings and metrics of one's own amount to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.errors import SettingsError
from bandit_router.events import FeedbackValue, Reward
from bandit_router.rewards import COMMENT_LIMIT, METRICS, Metric, Trust, Vote, find_metric, reward


def said(*values: tuple[str, FeedbackValue]) -> Reward | None:
    return reward(Vote(name=name, source=f"rater:{i}", value=v) for i, (name, v) in enumerate(values))


@pytest.mark.parametrize(
    ("votes", "wanted"),
    [
        ([("thumb", True)], Reward(value=1.0, weight=1.0)),
        ([("thumb", False)], Reward(value=0.0, weight=1.0)),
        ([("rating", 0.25)], Reward(value=0.25, weight=1.0)),
        ([("judge", 0.8)], Reward(value=0.8, weight=0.5)),
        ([("judge", 0.8), ("judge", 0.4)], Reward(value=0.6, weight=1.0)),
        ([("judge", 0.0)] * 2 + [("judge", 1.0)], Reward(value=1 / 3, weight=1.0)),
        ([("thumb", True), ("judge", 0.25)], Reward(value=0.75, weight=1.0)),
        ([("thumb", True), ("thumb", False)], Reward(value=0.5, weight=1.0)),
        ([("thumb", True), ("comment", "bad!")], Reward(value=1.0, weight=1.0)),
        ([("thumb", None), ("judge", 0.25)], Reward(value=0.25, weight=0.5)),
        ([("unknown", 0.0), ("judge", 0.25)], Reward(value=0.25, weight=0.5)),
    ],
)
def test_reward_by_hand(votes: list[tuple[str, FeedbackValue]], wanted: Reward) -> None:
    got = said(*votes)
    assert got is not None
    assert (got.value, got.weight) == pytest.approx((wanted.value, wanted.weight))


@pytest.mark.parametrize(
    "votes",
    [
        [],
        [("thumb", None)],
        [("comment", "a text")],
        [("unknown", 1.0)],
        [("thumb", None), ("judge", None)],
    ],
)
def test_missing_stays_missing(votes: list[tuple[str, FeedbackValue]]) -> None:
    assert said(*votes) is None


@given(
    st.lists(
        st.tuples(st.just("thumb"), st.booleans() | st.none())
        | st.tuples(st.sampled_from(["judge", "rating"]), st.floats(0, 1) | st.none())
        | st.tuples(st.just("comment"), st.text())
    )
)
def test_a_reward_is_bounded_and_needs_no_order(votes: list[tuple[str, FeedbackValue]]) -> None:
    got, turned = said(*votes), said(*votes[::-1])
    scores = [float(value) for _, value in votes if isinstance(value, float | int)]
    if got is None or turned is None:
        assert got is turned is None
        assert not scores
        return
    assert min(scores) - 1e-12 <= got.value <= max(scores) + 1e-12
    assert 0.5 <= got.weight <= 1
    assert (turned.value, turned.weight) == pytest.approx((got.value, got.weight))


def test_a_metric_of_ones_own() -> None:
    metrics = {"edits": Metric(weight=0.2, low=10.0, high=0.0), "stars": Metric(low=1, high=5)}
    one = [Vote(name="edits", source="a", value=2.5)]
    got = reward(one, metrics)
    assert got is not None
    assert (got.value, got.weight) == pytest.approx((0.75, 0.2))
    two = [*one, Vote(name="stars", source="b", value=2.0)]
    got = reward(two, metrics)
    assert got is not None
    assert (got.value, got.weight) == pytest.approx(((0.2 * 0.75 + 0.25) / 1.2, 1.0))


def test_a_text_of_ones_own_carries_no_reward() -> None:
    """Whatever weight it has by default, and also where the metric took numbers before."""
    metrics = {"note": Metric(kind="text"), "was-text": Metric()}
    votes = [Vote(name=name, source="a", value="so-so") for name in metrics]
    assert reward(votes, metrics) is None
    assert reward([Vote(name="note", source="a", value=0.5)], metrics) is None


def test_a_value_beyond_a_range_that_was_narrowed_is_clipped() -> None:
    assert reward([Vote(name="m", source="a", value=9.0)], {"m": Metric(low=0, high=3)}) == Reward(
        value=1.0
    )


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("thumb", True, True),
        ("thumb", None, None),
        ("judge", 0, 0.0),
        ("rating", 1, 1.0),
        ("rating", None, None),
        ("comment", "fine\0", "fine\N{REPLACEMENT CHARACTER}"),
        ("comment", "", ""),
    ],
)
def test_good_values(name: str, value: object, kept: FeedbackValue) -> None:
    got = METRICS[name].check(name, value)
    assert got == kept
    assert type(got) is type(kept)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("thumb", 1, TypeError),
        ("thumb", 1.0, TypeError),
        ("thumb", "true", TypeError),
        ("judge", True, TypeError),
        ("judge", "0.8", TypeError),
        ("judge", [0.8], TypeError),
        ("judge", 1.0001, ValueError),
        ("judge", -1e-9, ValueError),
        ("judge", math.nan, ValueError),
        ("judge", math.inf, ValueError),
        ("rating", 10**400, ValueError),
        ("comment", 5, TypeError),
        ("comment", "x" * (COMMENT_LIMIT + 1), ValueError),
    ],
)
def test_bad_values(name: str, value: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        METRICS[name].check(name, value)


def test_bounds_may_be_turned_round() -> None:
    edits = Metric(low=10.0, high=0.0)
    assert edits.check("edits", 10) == 10.0
    assert (edits.score(10.0), edits.score(0.0), edits.score(7.5)) == (0.0, 1.0, 0.25)
    with pytest.raises(ValueError, match="from 0 to 10, got 11"):
        edits.check("edits", 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "stars"}, "kind"),
        ({"weight": 1.5}, "metric weight"),
        ({"weight": -0.1}, "metric weight"),
        ({"weight": True}, "metric weight"),
        ({"low": math.nan}, "metric low"),
        ({"high": "5"}, "metric high"),
        ({"low": 1.0, "high": 1.0}, "both 1"),
        ({"low": -1.7e308, "high": 1.7e308}, "high - low"),
    ],
)
def test_bad_metrics(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Metric(**arguments)  # type: ignore[arg-type]  # that is what is tested


def test_bounds_become_floats() -> None:
    shown = "Metric(kind='number', weight=1.0, low=0.0, high=5.0, limited=True, trust={})"
    assert repr(Metric(low=0, high=5)) == shown


def test_each_source_counts_as_it_is_trusted() -> None:
    fair, fooled = Trust(weight=0.4, slope=2.0, offset=-0.9), Trust(weight=0.8, probed=0.25)
    metrics = {"judge": Metric(weight=0.5, trust={"judge:a": fair, "judge:b": fooled})}

    def one(source: str, value: float) -> Reward | None:
        return reward([Vote(name="judge", source=source, value=value)], metrics)

    assert one("judge:a", 0.7) == Reward(value=pytest.approx(0.5), weight=0.4)
    assert one("judge:a", 0.2) == Reward(value=0.0, weight=0.4)  # what lies outside is cut off
    assert one("judge:b", 0.2) == Reward(value=pytest.approx(0.2), weight=0.2)
    assert one("judge:c", 0.2) == Reward(value=0.2, weight=0.5)
    both = [Vote(name="judge", source=f"judge:{name}", value=0.8) for name in "ab"]
    assert reward(both, metrics) == Reward(
        value=pytest.approx((0.4 * 0.7 + 0.2 * 0.8) / 0.6), weight=pytest.approx(0.6)
    )
    nobody = {"judge": Metric(trust={"*": Trust(weight=0.0)})}
    assert reward(both, nobody) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"weight": 2.0}, "weight"), ({"slope": math.inf}, "slope"), ({"probed": -1.0}, "probed")],
)
def test_bad_trust(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"trust {message}"):
        Trust(**arguments)
    with pytest.raises(SettingsError, match="expected a Trust"):
        Metric(trust={"judge:a": arguments})  # type: ignore[dict-item]  # that is what is tested


def test_find_metric_names_those_there_are() -> None:
    assert find_metric(METRICS, "thumb") is METRICS["thumb"]
    with pytest.raises(ValueError, match="one of comment, judge, rating, thumb, vote, got 'stars'"):
        find_metric(METRICS, "stars")
    with pytest.raises(TypeError, match="name"):
        find_metric(METRICS, 5)
    assert issubclass(SettingsError, ValueError)
