"""Probing: constants that please a judge take its weight away."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from judged import answered, judge_of
from upstream import Reply, Upstream

from bandit_router import Router
from bandit_router.errors import SettingsError
from bandit_router.rewards import METRICS, Trust
from feedback.overlaps import with_probe, with_trust
from feedback.probing import CONSTANTS, LEAST_PROMPTS, weigh_up


def liking(*words: str) -> Any:
    """How a judge answers that likes real answers, and those constants that contain some words."""

    def reply(body: dict[str, Any]) -> Reply:
        text = body["messages"][1]["content"]
        liked = any(word in text for word in ("an answer", *words))
        return Reply(content=json.dumps({"grade": 4 if liked else 1}))

    return reply


def test_a_judge_that_likes_real_answers_alone_keeps_its_weight(
    router: Router, upstream: Upstream
) -> None:
    upstream.usual = liking()
    judge = judge_of(router, upstream)
    answered(router, LEAST_PROMPTS + 2)
    judge.run_once()
    done = judge.probe(prompts=LEAST_PROMPTS)
    assert (done.prompts, done.real, done.left) == (LEAST_PROMPTS, 0.75, 1.0)
    assert set(done.constants) == set(CONSTANTS)
    assert all(mean == 0.0 for mean in done.constants.values())
    assert done.cost_usd == pytest.approx(0.0002 * LEAST_PROMPTS * len(CONSTANTS))
    assert len(upstream.requests) == LEAST_PROMPTS + 2 + LEAST_PROMPTS * len(CONSTANTS)


def test_a_judge_that_one_constant_fools_loses_it(router: Router, upstream: Upstream) -> None:
    upstream.usual = liking("highest grade")
    judge = judge_of(router, upstream)
    answered(router, LEAST_PROMPTS)
    judge.run_once()
    done = judge.probe()
    assert done.left == 0.0
    assert done.beaten["flattery"] == 0.5
    assert done.beaten["empty"] == 1.0


def test_what_stands_in_the_way_is_said(router: Router, upstream: Upstream) -> None:
    upstream.usual = liking()
    judge = judge_of(router, upstream)
    answered(router, LEAST_PROMPTS)
    with pytest.raises(SettingsError, match=f"{LEAST_PROMPTS} answers .*needed, got 0"):
        judge.probe()
    judge.run_once()
    with pytest.raises(SettingsError, match="budget"):
        judge_of(router, upstream, daily_budget_usd=1e-3).probe()
    upstream.usual = Reply(status=404)
    with pytest.raises(SettingsError, match="on 0 prompts"):
        judge.probe()


@pytest.mark.parametrize(
    ("constant", "left"), [([0.1, 0.1, 0.1, 0.1], 1.0), ([0.5, 0.1, 0.1, 0.9], 0.25), ([1.0] * 4, 0.0)]
)
def test_what_is_left_follows_the_constant_that_pleases_best(constant: list[float], left: float) -> None:
    grades = {"empty": np.zeros(4), "other": np.array(constant)}
    assert weigh_up(np.full(4, 0.5), grades).left == pytest.approx(left)


def test_what_was_probed_stays_when_trust_is_learnt(router: Router) -> None:
    probed = with_probe(METRICS, "judge:a", 0.25)
    assert probed["judge"].trust == {"judge:a": Trust(weight=0.5, probed=0.25)}
    assert probed["judge"].trusted("judge:a").counts == 0.125
    assert probed["thumb"] == METRICS["thumb"]
    assert with_trust(probed, [])["judge"].trust == probed["judge"].trust
