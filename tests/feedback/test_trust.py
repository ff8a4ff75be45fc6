"""What is learnt of signals in worlds whose errors are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bandit_router.rewards import Trust
from bandit_router.values import Array
from feedback.overlaps import MIN_OVERLAPS, Overlaps, Signal
from feedback.trust import Finding, learn_trust

MEANS = np.array([0.55, 0.6, 0.65, 0.8])  # of the models
USERS = Signal(name="thumb", source="*", people=True)


def judge(name: str) -> Signal:
    return Signal(name="judge", source=name, weight=0.5, trust=Trust(weight=0.5))


class World:
    """Answers of four models, some thumbs on them, and judges with known errors."""

    def __init__(self, n: int, *, seed: int = 0) -> None:
        self.rng, self.n = np.random.default_rng(seed), n
        self.models = self.rng.integers(len(MEANS), size=n)
        self.truth = np.clip(MEANS[self.models] + self.rng.normal(0, 0.2, n), 0, 1)

    def thumbs(self, share: Array | float) -> Array:
        said = (self.rng.random(self.n) < self.truth).astype(float)
        return np.where(self.rng.random(self.n) < share, said, np.nan)

    def grades(self, error: float, *, slope: float = 1.0, offset: float = 0.0) -> Array:
        return offset + slope * self.truth + self.rng.normal(0, error, self.n)

    def overlaps(self, signals: dict[Signal, Array], *, levels: Array | None = None) -> Overlaps:
        return Overlaps(
            signals=list(signals),
            values=np.stack(list(signals.values()), axis=1),
            models=[f"model-{m}" for m in self.models],
            levels=levels,
        )

    def learn(self, signals: dict[Signal, Array], **options: float) -> dict[str, Finding]:
        learnt = learn_trust(self.overlaps(signals), **options)  # type: ignore[arg-type] # all are numbers
        return {str(finding.signal): finding for finding in learnt.findings}


def test_errors_and_scales_are_recovered() -> None:
    """Standard errors at this size: .02 of a reliability, .015 of an error, .08 of a slope; five of each."""
    world = World(20_000)
    found = world.learn(
        {
            USERS: world.thumbs(0.5),
            judge("a"): world.grades(0.1, slope=0.5, offset=0.4),
            judge("b"): world.grades(0.25),
        }
    )
    spread = float(world.truth.var())
    for name, error in (("judge a", 0.2), ("judge b", 0.25)):
        assert found[name].error == pytest.approx(error, abs=0.04)
        assert found[name].reliability == pytest.approx(spread / (spread + error**2), abs=0.05)
    assert found["judge a"].trust.slope == pytest.approx(2.0, abs=0.25)
    assert found["judge b"].trust.slope == pytest.approx(1.0, abs=0.15)
    for name in ("judge a", "judge b"):
        low, high = found[name].interval
        assert low <= found[name].trust.weight <= high
    means = [
        found["judge a"].trust.reward(float(x)) for x in (0.4 + 0.5 * world.truth.mean(), world.truth[0])
    ]
    assert means[0] == pytest.approx(world.truth.mean(), abs=0.03)
    assert found["thumb"].trust.slope == 1.0
    assert found["thumb"].trust.offset == pytest.approx(0.0, abs=1e-12)


def test_weights_are_ratios_of_reliabilities_to_the_best() -> None:
    world = World(20_000, seed=1)
    found = world.learn({judge(n): world.grades(e) for n, e in (("a", 0.1), ("b", 0.2), ("c", 0.4))})
    best = found["judge a"].reliability
    assert found["judge a"].trust.weight == pytest.approx(0.5, abs=0.01)  # as much as they have now
    for name in ("judge b", "judge c"):
        ratio = found[name].reliability / best
        assert found[name].trust.weight == pytest.approx(0.5 * ratio, abs=0.03)


def test_whoever_says_the_same_of_every_answer_counts_nothing() -> None:
    world = World(4_000, seed=2)
    found = world.learn(
        {
            USERS: world.thumbs(0.5),
            judge("a"): world.grades(0.1),
            judge("constant"): np.full(world.n, 0.9),
            judge("moody"): 0.8 + world.rng.normal(0, 0.05, world.n),
            judge("contrary"): world.grades(0.1, slope=-1.0, offset=1.0),
        }
    )
    for name in ("constant", "moody", "contrary"):
        assert found[f"judge {name}"].trust.weight == 0.0
        assert found[f"judge {name}"].refusal == ""
    assert math.isinf(found["judge constant"].error)
    assert found["judge a"].trust.weight > 0.9


def test_thumbs_that_are_mostly_luck_still_count() -> None:
    """All models are good and alike: a thumb is nearly a coin then, and no user is to blame for that."""
    world = World(8_000, seed=9)
    world.truth = 0.8 + world.rng.normal(0, 0.07, world.n)
    found = world.learn(
        {USERS: world.thumbs(1.0), judge("a"): world.grades(0.1), judge("b"): world.grades(0.1)}
    )
    assert found["thumb"].reliability < 0.06
    assert found["thumb"].trust.weight > 0.02
    assert found["judge a"].trust.slope == pytest.approx(1.0, abs=0.4)


def test_a_judge_that_favours_a_model_loses_weight() -> None:
    world = World(6_000, seed=3)
    favour = np.where(world.models == 1, 0.3, 0.0)
    found = world.learn(
        {
            USERS: world.thumbs(0.5),
            judge("fair"): world.grades(0.15),
            judge("partial"): world.grades(0.15) + favour,
        }
    )
    assert found["judge partial"].bias == pytest.approx(0.13, abs=0.05)  # .3 on one model of four
    assert found["judge fair"].bias < 0.05
    assert found["judge partial"].trust.weight < 0.4 * found["judge fair"].trust.weight


def test_who_grades_the_prompt_and_not_the_answer_counts_nothing() -> None:
    world = World(6_000, seed=4)
    levels = world.rng.normal(0, 0.2, world.n)
    signals = {
        USERS: np.where(world.rng.random(world.n) < world.truth + levels, 1.0, 0.0),
        judge("a"): world.grades(0.15) + levels,
        judge("prompts"): levels + world.rng.normal(0, 0.1, world.n),
    }
    taken_in = learn_trust(world.overlaps(signals)).findings[2]
    assert taken_in.trust.weight > 0.3
    seen_through = learn_trust(world.overlaps(signals, levels=levels)).findings[2]
    assert seen_through.trust.weight == 0.0


def test_scales_survive_that_the_discontent_speak_more_often() -> None:
    world = World(20_000, seed=5)
    found = world.learn(
        {
            USERS: world.thumbs(np.where(world.truth < 0.5, 0.6, 0.1)),
            judge("a"): world.grades(0.1, slope=0.5, offset=0.4),
            judge("b"): world.grades(0.2),
        }
    )
    assert found["judge a"].trust.slope == pytest.approx(2.0, abs=0.4)
    assert found["judge a"].trust.reward(0.4 + 0.5 * 0.7) == pytest.approx(0.7, abs=0.05)


def test_too_few_overlaps_are_refused() -> None:
    world = World(MIN_OVERLAPS - 1)
    found = world.learn({USERS: world.thumbs(1.0), judge("a"): world.grades(0.1)})
    for finding in found.values():
        assert finding.trust == finding.signal.trust
        assert finding.needed == MIN_OVERLAPS
        assert "overlaps" in finding.refusal


def test_where_one_weight_is_not_known_all_stay_as_far_as_they_can() -> None:
    world = World(8 * MIN_OVERLAPS, seed=1)
    found = world.learn(
        {
            USERS: world.thumbs(0.3),
            judge("a"): world.grades(0.2, slope=0.5, offset=0.4),
            judge("b"): world.grades(0.3),
            judge("constant"): np.full(world.n, 0.9),
            judge("guesses"): world.grades(1.5),
        }
    )
    assert found["judge guesses"].trust.weight < 0.3  # whatever is not known, it is not worth a half
    for name in ("thumb", "judge a", "judge b"):
        low, high = found[name].interval
        assert found[name].trust.weight == np.clip(found[name].signal.weight, low, high)
        assert found[name].needed > 8 * MIN_OVERLAPS
        assert "may be anything" in found[name].doubt
    assert found["judge a"].trust.slope > 1.0
    assert found["judge constant"].trust.weight == 0.0


def test_two_judges_cannot_tell_which_is_right() -> None:
    world = World(5_000)
    found = world.learn({judge("a"): world.grades(0.1), judge("b"): world.grades(0.4)})
    assert all("third" in finding.refusal for finding in found.values())


def test_a_chain_of_judges_cannot_tell_either_but_one_beside_three_can() -> None:
    """Of a, b, c and d each two neighbours graded the same answers; nobody knows who of them is right."""
    world = World(6_000)
    part = np.arange(world.n) // 2_000

    def on(wanted: list[int], error: float) -> Array:
        return np.where(np.isin(part, wanted), world.grades(error), np.nan)

    chain = {judge("a"): [0], judge("b"): [0, 1], judge("c"): [1, 2], judge("d"): [2]}
    refused = world.learn({signal: on(wanted, 0.1) for signal, wanted in chain.items()})
    assert all("third" in finding.refusal for finding in refused.values())
    three = {judge(name): world.grades(0.1) for name in "abc"}
    found = world.learn({**three, judge("d"): on([0], 0.4)})["judge d"]
    assert found.error == pytest.approx(0.4, abs=0.08)


def test_judges_without_anything_in_common_are_not_all_wrong() -> None:
    world = World(5_000)
    found = world.learn({judge(name): world.rng.random(world.n) for name in "abc"})
    assert all(finding.trust.weight == 0.5 for finding in found.values())
    assert all("by chance" in finding.refusal for finding in found.values())


def test_users_and_one_judge_need_an_anchor() -> None:
    world = World(20_000, seed=6)
    signals = {USERS: world.thumbs(0.5), judge("a"): world.grades(0.2)}
    unknown = world.learn(signals)["judge a"]
    assert "how reliable one user's word is" in unknown.refusal
    assert unknown.trust == unknown.signal.trust
    thumbs = world.truth.var() / (world.truth.mean() * (1 - world.truth.mean()))
    known = world.learn(signals, reliability=float(thumbs))["judge a"]
    assert known.error == pytest.approx(0.2, abs=0.05)
    assert not learn_trust(world.overlaps(signals)).anchored
    assert learn_trust(world.overlaps(signals), reliability=0.2).anchored


def test_the_order_of_signals_does_not_matter() -> None:
    world = World(2_000, seed=7)
    signals = {
        USERS: world.thumbs(0.4),
        judge("a"): world.grades(0.1),
        judge("b"): world.grades(0.3),
        judge("c"): np.full(world.n, 0.5),
    }
    one = world.learn(signals)
    other = world.learn(dict(reversed(signals.items())))
    for name, finding in one.items():
        assert other[name].refusal == finding.refusal
        assert other[name].trust.weight == pytest.approx(finding.trust.weight, abs=1e-4)
        assert other[name].trust.slope == pytest.approx(finding.trust.slope, abs=1e-3)


def test_what_was_learnt_before_is_not_counted_twice() -> None:
    world = World(1_500, seed=8)
    values = [world.thumbs(0.5), world.grades(0.15), world.grades(0.2)]
    first = world.learn(dict(zip([USERS, judge("a"), judge("b")], values, strict=True)))
    signals = [replace(finding.signal, trust=finding.trust) for finding in first.values()]
    again = world.learn(dict(zip(signals, values, strict=True)))
    assert [f.trust for f in again.values()] == [f.trust for f in first.values()]
    assert not any(f.refusal for f in first.values())


@pytest.mark.parametrize("reliability", [0.0, 1.0, 1.5, math.nan])
def test_an_impossible_reliability(reliability: float) -> None:
    world = World(100)
    with pytest.raises(ValueError, match="reliability"):
        world.learn({USERS: world.thumbs(1.0), judge("a"): world.grades(0.1)}, reliability=reliability)


def test_nothing_at_all() -> None:
    nothing = Overlaps(signals=[USERS], values=np.ones((0, 1)), models=[])
    assert learn_trust(nothing).findings[0].trust == USERS.trust
