"""The log as columns: candidates taken apart two ways, chunks that join up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_router import EventLog, Model, Router, Uniform
from bandit_router.log import rounds

NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
CANDIDATE = st.tuples(st.text(min_size=1), st.floats(0, 1), NUMBER, NUMBER, NUMBER, NUMBER)


@settings(max_examples=60)
@given(st.lists(st.lists(CANDIDATE, max_size=4), min_size=1, max_size=6))
def test_both_ways_to_take_candidates_apart_agree(said: list[list[tuple[object, ...]]]) -> None:
    texts = [json.dumps(some) for some in said]
    fast, slow = rounds.parse_candidates(texts), rounds._parse_slowly(texts)
    assert [fast.names[k] for k in fast.code] == [slow.names[k] for k in slow.code]
    assert (fast.row == slow.row).all()
    np.testing.assert_array_equal(fast.numbers, slow.numbers)


def test_names_with_whatever_separates_them() -> None:
    names = ["a, b", "]", "], [", 'x"], ["y', "ü", "new\nline", "'", "null", ""]
    texts = [json.dumps([[name, 0.1, 0.2, 0.3, None, 5e-324]]) for name in names]
    found = rounds.parse_candidates(texts)
    assert [found.names[k] for k in found.code] == names


def test_chunks_join_up_and_the_last_revision_counts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    models = [Model("a"), Model("b")]
    with (
        Router.open(url, models=models, policy=Uniform()) as router,
        Router.open(url, name="other", models=models) as other,
    ):
        ids = []
        for i in range(7):
            ids.append(router.choose(f"x {i}").id)
            other.choose("between")
        router.feedback(ids[3], "rating", 0.25)
        router.feedback(ids[3], "rating", 0.75)
    with EventLog.open(url) as log, log.reading() as connection:
        assert rounds.count_rounds(connection, "default") == 7
        parts = list(rounds.read_parts(connection, "default", chunk=3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert sorted(id_ for part in parts for id_ in part.id) == sorted(ids)
    heard = {i: r for part in parts for i, r in zip(part.id, part.reward, strict=True)}
    assert heard.pop(ids[3]) == 0.75
    assert np.isnan(list(heard.values())).all()


def test_a_period_ends_to_the_microsecond(tmp_path: Path) -> None:
    """Ids tell milliseconds only: those of the last one are looked at too."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with Router.open(url, models=[Model("a"), Model("b")], policy=Uniform()) as router:
        at = [router.choose(f"x {i}").at for i in range(6)]
    with EventLog.open(url) as log, log.reading() as connection:
        for end in (*at, at[-1] + 1e-6, at[-1] + 5):
            expected = sum(moment < end for moment in at)
            assert rounds.count_rounds(connection, "default", until=end) == expected
            parts = rounds.read_parts(connection, "default", since=at[0], until=end)
            assert sum(map(len, parts)) == expected
