"""The log as arrays."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from bandit_router import EventLog, Greedy, Model, Outcome, Router, Uniform
from bandit_router.errors import FormatError
from bandit_router.log import rounds as log_rounds
from bandit_router.log.tables import decisions as decided
from simulations.offpolicy.draws import LEFT, draws_of
from simulations.rounds import read


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


def test_a_log_comes_back_as_arrays(url: str) -> None:
    with Router.open(url, models=[Model("b"), Model("a", output_usd_per_mtok=1.0)]) as router:
        decisions = [router.choose(f"x {i}") for i in range(6)]
        router.feedback(decisions[1].id, "rating", 0.25)
        router.feedback(decisions[2].id, "rating", 0.5)
        router.feedback(decisions[2].id, "rating", 0.75)
        other = "a" if decisions[3].model == "b" else "b"
        router.report(decisions[3].id, Outcome(model=other, output_tokens=4))
        forced = router.choose("forced", models=["a"])
    with EventLog.open(url) as log:
        rounds = read(log)
        late = read(log, since=decisions[4].at)
    assert rounds.models == ("a", "b")
    assert len(rounds) == 7
    assert len(late) == 3
    assert [rounds.models[k] for k in rounds.chosen] == [d.model for d in [*decisions, forced]]
    for i, decision in enumerate(decisions):
        assert rounds.x[i].tobytes() == decision.features.tobytes()
        assert dict(zip(rounds.models, rounds.probabilities[i], strict=True)) == decision.probabilities
    np.testing.assert_equal(rounds.reward[:3], [np.nan, 0.25, 0.75])
    assert rounds.weight[:3].tolist() == [0.0, 1.0, 1.0]
    # Served by another, and forced: neither says what a policy would have got.
    assert rounds.drawn.tolist() == [True, True, True, False, True, True, False]
    assert rounds.probabilities[6].tolist() == [1.0, 0.0]
    assert np.isnan(rounds.mean[6, 1])
    assert rounds.under(Uniform())[6].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(rounds.under(Greedy()).sum(axis=1), 1.0)
    floored = rounds.under(Greedy(), floor=0.1)
    np.testing.assert_allclose(floored.sum(axis=1), 1.0)
    assert floored[0].min() >= 0.05
    assert floored[6].tolist() == [1.0, 0.0]


def test_versions_of_features_that_take_turns(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while programs are replaced one by one; chunks are small: versions change within and between."""
    turns = "AABABBAA~BA" + "B~"  # a stopgap is never what is kept
    dims = {"A": 3, "A~": 3, "B": 4, "B~": 4}
    versions = re.findall(r"[AB]~?", turns)
    with Router.open(url, models=[Model("a"), Model("b")], policy=Uniform()) as router:
        decisions = [router.choose(f"x {i}") for i in range(len(versions))]
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for i, (decision, version) in enumerate(zip(decisions, versions, strict=True)):
            vector = np.full(dims[version], 1.0 + i)
            new = sa.update(decided).where(decided.c.id == decision.id)
            connection.execute(new.values(features_version=version, features=vector.tobytes()))
    engine.dispose()
    small = functools.partial(log_rounds.read_parts, chunk=3)
    monkeypatch.setattr("simulations.rounds.read_parts", small)
    with EventLog.open(url) as log:
        rounds = read(log)
    kept = [i for i, version in enumerate(versions) if version == "A"]
    assert rounds.x.tolist() == [[1.0 + i] * 3 for i in kept]
    assert rounds.left_out == len(versions) - len(kept)
    assert draws_of(rounds).left_out[LEFT["version"]] == rounds.left_out


def test_vectors_of_one_version_that_differ_in_length_are_refused(url: str) -> None:
    with Router.open(url, models=[Model("a"), Model("b")], policy=Uniform()) as router:
        last = [router.choose(f"x {i}") for i in range(5)][-1]
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        short = sa.update(decided).where(decided.c.id == last.id)
        connection.execute(short.values(features=np.ones(2).tobytes()))
    engine.dispose()
    with EventLog.open(url) as log, pytest.raises(FormatError, match="differ in length"):
        read(log)
    with EventLog.open(url) as log, pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulations.rounds.read_parts", functools.partial(log_rounds.read_parts, chunk=2))
        with pytest.raises(FormatError, match="differ in length"):
            read(log)


def test_empty_and_unknown_are_said(url: str) -> None:
    Router.open(url, models=[Model("a")]).close()
    with EventLog.open(url) as log:
        with pytest.raises(ValueError, match="decided nothing"):
            read(log)
        with pytest.raises(ValueError, match="no router"):
            read(log, "absent")
