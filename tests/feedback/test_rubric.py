"""The rubric: a grade is read from exactly one JSON object; what is graded stands between marks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.rubric import MalformedGradeError, Rubric

MARK = "0123456789abcdef"
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("scale", "reply", "grade"),
    [
        ("1-5", '{"grade": 1}', 0.0),
        ("1-5", '{"grade": 3}', 0.5),
        ("1-5", ' \n{"grade": 4.5}\n', 0.875),
        ("1-5", '{"reason": "It is right. {\\"grade\\": 1}", "grade": 5}', 1.0),
        ("1-5", '```json\n{"grade": 2}\n```', 0.25),
        ("1-5", '```\n{"grade": 2}\n```\n', 0.25),
        ("0-1", '{"grade": 0}', 0.0),
        ("0-1", '{"grade": 0.25}', 0.25),
        ("0-1", '{"grade": 1e0}', 1.0),
    ],
)
def test_a_grade_is_read(scale: str, reply: str, grade: float) -> None:
    assert Rubric(scale=scale).read(reply) == grade


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "4",
        '"4"',
        "[4]",
        '[{"grade": 4}]',
        "null",
        "{}",
        '{"grade": null}',
        '{"grade": "4"}',
        '{"grade": true}',
        '{"grade": [4]}',
        '{"grade": {"grade": 4}}',
        '{"grade": NaN}',
        '{"grade": Infinity}',
        '{"grade": 1e999}',
        '{"grade": 6}',
        '{"grade": 0.99}',
        '{"grade": -4}',
        '{"grade": 6/5}',
        '{"grade": "6/5"}',
        '{"grade": 4,}',
        "{'grade': 4}",
        '{"Grade": 4}',
        '{"score": 4}',
        '{"grade": 4, "score": 1}',
        '{"grade": 4, "reason": 5}',
        '{"grade": 1, "grade": 5}',
        '{"grade": 4} {"grade": 4}',
        '{"grade": 4}\n{"grade": 5}',
        'The grade is {"grade": 4}',
        '{"grade": 4} because it is right',
        '```json\n{"grade": 4}\n``` done',
        '```json\n{"grade": 4}\n```\n```json\n{"grade": 5}\n```',
        '{"grade": ' + "9" * 10_000 + "}",
        '{"grade": ' + "[" * 100_000,
        '\ufeff{"grade": 4}',
        '{"grade": 4',
        '{"grade": ٤}',
    ],
    ids=lambda reply: f"{reply:.40}",
)
def test_anything_else_is_malformed(reply: str) -> None:
    with pytest.raises(MalformedGradeError):
        Rubric().read(reply)


@given(st.text() | json_values.map(json.dumps) | st.dictionaries(st.text(), json_values).map(json.dumps))
def test_whatever_comes_is_a_grade_or_malformed(reply: str) -> None:
    try:
        assert 0.0 <= Rubric().read(reply) <= 1.0
    except MalformedGradeError:
        return


@given(st.floats(1, 5), st.text().filter(str.strip))
def test_a_grade_with_anything_around_it_is_malformed(grade: float, around: str) -> None:
    reply = json.dumps({"grade": grade})
    assert Rubric().read(reply) == (grade - 1) / 4
    for text in (around + reply, reply + around):
        with pytest.raises(MalformedGradeError):
            Rubric().read(text)


@pytest.mark.parametrize(
    "reply", ["SECRET", '{"grade": "SECRET"}', '{"SECRET": 1}', '{"grade": 1, "SECRET": 1}']
)
def test_an_error_quotes_nothing(reply: str) -> None:
    with pytest.raises(MalformedGradeError) as caught:
        Rubric().read(reply)
    assert "SECRET" not in str(caught.value)


@given(st.text(), st.text(), st.none() | st.text())
def test_each_text_stands_once_between_its_marks(
    prompt: str, answer: str, reference: str | None
) -> None:
    system, user = Rubric().messages(prompt, answer, reference, mark=MARK)
    assert MARK in system["content"]
    assert f"<<REQUEST {MARK}>>\n{prompt}\n<<END REQUEST {MARK}>>" in user["content"]
    assert user["content"].endswith(f"<<ANSWER {MARK}>>\n{answer}\n<<END ANSWER {MARK}>>")
    assert (f"<<REFERENCE {MARK}>>" in user["content"]) == (reference is not None)
    assert ("REFERENCE" in system["content"]) == (reference is not None)


def test_an_own_rubric_keeps_the_instructions() -> None:
    system, _ = Rubric(text="Be kind.", scale="0-1").messages("x", "y", None, mark=MARK)
    assert system["content"].startswith("Be kind.\n\n")
    assert '{"grade": N}' in system["content"]
    assert "from 0 (" in system["content"]


def test_messages_become_a_transcript() -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": []},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {}},
            ],
        },
    ]
    _, user = Rubric().messages(prompt, "A cat.", None, mark=MARK)
    assert (
        "[system]\nBe brief.\n\n[assistant]\n\n\n[user]\nWhat is this?\n(image_url)" in user["content"]
    )


@given(st.integers(1, 60), st.integers(0, 100))
def test_of_a_long_text_the_middle_is_left_out(limit: int, length: int) -> None:
    answer = "".join(chr(0x4E00 + i) for i in range(length))
    _, user = Rubric(text_limit=limit).messages("x", answer, None, mark=MARK)
    shown = [c for c in user["content"] if c >= "\u4e00"]
    assert len(shown) == min(limit, length)
    assert shown[:1] == list(answer[:1])
    assert (answer[-1:] in user["content"]) or limit == 1
