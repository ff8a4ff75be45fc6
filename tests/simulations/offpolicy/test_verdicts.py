"""From a log to what it says: values, refusals, missing rewards, policies that learn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn import rounds_of

from bandit_router.errors import ReplayError, SettingsError
from simulations.offpolicy.coverage import Scenery, draw_log, scenery_of
from simulations.offpolicy.draws import Draws
from simulations.offpolicy.responses import response_probabilities
from simulations.offpolicy.targets import probabilities_of, target_from_spec
from simulations.offpolicy.verdicts import Verdicts, judge
from simulations.worlds import small_world

SPECS = ("logged", "thompson", "greedy", "fixed:large-strong", "learn:thompson:floor=0.02")


@pytest.fixture(scope="module")
def scene() -> Scenery:
    return scenery_of(small_world(0).table(500, 1), dim=8)


@pytest.fixture(scope="module")
def draws(scene: Scenery) -> Draws:
    return draw_log(scene, 1_200, np.random.default_rng(0))[0]


@pytest.fixture(scope="module")
def found(draws: Draws) -> Verdicts:
    return judge(rounds_of(draws), SPECS)


def test_values_are_near_the_truth(found: Verdicts, scene: Scenery, draws: Draws) -> None:
    verdicts = {verdict.spec: verdict for verdict in found.policies}
    assert verdicts["logged"].estimates["ips"].value == pytest.approx(draws.reward.mean())
    strong = scene.quality[:, scene.models.index("large-strong")].mean()
    error = verdicts["fixed:large-strong"].estimates["ips"]
    # Four standard errors, of which the interval is two to each side.
    assert abs(error.value - strong) < 2 * (error.high - error.value)
    assert verdicts["thompson"].share.keys() == set(scene.models)
    assert found.calibration.sound
    assert verdicts["logged"].low is None  # nothing is missing


def test_it_is_plain_json_and_rows(found: Verdicts) -> None:
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [policy["spec"] for policy in document["policies"]] == list(SPECS)
    assert {row["estimator"] for row in found.rows()} >= {"ips", "snips", "dr", "ips (sequence)"}
    assert {swept.estimator for swept in found.policies[0].swept} == {"clipped-ips", "switch-dr", "dros"}


def test_a_learner_goes_by_earlier_rows_only(draws: Draws) -> None:
    target = target_from_spec("learn:linucb:alpha=0.1,floor=0.1,half_life=1h")
    before = probabilities_of(target, draws)
    late = draws.reward.copy()
    late[600:] = 1.0 - late[600:]
    after = probabilities_of(target, replace(draws, reward=late))
    assert (before[:601] == after[:601]).all()
    assert (before[700:] != after[700:]).any()
    np.testing.assert_allclose(before.sum(axis=1), 1.0)
    own = probabilities_of(target_from_spec("learn:thompson:from=own"), draws)
    np.testing.assert_allclose(own.sum(axis=1), 1.0)


def test_a_learner_hears_of_a_conversation_when_it_is_over(draws: Draws) -> None:
    """Its reward is of its later turns too, and a row between them must not know of these."""
    target = target_from_spec("learn:thompson")
    plain = probabilities_of(target, draws)
    over_at, late = draws.at.copy(), draws.reward.copy()
    over_at[100], late[100] = draws.at[900], 1.0 - late[100]
    after = probabilities_of(target, replace(draws, reward=late, over_at=over_at))
    hushed = np.where(np.arange(len(draws)) == 100, np.nan, draws.reward)
    without = probabilities_of(target, replace(draws, reward=hushed))
    assert (after[:900] == without[:900]).all()
    assert (after[900:] != without[900:]).any()
    assert (plain[101:900] != without[101:900]).any()


def test_a_learner_believes_a_reward_as_far_as_the_log_does(draws: Draws) -> None:
    target, n = target_from_spec("learn:thompson"), len(draws)
    full = probabilities_of(target, draws)
    assert (probabilities_of(target, replace(draws, weight=np.ones(n))) == full).all()
    nothing = probabilities_of(target, replace(draws, weight=np.full(n, 1e-9)))
    unheard = probabilities_of(target, replace(draws, reward=np.full(n, np.nan)))
    np.testing.assert_allclose(nothing, unheard, atol=1e-6)
    assert not np.allclose(full, unheard)


def test_missing_by_prompt_and_model_is_corrected_and_bounded(scene: Scenery) -> None:
    """Who is served by the best model seldom speaks: the mean of what is heard is far off."""
    draws, target = draw_log(scene, 6_000, np.random.default_rng(1))
    told = np.where(draws.chosen == int(scene.target.mean(axis=0).argmax()), 0.15, 0.8)
    silent = np.random.default_rng(2).random(len(draws)) >= told
    missing = replace(draws, reward=np.where(silent, np.nan, draws.reward))
    np.testing.assert_allclose(response_probabilities(missing), told, atol=0.12)
    logged = judge(rounds_of(missing), ["logged"]).policies[0]
    truth = float((scene.logging * scene.quality).sum(axis=1).mean())
    assert logged.low is not None
    assert logged.high is not None
    assert logged.low.value < truth < logged.high.value
    assert abs(np.nanmean(missing.reward) - truth) > 2 * abs(logged.estimates["dr"].value - truth)
    assert target.shape == draws.probabilities.shape


def test_what_the_log_cannot_support_is_refused(draws: Draws) -> None:
    rounds = rounds_of(draws)
    silent = replace(rounds, reward=np.full(len(rounds), np.nan))
    with pytest.raises(ReplayError, match="no reward was heard"):
        judge(silent, ["logged"])
    with pytest.raises(SettingsError, match="no such model"):
        judge(rounds, ["fixed:absent"])
    k = 3
    rarely = rounds.chosen != k
    without = replace(rounds, reward=np.where(rarely, rounds.reward, np.nan))
    verdict = judge(without, [f"fixed:{rounds.models[k]}"]).policies[0]
    assert verdict.refusal is not None
    assert "support" in verdict.refusal


def test_a_model_that_appears_later_is_judged_where_it_was_eligible(draws: Draws) -> None:
    p = draws.probabilities.copy()
    p[:600, 3] = 0.0
    p /= p.sum(axis=1, keepdims=True)
    mean = np.where(p > 0, draws.mean, np.nan)
    coins = np.random.default_rng(3).random((len(p), 1))
    chosen = (p.cumsum(axis=1) < coins).sum(axis=1).clip(max=3)
    logged = p[np.arange(len(p)), chosen]
    changed = replace(draws, probabilities=p, mean=mean, chosen=chosen, logged=logged)
    found = judge(rounds_of(changed), [f"fixed:{draws.models[3]}", "uniform"])
    assert found.model_sets == 2
    assert [verdict.unfit for verdict in found.policies] == [600, 0]
    assert found.policies[0].estimates["ips"].n == 600


def certain(draws: Draws, share: float) -> Draws:
    """The same requests, `share` of them decided for certain, by what was promised; all rewards 0.5."""
    best = np.eye(len(draws.models))[draws.mean.argmax(axis=1)]
    sure = np.arange(len(draws)) < share * len(draws)
    p = np.where(sure[:, None], best, draws.probabilities)
    chosen = np.where(sure, draws.mean.argmax(axis=1), draws.chosen)
    logged, half = p[np.arange(len(p)), chosen], np.full(len(p), 0.5)
    return replace(draws, probabilities=p, chosen=chosen, logged=logged, reward=half)


def test_a_log_that_drew_for_certain_does_not_tell_of_others(draws: Draws) -> None:
    """Every model was eligible; most had a probability of 0. Where one was drawn it was for a reason."""
    specs = ["logged", "greedy", "uniform", *(f"fixed:{model}" for model in draws.models)]
    logged, greedy, *others = judge(rounds_of(certain(draws, 1.0)), specs).policies
    assert logged.estimates["ips"].value == greedy.estimates["ips"].value == 0.5
    assert logged.low is None
    for verdict in others:
        assert verdict.refusal is not None
        assert "support" in verdict.refusal
        assert verdict.unfit == 0
        assert verdict.reach.overlap < 0.95


def test_what_had_no_probability_is_bounded(draws: Draws) -> None:
    """Of what is drawn evenly, three quarters of a twenty-fifth had a probability of 0."""
    (even,) = judge(rounds_of(certain(draws, 0.04)), ["uniform"]).policies
    assert even.reach.overlap == pytest.approx(0.97)
    assert even.low is not None
    assert even.high is not None
    assert even.high.value - even.low.value == pytest.approx(0.03)


@pytest.mark.parametrize(
    "spec",
    ["none", "thompson:floor=2", "greedy:half_life=7d", "learn:thompson:from=some", "learn:x"],
)
def test_wrong_specs_are_refused(spec: str) -> None:
    with pytest.raises(SettingsError):
        target_from_spec(spec)
