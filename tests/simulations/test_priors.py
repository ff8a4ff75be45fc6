"""What tables and battles amount to as evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bandit_router.errors import TableError
from bandit_router.features import HashedFeatures
from bandit_router.prompt import Prompt
from simulations.priors import Battles, evidence_of_battles, read_battles

BATTLES = """prompt,model_a,model_b,winner,judge
What is 2 + 2?,small,large,model_b,x
What is 2 + 2?,large,small,a,x
Name a fox.,small,large,tie,y
Name a fox.,small,other,b,y
Name a fox.,small,small,a,y
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "battles.csv"
    file.write_text(text)
    return file


def test_battles_are_read_as_they_stand(tmp_path: Path) -> None:
    battles = read_battles(write(tmp_path, BATTLES))
    assert battles is not None
    assert battles.winners == ("b", "a", "tie", "b", "a")
    some = read_battles(write(tmp_path, BATTLES), where={"judge": "x"})
    assert some is not None
    assert len(some) == 2


def test_both_sides_count_by_half(tmp_path: Path) -> None:
    battles, features = read_battles(write(tmp_path, BATTLES)), HashedFeatures()
    assert battles is not None
    sums = evidence_of_battles(battles, features, ["small", "large"])
    assert {model: e.n for model, e in sums.items()} == {"small": 1.5, "large": 1.5}
    assert sums["small"].b[0] == pytest.approx(0.5 * (0.0 + 0.0 + 0.5))
    assert sums["large"].b[0] == pytest.approx(0.5 * (1.0 + 1.0 + 0.5))
    x = features.extract_many([Prompt.of(text) for text in battles.prompts[:3]])
    np.testing.assert_allclose(sums["small"].A, 0.5 * x.T @ x, atol=1e-12)
    assert set(evidence_of_battles(battles, features)) == {"small", "large", "other"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BATTLES.replace("tie", "nobody"), "winner in row 2: expected a, b or tie, got 'nobody'"),
        ("prompt,model_a,model_b,winner\n", "has no rows"),
        ("", "not a table"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TableError, match=said):
        read_battles(write(tmp_path, text))


def test_another_file_is_no_file_of_battles(tmp_path: Path) -> None:
    assert read_battles(write(tmp_path, "prompt,quality__a\nx,1\n")) is None


def test_battles_of_others_are_refused() -> None:
    battles = Battles(prompts=("x",), first=("a",), second=("b",), winners=("a",))
    with pytest.raises(TableError, match="no battle between two of these models"):
        evidence_of_battles(battles, HashedFeatures(), ["a", "c"])
