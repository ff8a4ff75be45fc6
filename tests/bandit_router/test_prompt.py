"""What features see of a text, or of messages of any odd shape."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.prompt import Prompt
from bandit_router.values import (
    TEXT_LIMIT,
)

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


@given(json_values | st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": json_values})))
def test_any_json_is_a_prompt_or_a_plain_error(value: object) -> None:
    try:
        prompt = Prompt.of(value)  # type: ignore[arg-type]  # that is what is tested
    except (TypeError, ValueError):
        return
    prompt.text.encode()
    assert prompt.turns >= 1
    assert math.isfinite(prompt.input_tokens)
