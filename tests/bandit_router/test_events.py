"""The doors: what comes in is checked once, and what is wrong says what was wanted."""

from __future__ import annotations

import math
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.events import Candidate, Decision, Model, Outcome, id_time, new_id
from bandit_router.prompt import Prompt
from bandit_router.values import (
    AMOUNT_LIMIT,
    COUNT_LIMIT,
    NAME_LIMIT,
    TEXT_LIMIT,
    check_amount,
    check_count,
    check_name,
    check_number,
    check_time,
    check_unit,
    check_vector,
    clean_text,
    utc,
)

JUNK = [None, True, False, "", "1", b"1", [], {}, object(), 1j, np.bool_(True), np.complex128(1)]
VERSION_4 = "9b2d0b9e-0b5f-4d0e-8c55-5f4d0d0d3c11"
HUGE = pytest.param(10**400, id="huge")
LONG = pytest.param(-(10**5_000), id="longer than python prints")


@given(st.floats(0, 4e9), st.floats(0.001, 1e6))
def test_ids_made_later_sort_later(at: float, apart: float) -> None:
    first, second = new_id(at), new_id(at + apart + 0.001)
    assert first < second
    assert uuid.UUID(first).version == uuid.UUID(second).version == 7
    assert uuid.UUID(first).variant == uuid.RFC_4122
    assert id_time(first) == pytest.approx(at, abs=0.00101)


def test_ids_are_of_now_and_of_their_own() -> None:
    before = time.time()
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    for one in ids:
        assert before - 0.001 <= (id_time(one) or 0.0) <= time.time()


@pytest.mark.parametrize("other", ["", "x", VERSION_4, "0" * 32, "é" * 36, VERSION_4[:-1]])
def test_another_id_carries_no_time(other: str) -> None:
    assert id_time(other) is None


@pytest.mark.parametrize("name", ["a", "gpt-4o", "user:42", "größe 5", "模型", "x" * NAME_LIMIT])
def test_good_names(name: str) -> None:
    assert check_name("user", name) == name


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        *((junk, TypeError) for junk in (None, 5, b"a", ["a"], True)),
        *((text, ValueError) for text in ("", "x" * (NAME_LIMIT + 1), "a\nb", "\0", "\ud800", "\u202e")),
    ],
)
def test_bad_names(bad: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^user: expected"):
        check_name("user", bad)


@pytest.mark.parametrize("good", [0, 1, -1.5, np.float32(0.5), np.int64(7), np.float64(2), 1e300])
def test_good_numbers(good: float) -> None:
    assert check_number("n", good) == float(good)
    assert type(check_number("n", good)) is float


@pytest.mark.parametrize("check", [check_number, check_unit, check_amount])
@pytest.mark.parametrize("junk", JUNK)
def test_what_is_no_number(check: object, junk: object) -> None:
    with pytest.raises(TypeError, match=r"^n: expected a number, got "):
        check("n", junk)  # type: ignore[operator]  # one of three functions


@pytest.mark.parametrize("check", [check_number, check_unit, check_amount])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), HUGE, LONG])
def test_numbers_that_are_not_finite(check: object, bad: float) -> None:
    with pytest.raises(ValueError, match=r"^n: expected a finite number"):
        check("n", bad)  # type: ignore[operator]  # one of three functions


def test_ranges() -> None:
    assert [check_unit("u", value) for value in (0, 0.5, 1)] == [0.0, 0.5, 1.0]
    assert [check_amount("a", value) for value in (0, 0.5, AMOUNT_LIMIT)] == [0.0, 0.5, AMOUNT_LIMIT]
    assert [check_count("c", value) for value in (0, np.int32(5), COUNT_LIMIT)] == [0, 5, COUNT_LIMIT]
    for bad in (-1e-9, 1 + 1e-9):
        with pytest.raises(ValueError, match=r"u: expected a number from 0 to 1, got"):
            check_unit("u", bad)
    for bad in (-1e-9, 1.01e12):
        with pytest.raises(ValueError, match=r"a: expected a number from 0 to 1e\+12, got"):
            check_amount("a", bad)
    for wrong in (-1, COUNT_LIMIT + 1):
        with pytest.raises(ValueError, match=r"c: expected a whole number from 0"):
            check_count("c", wrong)


@pytest.mark.parametrize("junk", [*JUNK, 1.0, math.nan, np.float64(5)])
def test_what_is_no_count(junk: object) -> None:
    with pytest.raises(TypeError, match="c: expected a whole number, got "):
        check_count("c", junk)


@pytest.mark.parametrize(
    "good", [[1, 2], (1.0, 2.0), np.array([1, 2], np.int8), np.array([1, 2], np.float16)]
)
def test_good_vectors(good: object) -> None:
    vector = check_vector("x", good, 2)
    assert vector.dtype == np.float64
    assert vector.tolist() == [1.0, 2.0]
    assert not vector.flags.writeable


def test_a_vector_is_a_copy() -> None:
    given_ = np.array([1.0, 2.0])
    vector = check_vector("x", given_)
    given_[0] = 9.0
    assert vector[0] == 1.0
    assert given_.flags.writeable


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0], r"expected shape \(2,\), got \(1,\)"),
        ([[1.0, 2.0]], r"got \(1, 2\)"),
        (5.0, r"got \(\)"),
        ([], r"got \(0,\)"),
        ([1.0, math.nan], "expected finite numbers, got nan"),
        ([1.0, -math.inf], "expected finite numbers, got -inf"),
        ([1.0, [2.0]], "vector of numbers"),
        ([1.0, None], "vector of numbers"),
        (["1", "2"], "vector of numbers"),
        ([True, False], "vector of numbers"),
        ([1j, 0], "vector of numbers"),
        ([10**400, 0], "vector of numbers"),
        ("12", "vector of numbers"),
        (b"12", "vector of numbers"),
        (None, "vector of numbers"),
        ({1: 2}, "vector of numbers"),
        ({1, 2}, "vector of numbers"),
        (object(), "vector of numbers"),
        (np.array(["2026-01-01", "2026-01-02"], "M8[D]"), "vector of numbers"),
    ],
)
def test_bad_vectors(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^x: .*{message}"):
        check_vector("x", bad, 2)


def test_times() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert check_time("at", noon, 5.0) == noon.timestamp()
    assert check_time("at", noon.astimezone(timezone(timedelta(hours=9))), 5.0) == noon.timestamp()
    assert check_time("at", None, 5.0) == 5.0
    assert check_time("at", 1.23456789, 5.0) == 1.234568
    for text in ("2026-07-01T12:00:00Z", "2026-07-01T21:00:00.000000+09:00"):
        assert check_time("at", text, 5.0) == noon.timestamp()
    assert utc(check_time("at", noon, 5.0)) == noon
    assert utc(check_time("at", 253402300799.0, 5.0)).year == 9999


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (datetime(2026, 7, 1), ValueError, "with a zone"),
        (-1, ValueError, "1970 to 9999"),
        (253402300800, ValueError, "1970 to 9999"),
        (datetime(1, 1, 1, tzinfo=UTC), ValueError, "1970 to 9999"),
        (math.nan, ValueError, "finite"),
        pytest.param(10**400, ValueError, "finite", id="huge"),
        (True, TypeError, "number"),
        (b"2026-07-01", TypeError, "number"),
        ("yesterday", ValueError, "RFC 3339"),
        ("", ValueError, "RFC 3339"),
        ("2026-07-01T12:00:00", ValueError, "with a zone"),
        ("1969-07-01T12:00:00Z", ValueError, "1970 to 9999"),
    ],
)
def test_bad_times(bad: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^at: .*{message}"):
        check_time("at", bad, 5.0)  # type: ignore[arg-type]  # that is what is tested


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_can_be_encoded(text: str) -> None:
    cleaned = clean_text("text", text)
    cleaned.encode()
    assert "\0" not in cleaned
    assert len(cleaned) <= len(text)
    assert clean_text("text", cleaned) == cleaned


def test_a_good_text_stays() -> None:
    for text in ("", "plain", "größe 模型 🚀", "\N{BYTE ORDER MARK}x"):
        assert clean_text("text", text) == text
    assert clean_text("text", "a\0\ud83d\ude00\udc00b") == "a\ufffd\N{GRINNING FACE}\ufffdb"
    with pytest.raises(ValueError, match="at most 3 characters, got 4"):
        clean_text("text", "abcd", 3)
    with pytest.raises(TypeError, match="got bytes"):
        clean_text("text", b"abc")


def test_prompt_of_a_text() -> None:
    assert Prompt.of("Hi") == Prompt(text="Hi")
    assert Prompt.of("") == Prompt(text="")
    assert Prompt.of("\ud800").text == "\ufffd"
    with pytest.raises(ValueError, match="prompt: expected at most"):
        Prompt.of("x" * (TEXT_LIMIT + 1))


def test_prompt_sees_the_last_user_turn_and_counts_the_rest() -> None:
    prompt = Prompt.of(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
            {"role": "user", "content": "First"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}, {"id": "2"}]},
            {"role": "tool", "content": "42", "tool_call_id": "1"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is"},
                    {"type": "image_url", "image_url": {"url": "data:..."}},
                    {"type": "input_image"},
                    {"type": "text", "text": "this?"},
                ],
            },
            {"role": "assistant", "content": "Well"},
        ]
    )
    assert prompt == Prompt(
        text="What is\nthis?", turns=7, other_chars=9 + 9 + 5 + 2 + 4, system_chars=18, images=2, tools=3
    )
    assert prompt.input_tokens == (13 + 29) / 4 + 4 * 7 + 800 * 2


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([{"role": "system", "content": "Be brief."}], Prompt(text="Be brief.")),
        (({"role": "user", "content": "Hi"},), Prompt(text="Hi")),
        ([{"role": "user"}], Prompt(text="")),
        ([{"role": "user", "content": []}], Prompt(text="")),
        ([{"role": "user", "content": [{}]}], Prompt(text="")),
        ([{"role": "user", "content": [{"type": None, "text": {"a": 1}}]}], Prompt(text="")),
        ([{"role": "user", "content": [{"type": 5, "text": None}, {"text": "Hi"}]}], Prompt(text="Hi")),
        ([{"role": "user", "content": "Hi", "tool_calls": 5}], Prompt(text="Hi")),
        ([{"role": "user", "content": "Hi", "tool_calls": {"a": 1}}], Prompt(text="Hi")),
        ([{"role": "user", "content": "\ud800"}], Prompt(text="\ufffd")),
        ([{"role": "function", "content": "Hi"}], Prompt(text="Hi", tools=1)),
        ([{"role": "user", "content": [{"type": "tool_result"}]}], Prompt(text="", tools=1)),
    ],
)
def test_prompt_of_odd_messages(messages: list[dict[str, object]], wanted: Prompt) -> None:
    assert Prompt.of(messages) == wanted


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        (None, TypeError, "prompt: expected a text or a list of messages, got NoneType"),
        (5, TypeError, "prompt: "),
        (b"Hi", TypeError, "prompt: .*got bytes"),
        (bytearray(b"Hi"), TypeError, "prompt: .*got bytearray"),
        ({"role": "user", "content": "Hi"}, TypeError, "prompt: .*got dict"),
        (iter([{"role": "user"}]), TypeError, "prompt: "),
        ([], ValueError, "messages: expected at least one message, got none"),
        (["Hi"], TypeError, r"messages\[0\]: expected an object, got str"),
        ([{"role": "user"}, None], TypeError, r"messages\[1\]: expected an object, got NoneType"),
        ([[{"role": "user"}]], TypeError, r"messages\[0\]: expected an object, got list"),
        ([{}], ValueError, r"messages\[0\].role: expected a text, got None"),
        ([{"role": ""}], ValueError, r"messages\[0\].role"),
        ([{"role": 5}], ValueError, r"messages\[0\].role"),
        ([{"role": "user", "content": 5}], TypeError, r"messages\[0\].content: .*got int"),
        ([{"role": "user", "content": b"Hi"}], TypeError, r"messages\[0\].content: .*got bytes"),
        ([{"role": "user", "content": {"text": "Hi"}}], TypeError, r"messages\[0\].content: .*got dict"),
        ([{"role": "user", "content": ["Hi"]}], TypeError, r"messages\[0\].content\[0\]: .*got str"),
        (
            [{"role": "user", "content": [{}, [{}]]}],
            TypeError,
            r"messages\[0\].content\[1\]: .*got list",
        ),
        (
            [{"role": "user", "content": "x" * (TEXT_LIMIT + 1)}],
            ValueError,
            "messages: expected at most",
        ),
    ],
)
def test_what_is_no_prompt(prompt: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Prompt.of(prompt)  # type: ignore[arg-type]  # that is what is tested


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=5)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "image_url"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values | st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": json_values})))
def test_any_json_is_a_prompt_or_a_plain_error(value: object) -> None:
    try:
        prompt = Prompt.of(value)  # type: ignore[arg-type]  # that is what is tested
    except (TypeError, ValueError):
        return
    prompt.text.encode()
    assert prompt.turns >= 1
    assert math.isfinite(prompt.input_tokens)


def test_models() -> None:
    model = Model("small", input_usd_per_mtok=1, context_tokens=np.int64(8))
    assert repr(model) == (
        "Model(name='small', input_usd_per_mtok=1.0, output_usd_per_mtok=0.0, context_tokens=8)"
    )
    assert Model("m", input_usd_per_mtok=2.0, output_usd_per_mtok=4.0).cost_usd(500_000, 250_000) == 2.0


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"name": ""}, ValueError, "model name"),
        ({"name": 5}, TypeError, "model name"),
        ({"input_usd_per_mtok": -1}, ValueError, "input_usd_per_mtok"),
        ({"output_usd_per_mtok": math.nan}, ValueError, "output_usd_per_mtok"),
        ({"input_usd_per_mtok": True}, TypeError, "input_usd_per_mtok"),
        ({"context_tokens": 0}, ValueError, "context_tokens: expected at least 1"),
        ({"context_tokens": 1.5}, TypeError, "context_tokens"),
        ({"context_tokens": True}, TypeError, "context_tokens"),
    ],
)
def test_bad_models(arguments: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Model(**{"name": "small", **arguments})  # type: ignore[arg-type]  # that is what is tested


def test_outcomes() -> None:
    outcome = Outcome(input_tokens=np.int64(5), cost_usd=1, error="time\0out")
    assert type(outcome.input_tokens) is int
    assert type(outcome.cost_usd) is float
    assert outcome.error == "time\ufffdout"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"model": ""}, ValueError),
        ({"model": 5}, TypeError),
        ({"input_tokens": -1}, ValueError),
        ({"input_tokens": 1.0}, TypeError),
        ({"output_tokens": True}, TypeError),
        ({"output_tokens": COUNT_LIMIT + 1}, ValueError),
        ({"cost_usd": -0.1}, ValueError),
        ({"cost_usd": "1"}, TypeError),
        ({"latency_s": math.nan}, ValueError),
        ({"ttft_s": math.inf}, ValueError),
        ({"ttft_s": True}, TypeError),
        ({"error": 500}, TypeError),
    ],
)
def test_bad_outcomes(arguments: dict[str, object], kind: type[Exception]) -> None:
    (name,) = arguments
    with pytest.raises(kind, match=rf"^{name}: expected"):
        Outcome(**arguments)  # type: ignore[arg-type]  # that is what is tested


def test_a_decision_tells_its_probabilities() -> None:
    decision = Decision(
        id=new_id(),
        router="default",
        model="small",
        probability=0.75,
        reason="exploit",
        policy="greedy",
        candidates=(
            Candidate(model="small", probability=0.75, mean=0.5, std=0.1, cost_usd=0.01),
            Candidate(model="large", probability=0.25, mean=0.6, std=0.1),
        ),
        at=0.0,
        features=np.ones(1),
        features_version="hashed-1",
    )
    assert decision.probabilities == {"small": 0.75, "large": 0.25}
    assert decision.predicted_usd == 0.01
