"""``bandit-router prior``: import, show, drop; what is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bandit_router import Model, Router
from bandit_router.cli import cli

TABLE = "prompt,quality__small,quality__other\n" + "".join(f"question {i},0.9,0.1\n" for i in range(30))
DIAMOND = "Input,small/response,small/score,x/large/score\n" + "".join(
    f"question {i},words,0.9,0.2\n" for i in range(30)
)
BATTLES = "prompt,model_a,model_b,winner\n" + "".join(f"question {i},small,large,b\n" for i in range(30))


@pytest.fixture
def log(sqlite_url: str) -> str:
    with Router.open(sqlite_url, models=[Model("small"), Model("large")]):
        return sqlite_url


def run(log: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["prior", *arguments, "--log", log])


@pytest.mark.parametrize(
    ("text", "options", "told", "better"),
    [
        (TABLE, (), ("30 observations of small", "Nothing is known of large"), "small"),
        (TABLE, ("--rename", "other=large"), ("30 observations of large",), "small"),
        (DIAMOND, ("--rename", "x/large=large", "--rows", "10"), ("10 observations of large",), "small"),
        (BATTLES, (), ("15 observations of small", "15 observations of large"), "large"),
    ],
)
def test_a_file_is_imported_shown_and_dropped(
    log: str, tmp_path: Path, text: str, options: tuple[str, ...], told: tuple[str, ...], better: str
) -> None:
    file = tmp_path / "known.csv"
    file.write_text(text)
    done = run(log, "import", str(file), *options)
    assert done.exit_code == 0, done.output
    for words in told:
        assert words in done.output
    with Router.open(log) as router:
        candidates = {c.model: c.mean for c in router.choose("question 3").candidates}
        assert max(candidates, key=candidates.__getitem__) == better
    shown = run(log, "show").output
    assert "from known.csv" in shown
    assert "each observation counts 1" in shown
    assert "dropped" in run(log, "drop").output
    assert "nothing was known before" in run(log, "drop").output
    assert "nothing is known before" in run(log, "show").output


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("prompt,quality__b\nx,1\n", (), "none of the models small, large"),
        ("prompt,quality__small\nx,7\n", (), "from 0 to 1"),
        ("prompt,quality__small\nx,\n", (), "lacks a quality"),
        (TABLE, ("--where", "task=x"), "no column 'task'"),
        (TABLE, ("--where", "task"), "expected A=B"),
        (TABLE, ("--rename", "=x"), "expected A=B"),
        (BATTLES.replace(",b\n", ",me\n"), (), "expected a, b or tie"),
    ],
)
def test_what_is_wrong_is_one_line(
    log: str, tmp_path: Path, text: str, options: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "known.csv"
    file.write_text(text)
    done = run(log, "import", str(file), *options)
    assert done.exit_code != 0
    assert said in (done.output + str(done.exception))
    assert "nothing is known before" in run(log, "show").output
