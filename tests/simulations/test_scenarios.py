"""Scenario files: what they may say, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bandit_router.errors import SettingsError
from simulations.scenarios import Quality, Signal, read_scenario, scenario_from

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples" / "scenarios").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_can_be_read(path: Path) -> None:
    assert read_scenario(path).name


def test_a_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(
        """
        name = "all"
        rows = 10
        pool = ["a", "b"]
        models = "all"
        feedback = {delay_rounds = [2, 5], drop = 0.1}
        [[then]]
        table = "next.parquet"
        where = {task = "x"}
        [[price]]
        at = 3
        model = "a"
        factor = 0.1
        [[quality]]
        at = 2
        until = 4
        after = "next"
        model = "a"
        factor = 0.5
        offset = 0.1
        [[signal]]
        name = "thumb"
        share = [0.1, 0.3]
        """,
        "utf-8",
    )
    scenario = read_scenario(path)
    assert (scenario.name, scenario.rows, scenario.path) == ("all", 10, path)
    assert scenario.feedback.delays == (2, 5)
    assert scenario.signal[0].shares == (0.1, 0.3)
    assert scenario.then[0].called == "next"
    assert [event.called for event in scenario.events] == ["price of a x0.1", "quality of a x0.5 +0.1"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"colour": 1}, "no key 'colour' at the top"),
        ({"path": "x"}, "no key 'path'"),
        ({"rows": 0}, "at least 1"),
        ({"rows": 1.5}, "whole number"),
        ({"models": "some"}, '"shared" or "all"'),
        ({"pool": 3}, "expected a list"),
        ({"price": {"at": 1}}, r"expected \[\[price\]\]"),
        ({"price": [3]}, "expected keys and values"),
        ({"price": [{"at": 1, "model": "a"}]}, "price 1: expected a key 'factor'"),
        ({"price": [{"at": 1, "model": "a", "factor": 0}]}, "more than 0"),
        ({"price": [{"at": 1, "model": "a", "factor": float("nan")}]}, "finite number"),
        ({"price": [{"at": 1, "model": "a", "factor": "ten"}]}, "expected a number"),
        ({"price": [{"at": -1, "model": "a", "factor": 1}]}, "at: expected a whole number from 0"),
        ({"price": [{"at": True, "model": "a", "factor": 1}]}, "whole number"),
        ({"quality": [{"at": 1, "model": "a"}]}, "expected factor or offset"),
        ({"quality": [{"at": 1, "model": "a", "set": 0.5, "factor": 1}]}, "or else set"),
        ({"quality": [{"at": 1, "model": "a", "set": 1.5}]}, "from 0 to 1"),
        ({"quality": [{"at": 5, "until": 5, "model": "a", "factor": 1}]}, "more than at=5"),
        ({"quality": [{"at": 1, "model": "a", "factor": 1, "speed": 2}]}, "no key 'speed' there"),
        ({"add": [{"at": 1, "until": 3, "model": "a"}]}, "until: expected none"),
        ({"mark": [{"at": 1}]}, "expected a key 'name'"),
        ({"then": [{"table": ""}]}, "1 to 255 characters"),
        ({"then": [{"table": "t", "where": {"task": 1}}]}, "columns and texts"),
        ({"feedback": {"drop": 2}}, "from 0 to 1"),
        ({"feedback": {"delay_rounds": [5, 2]}}, "the least first"),
        ({"feedback": {"delay_rounds": [1, 2, 3]}}, "a number or two"),
        ({"signal": [{"name": "comment"}]}, "one of thumb, rating, judge"),
        ({"signal": [{"name": "stars"}]}, "one of thumb, rating, judge"),
        ({"signal": [{"name": "thumb", "share": 1.1}]}, "share: expected a number from 0"),
        ({"signal": [{"name": "judge", "noise": -1}]}, "noise: expected"),
        ({"signal": [{"name": "judge"}, {"name": "judge"}]}, "each name once"),
    ],
)
def test_what_is_wrong_is_refused(entries: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        scenario_from(entries)


@pytest.mark.parametrize("text", ["name = ", "rows = 0", "[[price]]\nat = 1"])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"wrong\.toml: "):
        read_scenario(path)
    with pytest.raises(SettingsError, match=r"nothing\.toml: "):
        read_scenario(tmp_path / "nothing.toml")


def test_words_for_what_happens() -> None:
    assert Quality(at=0, model="a", set=0.25).called == "quality of a 0.25"
    assert Signal(name="judge", share=0.2).shares == (0.2, 0.2)
