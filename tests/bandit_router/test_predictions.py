"""Running predictions of tokens, cost and latency: they commute, fade and travel without loss."""

from __future__ import annotations

import contextlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_router.errors import FormatError
from bandit_router.events import Model, Outcome
from bandit_router.predictions import ANSWER_TOKENS, HALF_LIFE, Forecast, Predictions, contribution
from bandit_router.prompt import Prompt

SMALL = Model("small", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
LARGE = Model("large", input_usd_per_mtok=10.0, output_usd_per_mtok=20.0)
FREE = Model("free")
TOKENS = Prompt(text="x" * 396).input_tokens  # 99 + 4 = 103
NOW = 1.77e9

Told = tuple[str, Outcome, float, float]  # model, outcome, guessed tokens, moment


def told(*many: Told) -> Predictions:
    predictions = Predictions()
    for model, outcome, guessed, at in many:
        predictions.add(model, contribution(outcome, guessed), at=at)
    return predictions


def amounts(predictions: Predictions) -> dict[str, list[float]]:
    forecast = predictions.forecast([SMALL, LARGE, FREE], TOKENS, max_tokens=500)
    return {name: getattr(forecast, name).tolist() for name in Forecast.__slots__}


outcomes = st.builds(
    Outcome,
    input_tokens=st.none() | st.integers(0, 10_000),
    output_tokens=st.none() | st.integers(0, 10_000),
    cost_usd=st.none() | st.floats(1e-6, 10),
    latency_s=st.none() | st.floats(0.01, 100),
    error=st.sampled_from([None, None, "timeout"]),
)
tellings = st.lists(
    st.tuples(
        st.sampled_from(["small", "large", "free"]),
        outcomes,
        st.floats(1, 10_000),
        st.floats(NOW, NOW + 100 * HALF_LIFE),
    ),
    max_size=8,
)


def test_one_overhead_does_not_blow_up_a_long_prompt() -> None:
    """A chat adds a system prompt that the router does not see; that must not count for each token."""
    told = Predictions()
    short, long = Prompt(text="x" * 24), Prompt(text="x" * 200_000)
    told.add(
        "large", contribution(Outcome(input_tokens=812, output_tokens=240), short.input_tokens), at=NOW
    )
    model = Model("large", input_usd_per_mtok=2.5)
    (cost,) = told.forecast([model], long.input_tokens).cost_usd
    expected = model.cost_usd(long.input_tokens + 812 - short.input_tokens, 240)
    assert cost == pytest.approx(expected)


def test_before_any_outcome() -> None:
    forecast = Predictions().forecast([SMALL, LARGE], TOKENS)
    tokens = (TOKENS, ANSWER_TOKENS)
    np.testing.assert_allclose(forecast.cost_usd, [SMALL.cost_usd(*tokens), LARGE.cost_usd(*tokens)])
    np.testing.assert_array_equal(forecast.worst_usd, forecast.cost_usd)
    assert forecast.latency_s.tolist() == [0.0, 0.0]


def test_tokens_times_prices_by_hand() -> None:
    outcome = Outcome(input_tokens=200, output_tokens=50, latency_s=2.0)
    forecast = told(("small", outcome, 100.0, NOW)).forecast([SMALL, LARGE], TOKENS, max_tokens=1_000)
    # small adds 100 tokens to what we guess; large is thought to answer as long as its sibling.
    np.testing.assert_allclose(forecast.cost_usd, [(203 + 2 * 50) / 1e6, (1030 + 20 * 50) / 1e6])
    np.testing.assert_allclose(forecast.worst_usd, [(203 + 2_000) / 1e6, (1030 + 20_000) / 1e6])
    assert forecast.latency_s.tolist() == [2.0, 2.0]


def test_what_was_paid_counts_where_tokens_tell_nothing() -> None:
    paid = told(("free", Outcome(cost_usd=0.5), 10.0, NOW), ("small", Outcome(cost_usd=0.3), 10.0, NOW))
    np.testing.assert_allclose(paid.forecast([FREE, SMALL], TOKENS).cost_usd, [0.5, 0.3])
    tokens = told(("small", Outcome(cost_usd=0.3, output_tokens=0), 10.0, NOW))
    np.testing.assert_allclose(tokens.forecast([SMALL], TOKENS).cost_usd, [103e-6])


def test_a_failed_call_tells_nothing() -> None:
    failed = Outcome(input_tokens=5, output_tokens=5, cost_usd=9.0, latency_s=60.0, error="timeout")
    assert amounts(told(("small", failed, 10.0, NOW))) == amounts(Predictions())


def test_old_calls_fade() -> None:
    slow, fast = Outcome(latency_s=10.0), Outcome(latency_s=1.0)
    later = told(("small", slow, 1.0, NOW), ("small", fast, 1.0, NOW + HALF_LIFE))
    assert later.forecast([SMALL], TOKENS).latency_s[0] == pytest.approx((0.5 * 10 + 1) / 1.5)


@given(tellings, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_predictions(many: list[Told], random: object) -> None:
    shuffled = list(many)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it as random.Random
    mine, theirs = amounts(told(*shuffled)), amounts(told(*many))
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-9)


@given(tellings, outcomes, outcomes, st.floats(0, 20))
def test_an_outcome_is_replaced(many: list[Told], old: Outcome, new: Outcome, age: float) -> None:
    """The old contribution subtracted and the new one added is the new one alone."""
    at = NOW + 90 * HALF_LIFE + age * HALF_LIFE
    replaced = told(*many)
    for outcome, sign in ((old, 1.0), (old, -1.0), (new, 1.0)):
        replaced.add("small", contribution(outcome, 50.0), at=at, sign=sign)
    wanted = told(*many, ("small", new, 50.0, at))
    mine, theirs = amounts(replaced), amounts(wanted)
    if new.error is None and None not in (new.output_tokens, new.input_tokens, new.latency_s):
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-6)


@pytest.mark.parametrize("apart", [0.0, 0.3 * HALF_LIFE])
def test_what_is_retracted_leaves_nothing_behind(apart: float) -> None:
    kept = Outcome(input_tokens=10, latency_s=3.0)
    predictions = told(("small", kept, 10.0, NOW + 50 * apart))
    for sign in (1.0, -1.0):
        for i in range(50):
            outcome = Outcome(input_tokens=i, output_tokens=7 * i, latency_s=0.1 * i, cost_usd=0.1 * i)
            predictions.add("small", contribution(outcome, 10.0), at=NOW + i * apart, sign=sign)
    wanted = amounts(told(("small", kept, 10.0, NOW + 50 * apart)))
    for name, values in amounts(predictions).items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_does_not_get_in(bad: float) -> None:
    for name in ("cost_usd", "latency_s", "ttft_s"):
        with pytest.raises(ValueError, match=name):
            Outcome(**{name: bad})
    assert np.isfinite(contribution(Outcome(input_tokens=5), math.nan)).all()


@given(tellings)
def test_bytes_give_the_same_sums_to_the_bit(many: list[Told]) -> None:
    predictions = told(*many)
    data = predictions.to_bytes()
    again = Predictions.from_bytes(data)
    assert again.to_bytes() == data
    assert (again.epoch, list(again.sums)) == (predictions.epoch, list(predictions.sums))
    again.add("große", contribution(Outcome(latency_s=1.0), 1.0), at=NOW)  # its arrays are its own
    assert predictions.to_bytes() == data


VALID_1 = b"BRPR" + struct.pack("<HHq", 1, 1, 2926) + struct.pack("<H", 5) + b"small"
VALID_1 += np.array([2.0, 2.0, 100.0, *[0.0] * 7, 2.0, 0.0, 0.0, 0.0]).tobytes()
_SOME = told(
    ("small", Outcome(input_tokens=5, output_tokens=5, latency_s=1.0), 4.0, NOW),
    ("große", Outcome(cost_usd=1.0), 4.0, NOW),
)
_SOME.add(
    "small",
    contribution(Outcome(output_tokens=7), 4.0),
    at=NOW,
    x=np.array([1.0, 0.5]),
)
VALID = _SOME.to_bytes()


def test_bytes_of_the_first_version_predict_means() -> None:
    known = Predictions.from_bytes(VALID_1)
    known.amounts.fit(at=NOW)
    forecast = known.forecast([SMALL], TOKENS, x=np.array([1.0, 0.5]))
    np.testing.assert_allclose(forecast.cost_usd, [(103 + 2 * 50) / 1e6])
    assert Predictions.from_bytes(known.to_bytes()).to_bytes() == known.to_bytes()


def test_a_prompt_that_makes_one_model_wordy_makes_all_wordy() -> None:
    """Ten times the tokens where the feature is set; a model that never met it is thought to do the same."""
    known = Predictions()
    for i in range(200):
        x, tokens = np.array([1.0, i % 2]), 1_000 if i % 2 else 100
        known.add("small", contribution(Outcome(output_tokens=tokens), 10.0), at=NOW, x=x)
        plain = contribution(Outcome(output_tokens=200), 10.0)
        known.add("large", plain, at=NOW, x=np.array([1.0, 0.0]))
    known.amounts.fit(at=NOW)
    short, long = (known.forecast([SMALL, LARGE], 0.0, x=np.array([1.0, f])) for f in (0.0, 1.0))
    np.testing.assert_allclose(short.cost_usd[0], SMALL.cost_usd(0, 100), rtol=0.1)
    np.testing.assert_allclose(long.cost_usd[0], SMALL.cost_usd(0, 1_000), rtol=0.1)
    assert long.cost_usd[1] > 1.5 * short.cost_usd[1]


def test_an_answer_is_not_thought_longer_than_it_may_be() -> None:
    known = told(("small", Outcome(output_tokens=500), 10.0, NOW))
    forecast = known.forecast([SMALL], 10.0, max_tokens=100)
    assert forecast.cost_usd.tolist() == forecast.worst_usd.tolist() == [SMALL.cost_usd(10, 100)]


def test_the_worst_case_grows_with_max_tokens_where_there_is_no_list_price() -> None:
    """Whatever the two prices are that nobody knows: here, in turn, only output and only input cost."""
    outcome = Outcome(input_tokens=100, output_tokens=50, cost_usd=0.5)
    known = told(("free", outcome, 100.0, NOW))
    unlimited = known.forecast([FREE], 100.0)
    assert unlimited.worst_usd.tolist() == unlimited.cost_usd.tolist()
    for guessed, most, times in ((100.0, 200, 4.0), (1_000.0, 200, 10.0), (10.0, 10, 1.0)):
        (worst,) = known.forecast([FREE], guessed, max_tokens=most).worst_usd
        assert worst == pytest.approx(times * 0.5)


def test_the_worst_case_without_told_tokens_takes_the_mean_answer_to_be_as_of_others() -> None:
    known = told(("free", Outcome(cost_usd=0.5), 100.0, NOW))
    (worst,) = known.forecast([FREE], 100.0, max_tokens=round(4 * ANSWER_TOKENS)).worst_usd
    assert worst == pytest.approx(2.0)
    priced = told(("small", Outcome(cost_usd=1e-6), 100.0, NOW)).forecast(
        [SMALL], 10.0, max_tokens=1_000
    )
    assert priced.worst_usd == pytest.approx(
        SMALL.cost_usd(10, 1_000)
    )  # a list price says what a token costs


@given(tellings, st.integers(1, 10_000), st.integers(0, 10_000))
def test_the_worst_case_is_no_less_than_expected_and_grows(
    many: list[Told], least: int, more: int
) -> None:
    known = told(*many)
    models = [SMALL, LARGE, FREE]
    tight, loose = (known.forecast(models, TOKENS, max_tokens=n) for n in (least, least + more))
    assert (tight.worst_usd >= tight.cost_usd).all()
    assert (loose.worst_usd >= tight.worst_usd * (1 - 1e-12)).all()


def test_a_call_with_a_longer_answer_takes_longer() -> None:
    """Half of the time that a call takes goes as its answer is long, by prompt and by `max_tokens`."""
    known = Predictions()
    for i in range(200):
        x, tokens = np.array([1.0, i % 2]), 300 if i % 2 else 100
        outcome = Outcome(output_tokens=tokens, latency_s=2.0)
        known.add("small", contribution(outcome, 10.0), at=NOW, x=x)
    known.amounts.fit(at=NOW)
    short, long = (known.forecast([SMALL], 0.0, x=np.array([1.0, f])).latency_s for f in (0.0, 1.0))
    np.testing.assert_allclose([*short, *long], [1.5, 2.5], rtol=0.05)
    assert known.forecast([SMALL], 0.0, max_tokens=50).latency_s == pytest.approx(2.0 * (1 - 0.5 * 0.75))
    timed = told(("small", Outcome(latency_s=2.0), 10.0, NOW))
    assert timed.forecast([SMALL], 0.0, max_tokens=50).latency_s.tolist() == [2.0]  # no length was told


def test_a_price_cut_acts_at_once() -> None:
    known = told(("small", Outcome(output_tokens=500, cost_usd=1e-3), 10.0, NOW))
    cheap = Model("small", input_usd_per_mtok=0.1, output_usd_per_mtok=0.2)
    dear, cut = (known.forecast([model], TOKENS).cost_usd for model in (SMALL, cheap))
    np.testing.assert_allclose(cut, 0.1 * dear)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_a_format_error_and_nothing_else(data: bytes) -> None:
    for header in (b"", VALID[:4], VALID[:6], VALID[:16]):
        with contextlib.suppress(FormatError):
            Predictions.from_bytes(header + data)


@settings(max_examples=200)
@given(st.data())
def test_damaged_bytes_are_a_format_error_and_nothing_else(data: st.DataObject) -> None:
    at, removed = data.draw(st.integers(0, len(VALID))), data.draw(st.integers(0, 12))
    damaged = VALID[:at] + data.draw(st.binary(max_size=12)) + VALID[at + removed :]
    with contextlib.suppress(FormatError):
        amounts(Predictions.from_bytes(damaged))


def test_truncated_longer_and_newer_bytes_are_refused() -> None:
    for length in range(len(VALID)):
        with pytest.raises(FormatError, match="predictions"):
            Predictions.from_bytes(VALID[:length])
    for other in (VALID + b"\0", VALID[:4] + struct.pack("<H", 3) + VALID[6:]):
        with pytest.raises(FormatError, match="predictions"):
            Predictions.from_bytes(other)
    twice = VALID_1[:6] + struct.pack("<H", 2) + VALID_1[8:] + VALID_1[16:]
    with pytest.raises(FormatError, match="predictions"):
        Predictions.from_bytes(twice)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bytes_of_sums_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(FormatError, match="finite"):
        Predictions.from_bytes(VALID_1[:-8] + struct.pack("<d", bad))


def test_what_was_known_before_is_kept_apart_and_unlearnt_where_it_is_wrong() -> None:
    """An evaluation that took the models for each other is believed at first, and then not at all.

    Fifty answers of one model cast doubt on what was said of the other, too.
    """
    rng = np.random.default_rng(0)

    def answers(predictions: Predictions, model: str, tokens: int, n: int) -> None:
        for _ in range(n):
            x, said = np.array([1.0, rng.normal()]), Outcome(output_tokens=int(rng.poisson(tokens)))
            predictions.add(model, contribution(said, 10.0), at=NOW, x=x)
        predictions.amounts.fit(at=NOW)

    before = Predictions()
    answers(before, "small", 1_000, 200)
    answers(before, "large", 50, 200)
    warm, bytes_before = Predictions(known=before), before.to_bytes()
    warm.amounts.fit(at=NOW)
    x = np.array([1.0, 0.0])
    small, large = warm.forecast([SMALL, LARGE], 0.0, x=x).cost_usd
    assert small == pytest.approx(SMALL.cost_usd(0, 1_000), rel=0.05)
    assert large == pytest.approx(LARGE.cost_usd(0, 50), rel=0.05)
    answers(warm, "small", 50, 50)
    assert warm.amounts.power == 0.0
    small, large = warm.forecast([SMALL, LARGE], 0.0, x=x).cost_usd
    assert small == pytest.approx(SMALL.cost_usd(0, 50), rel=0.1)
    assert large == pytest.approx(LARGE.cost_usd(0, 50), rel=0.1)  # as its sibling
    assert before.to_bytes() == bytes_before
    assert set(Predictions.from_bytes(warm.to_bytes()).sums) == {"small"}


def test_what_was_known_is_a_part_of_the_means() -> None:
    before = told(("small", Outcome(output_tokens=500, latency_s=1.0), 10.0, NOW))
    warm = Predictions(known=before)
    assert amounts(warm) == amounts(before)
    warm.add("small", contribution(Outcome(output_tokens=100, latency_s=3.0), 10.0), at=NOW)
    forecast = warm.forecast([SMALL], 0.0)
    assert forecast.latency_s[0] == pytest.approx(2.0)
    assert forecast.cost_usd[0] == pytest.approx(SMALL.cost_usd(0, 300))
