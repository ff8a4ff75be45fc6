"""A judge's settings: what is wrong is named, and a key is nowhere in them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bandit_router import SettingsError
from feedback.judge_settings import JudgeSettings, judge_settings_from_json

GOOD: dict[str, Any] = {"url": "http://localhost:1/v1", "model": "grader"}


def test_plain_values_are_read() -> None:
    body = {
        **GOOD,
        "share": 0.25,
        "scale": "0-1",
        "options": {"temperature": 1},
        "rubric": "Be kind.",
    }
    settings = judge_settings_from_json(body)
    assert settings == JudgeSettings(**body)
    assert settings.source == "judge:grader"
    assert settings.grading.text == "Be kind."
    assert judge_settings_from_json(GOOD) == JudgeSettings(**GOOD)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"url": "localhost"}, "url"),
        ({"url": 3}, "url"),
        ({"url": "ftp://x/v1"}, "url"),
        ({"url": "https://key@host/v1"}, "api_key_env"),
        ({"url": "https://host/v1?key=1"}, "api_key_env"),
        ({"model": ""}, "model"),
        ({"model": "x" * 252}, "judge:"),
        ({"model": 7}, "model"),
        ({"api_key_env": ""}, "api_key_env"),
        ({"share": 1.5}, "share"),
        ({"share": True}, "share"),
        ({"share": math.nan}, "share"),
        ({"scale": "1-10"}, "scale"),
        ({"rubric": 5}, "rubric"),
        ({"options": []}, "options"),
        ({"options": {"n": 5}}, "n cannot be set"),
        ({"options": {"stream": True}}, "stream cannot be set"),
        ({"options": {"max_completion_tokens": 501}}, "max_completion_tokens cannot be set"),
        ({"max_tokens_name": "tokens"}, "max_completion_tokens"),
        ({"attempts": 0}, "attempts"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"poll_s": -1}, "poll_s"),
        ({"timeout_s": None}, "timeout_s"),
        ({"daily_budget_usd": 0, "input_usd_per_mtok": 1}, "daily_budget_usd"),
        ({"daily_budget_usd": 1.0}, "input_usd_per_mtok"),
        ({"input_usd_per_mtok": -1}, "input_usd_per_mtok"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=f"^judge: .*{word}"):
        judge_settings_from_json({**GOOD, **change})


@pytest.mark.parametrize("body", [None, [], "x", {"url": "http://x"}, {"model": "x"}])
def test_what_is_missing_is_named(body: object) -> None:
    with pytest.raises(SettingsError, match="judge"):
        judge_settings_from_json(body)
