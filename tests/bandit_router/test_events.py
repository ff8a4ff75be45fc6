"""What travels: ids, models, outcomes, decisions."""

from __future__ import annotations

import math
import time
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.events import Candidate, Decision, Model, Outcome, id_time, new_id
from bandit_router.values import (
    COUNT_LIMIT,
)

VERSION_4 = "9b2d0b9e-0b5f-4d0e-8c55-5f4d0d0d3c11"


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
