"""What learning trust is worth, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from bandit_router.errors import SettingsError
from feedback.agreement import Agreement, grades_of, measure, votes_of
from feedback.trust import learn_trust


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, str], Agreement]:
    rng = np.random.default_rng(0)
    truth = np.clip(np.array([0.5, 0.6, 0.8]) + rng.normal(0, 0.15, (600, 3)), 0, 1)
    grades = {
        "quality": truth,
        "judge_good": truth + rng.normal(0, 0.1, truth.shape),
        "judge_mild": 0.5 + truth / 2 + rng.normal(0, 0.1, truth.shape),
    }
    measured = measure(grades, halves=4)
    return {(row.judges, row.labels, row.signal): row for row in measured}


def test_one_who_guesses_costs_what_is_learnt_nothing(
    rows: dict[tuple[str, str, str], Agreement],
) -> None:
    fixed, learnt = (
        rows["one guesses", "-", "fixed weights"],
        rows["one guesses", "all", "learnt weights"],
    )
    assert learnt.within > fixed.within + 0.1
    assert learnt.gain is not None
    assert learnt.gain_low is not None
    assert learnt.gain_low > 0
    assert learnt.gain == pytest.approx(learnt.within - fixed.within)
    without = rows["as they are", "all", "learnt weights"]
    assert learnt.within == pytest.approx(without.within, abs=0.02)
    assert rows["one constant", "all", "learnt weights"].within == pytest.approx(
        without.within, abs=0.02
    )


def test_the_scale_is_mended(rows: dict[tuple[str, str, str], Agreement]) -> None:
    """A mild judge lifts every mean by .18; seen by all of the truth it is off by .01."""
    assert rows["as they are", "-", "judge_mild"].means > 0.15
    assert rows["as they are", "all", "learnt weights"].means < 0.03
    assert rows["as they are", "thumbs", "learnt weights"].means < 0.08


def test_columns_are_judges_and_models() -> None:
    columns = {
        "quality__b": [1.0, 2.0],
        "quality__a": [3.0, 4.0],
        "judge_x__a": [5.0, 6.0],
        "judge_x__b": [7.0, 8.0],
        "cost_usd__a": [9.0, 9.0],
    }
    found = grades_of(columns)
    assert set(found) == {"quality", "judge_x"}
    np.testing.assert_array_equal(found["quality"], [[3.0, 1.0], [4.0, 2.0]])
    with pytest.raises(SettingsError, match="same models"):
        grades_of({**columns, "judge_y__c": [1.0, 1.0]})
    with pytest.raises(SettingsError, match="two other judges, got judge_x, quality"):
        measure(found)


def test_votes_of_people_are_held_against_each_other() -> None:
    rows = [
        ("s", "p", 1, "x", "y", "ann", "a", "b"),
        ("s", "p", 1, "y", "x", "bob", "a", "a"),  # the other way round
        ("s", "p", 1, "x", "y", "ann", "b", "b"),  # once more: the first vote counts
        ("s", "p", 2, "x", "y", "ann", "tie", None),
    ]
    names = ("source", "prompt_id", "turn", "model_a", "model_b", "annotator", "winner", "judge_gpt4")
    overlaps = votes_of({name: [row[i] for row in rows] for i, name in enumerate(names)})["s"]  # type: ignore[misc]  # turns are numbers
    np.testing.assert_array_equal(overlaps.values, [[1.0, 0.0, 0.0], [0.5, np.nan, np.nan]])
    assert all(finding.refusal for finding in learn_trust(overlaps).findings)
