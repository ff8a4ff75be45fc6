"""The library's face: every promise of the contract, and every bad argument."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bandit_router import (
    ClosedError,
    ConflictError,
    FeaturesError,
    FittedFeatures,
    Greedy,
    LinUCB,
    Metric,
    Model,
    NoEligibleModelError,
    Outcome,
    Preference,
    Router,
    SettingsError,
    ThompsonSampling,
    Uniform,
    UnknownDecisionError,
    UnknownFeedbackError,
    UnknownModelError,
)
from bandit_router.events import Decision, id_time
from bandit_router.log.deciding import decision_rows
from bandit_router.log.rows import to_us
from bandit_router.log.writer import committed
from bandit_router.pacing import ADVANCE

Open = Callable[..., Router]


EMBEDDED = pytest.mark.parametrize(
    "log_url", ["sqlite"], indirect=True
)  # refused before any log hears of it


@pytest.fixture
def url(log_url: str) -> str:
    """Each test here runs embedded (SQLite, memory) and on servers (PostgreSQL, Redis)."""
    return log_url


NOBODY = "01a20e7f-015d-7684-92b4-1d8c42bdc62e"


def teach(router: Router, rewards: dict[str, float], rounds: int = 40) -> None:
    """Give every model rewards of its own."""
    for model, value in rewards.items():
        for i in range(rounds):
            decision = router.choose(f"question {i}", models=[model])
            router.feedback(decision.id, "judge", value, source="judge:a")


# -- choose ----------------------------------------------------------------------------------------


def test_a_decision_says_what_was_drawn_and_how_likely_that_was(router: Router) -> None:
    decision = router.choose("Explain quantum computing", user="user:1", tags={"app": "chat"})
    assert decision.model in ("small", "large")
    assert sum(decision.probabilities.values()) == pytest.approx(1)
    assert decision.probability == decision.probabilities[decision.model]
    assert id_time(decision.id) == pytest.approx(decision.at, abs=0.002)
    assert decision.reason in ("exploit", "explore")
    assert decision.features[0] == 1
    assert not decision.features.flags.writeable
    story = router.decision(decision.id)
    assert story.prompt == "Explain quantum computing"
    assert story.decision.features.tobytes() == decision.features.tobytes()
    assert story.decision.probabilities == decision.probabilities
    assert story.decision.tags == {"app": "chat"}
    assert (story.decision.at, story.decision.user) == (decision.at, "user:1")


@pytest.mark.parametrize(
    "prompt",
    ["", " \n", "x" * 1_000_000, "\ud800 lone", "a\0b", "日本語のテキスト", "🎉" * 1000, "\x01\x02\xff"],
    ids=["empty", "blank", "huge", "surrogate", "nul", "japanese", "emoji", "binary"],
)
def test_any_text_gets_a_decision(router: Router, prompt: str) -> None:
    decision = router.choose(prompt)
    assert np.isfinite(decision.features).all()
    router.decision(decision.id)


def test_messages_with_images_and_tools_are_safe(router: Router) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "Be brief. \ud800"},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    decision = router.choose(messages)
    kept = router.decision(decision.id).prompt
    assert isinstance(kept, list)
    assert kept[1] == messages[1]


@EMBEDDED
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"prompt": None}, TypeError),
        ({"prompt": 7}, TypeError),
        ({"prompt": b"bytes"}, TypeError),
        ({"prompt": []}, ValueError),
        ({"prompt": [{"role": 1}]}, ValueError),
        ({"prompt": ["text"]}, TypeError),
        ({"prompt": "x", "models": "small"}, TypeError),
        ({"prompt": "x", "models": []}, ValueError),
        ({"prompt": "x", "models": ["nobody"]}, UnknownModelError),
        ({"prompt": "x", "max_cost_usd": float("nan")}, ValueError),
        ({"prompt": "x", "max_cost_usd": -1}, ValueError),
        ({"prompt": "x", "max_tokens": 0}, ValueError),
        ({"prompt": "x", "max_tokens": 1.5}, TypeError),
        ({"prompt": "x", "user": ""}, ValueError),
        ({"prompt": "x", "user": 7}, TypeError),
        ({"prompt": "x", "user": "u" * 256}, ValueError),
        ({"prompt": "x", "tags": {"a": 1}}, TypeError),
        ({"prompt": "x", "colour": "red"}, TypeError),
        ({"features": [1.0, 2.0]}, ValueError),
        ({"features": [1.0] * 63 + [float("nan")]}, ValueError),
        ({"features": [1.0] * 63 + [float("inf")]}, ValueError),
        ({"features": "vector"}, ValueError),
    ],
    ids=str,
)
def test_a_bad_request_is_refused_and_nothing_is_logged(
    router: Router, arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        router.choose(**arguments)  # type: ignore[arg-type] # that is the point
    assert router.choose("still works").id


def test_a_subset_a_cap_and_the_context_narrow_the_choice(open_router: Open) -> None:
    tiny = Model("tiny", output_usd_per_mtok=0.1, context_tokens=1_000)
    router = open_router(models=[tiny, Model("large", output_usd_per_mtok=10.0)])
    assert router.choose("x", models=["large"]).reason == "only"
    assert router.choose("x" * 8_000).probabilities == {"large": 1.0}
    assert router.choose("x", max_cost_usd=0.0001).probabilities == {"tiny": 1.0}
    # With a longest answer the cap holds in the worst case: 20 tokens of the large one cost 0.0002.
    assert set(router.choose("x", max_tokens=20, max_cost_usd=0.0002).probabilities) == {"tiny", "large"}
    with pytest.raises(NoEligibleModelError, match="within the cap"):
        router.choose("x", max_cost_usd=0.0)
    with pytest.raises(NoEligibleModelError):
        open_router(name="empty", models=[]).choose("x")


def test_a_key_gives_the_first_answer_again(router: Router) -> None:
    first = router.choose("Hello", key="k1", user="user:1")
    again = router.choose("Hello", key="k1", user="user:1")
    assert (again.id, again.model, again.duplicate) == (first.id, first.model, True)
    assert not first.duplicate
    with pytest.raises(ConflictError):
        router.choose("Something else", key="k1", user="user:1")
    vector = np.eye(64)[0]
    assert router.choose(features=vector, key="k2").id == router.choose(features=vector, key="k2").id


def test_a_conversation_stays_with_its_first_draw(open_router: Open) -> None:
    router, other = open_router(policy=Uniform()), open_router()
    first = router.choose("Hello", conversation="c1")
    for worker in (router, other, router):
        later = worker.choose("And then?", conversation="c1")
        assert (later.model, later.reason, later.probability) == (first.model, "sticky", 1.0)
        assert later.conversation_head == first.id
    router.retire_model(first.model)
    moved = router.choose("And now?", conversation="c1")
    assert moved.model != first.model
    assert moved.reason == "only"
    assert router.choose("Still?", conversation="c1").conversation_head == moved.id


def test_conversations_need_not_stick(open_router: Open) -> None:
    router = open_router(policy=Uniform(), sticky=False, seed=1, worker=0)
    drawn = {router.choose("x", conversation="c").model for _ in range(30)}
    assert drawn == {"small", "large"}


def test_ready_vectors(open_router: Open) -> None:
    router = open_router(features="vectors:dim=3")
    decision = router.choose(features=[0.1, 0.2, 0.3])
    assert decision.features.tolist() == [1.0, 0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match=r"\(3,\)"):
        router.choose(features=[1.0, 2.0])
    with pytest.raises(FeaturesError):
        router.choose("a text")


def test_draws_follow_the_logged_probabilities(open_router: Open) -> None:
    router = open_router(seed=7, worker=1, durable=False)
    teach(router, {"small": 0.50, "large": 0.55}, rounds=8)
    n, expected, drawn = 3_000, Counter[str](), Counter[str]()
    for _ in range(n):
        decision = router.choose("the same prompt")
        expected.update(decision.probabilities)
        drawn[decision.model] += 1
    variance = n * 0.25
    # Five standard deviations: wrong once in 1.7 million seeds, and the seed is fixed.
    assert abs(drawn["small"] - expected["small"]) < 5 * variance**0.5


def test_the_same_seed_and_worker_draw_alike(open_router: Open) -> None:
    def drawn(name: str, worker: int) -> list[str]:
        router = open_router(name=name, policy=Uniform(), seed=3, worker=worker)
        return [router.choose("x").model for _ in range(40)]

    assert drawn("a", 1) == drawn("b", 1)
    assert drawn("c", 1) != drawn("d", 2)


# -- report ----------------------------------------------------------------------------------------


def test_an_outcome_is_priced_replaced_and_recognised(router: Router) -> None:
    decision = router.choose("x", models=["small"])
    told = Outcome(input_tokens=1000, output_tokens=500, latency_s=1.5)
    first = router.report(decision.id, told, answer="42")
    assert first.cost_usd == pytest.approx(0.00045)
    assert not first.duplicate
    assert router.report(decision.id, told).duplicate
    other = router.report(decision.id, Outcome(input_tokens=1000, output_tokens=500, cost_usd=0.5))
    assert (other.cost_usd, other.duplicate) == (0.5, False)
    story = router.decision(decision.id)
    assert story.answer == "42"
    assert story.outcome is not None
    assert story.outcome.cost_usd == 0.5


def test_credit_goes_to_the_model_that_served(router: Router) -> None:
    decision = router.choose("x", models=["small"])
    router.feedback(decision.id, "thumb", True)
    assert router.beliefs()["small"]["n"] == 1
    router.report(decision.id, Outcome(model="large"))
    beliefs = router.beliefs()
    assert (beliefs["small"]["n"], beliefs["large"]["n"]) == (0, 1)
    router.report(decision.id, Outcome(model="small"))
    beliefs = router.beliefs()
    assert (beliefs["small"]["n"], beliefs["large"]["n"]) == (1, 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"input_tokens": -1},
        {"input_tokens": 1.5},
        {"output_tokens": True},
        {"cost_usd": float("inf")},
        {"latency_s": float("nan")},
        {"latency_s": "fast"},
        {"model": ""},
        {"error": 7},
    ],
    ids=str,
)
def test_a_bad_outcome_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Outcome(**bad)  # type: ignore[arg-type] # that is the point


def test_outcomes_of_unknown_decisions_and_models(router: Router) -> None:
    with pytest.raises(UnknownDecisionError):
        router.report(NOBODY, Outcome())
    decision = router.choose("x")
    with pytest.raises(UnknownModelError):
        router.report(decision.id, Outcome(model="nobody"))
    with pytest.raises(TypeError):
        router.report(decision.id, {"latency_s": 1})  # type: ignore[arg-type] # that is the point
    with pytest.raises(TypeError):
        router.report(decision.id, Outcome(), answer=b"bytes")  # type: ignore[arg-type] # that is the point


def test_reported_costs_and_latencies_are_predicted(router: Router) -> None:
    for _ in range(3):
        decision = router.choose("x", models=["small"])
        router.report(decision.id, Outcome(input_tokens=10, output_tokens=1000, latency_s=2.0))
    router.feedback(decision.id, "thumb", True)  # waits until the learner has seen it all
    candidates = {c.model: c for c in router.choose("x").candidates}
    assert candidates["small"].latency_s == pytest.approx(2.0)
    assert candidates["small"].cost_usd == pytest.approx(0.0006, rel=0.05)


# -- feedback --------------------------------------------------------------------------------------


def test_feedback_is_in_the_beliefs_when_it_returns(router: Router) -> None:
    decision = router.choose("x")
    heard = router.feedback(decision.id, "thumb", True, source="user:42", comment="nice")
    assert (heard.applied, heard.duplicate, heard.value, heard.comment) == (True, False, True, "nice")
    assert heard.reward is not None
    assert (heard.reward.value, heard.reward.weight) == (1.0, 1.0)
    belief = router.beliefs()[decision.model]
    assert (belief["n"], belief["mean_reward"]) == (1, 1)
    assert belief["last_change"].startswith(str(datetime.now(UTC).year))


def test_thumb_and_judge_make_one_reward(router: Router) -> None:
    decision = router.choose("x")
    router.feedback(decision.id, "thumb", True, source="user:1")
    heard = router.feedback(decision.id, "judge", 0.4, source="judge:a")
    assert heard.reward is not None
    assert heard.reward.value == pytest.approx(0.8)
    assert router.beliefs()[decision.model]["n"] == 1


def test_a_repeated_word_counts_once(router: Router) -> None:
    decision = router.choose("x")
    first = router.feedback(decision.id, "thumb", True, source="user:1")
    again = router.feedback(decision.id, "thumb", True, source="user:1")
    assert (again.id, again.duplicate) == (first.id, True)
    assert router.beliefs()[decision.model]["n"] == 1


def test_keys(router: Router) -> None:
    decision = router.choose("x")
    first = router.feedback(decision.id, "thumb", True, source="user:1", key="k")
    again = router.feedback(decision.id, "thumb", True, source="user:1", key="k")
    assert (again.id, again.duplicate) == (first.id, True)
    with pytest.raises(ConflictError):
        router.feedback(decision.id, "thumb", False, source="user:1", key="k")
    other = router.choose("y")
    assert router.feedback(other.id, "thumb", False, source="user:1", key="k").duplicate is False


def test_a_changed_mind_replaces_and_null_revokes(router: Router) -> None:
    decision = router.choose("x")
    router.feedback(decision.id, "thumb", True, source="user:1")
    changed = router.feedback(decision.id, "thumb", False, source="user:1")
    assert changed.reward is not None
    assert changed.reward.value == 0
    assert router.beliefs()[decision.model]["n"] == 1
    revoked = router.feedback(decision.id, "thumb", None, source="user:1")
    assert revoked.reward is None
    assert router.beliefs()[decision.model]["n"] == 0
    rewards = [None if r is None else r.value for r in router.decision(decision.id).revisions]
    assert rewards == [1.0, 0.0, None]


def test_the_latest_word_wins_whenever_it_arrives(router: Router) -> None:
    decision = router.choose("x")
    late = datetime.now(UTC)
    router.feedback(decision.id, "thumb", False, source="user:1", at=late)
    earlier = router.feedback(decision.id, "thumb", True, source="user:1", at=late - timedelta(hours=1))
    assert earlier.reward is not None
    assert earlier.reward.value == 0
    # Said again later, then a contrary word from between arrives: the later one still holds.
    router.feedback(decision.id, "thumb", False, source="user:1", at=late + timedelta(hours=2))
    between = router.feedback(decision.id, "thumb", True, source="user:1", at=late + timedelta(hours=1))
    assert between.reward is not None
    assert between.reward.value == 0


def test_ties_go_to_the_last_to_come(router: Router) -> None:
    decision, at = router.choose("x"), datetime.now(UTC)
    for value in (True, False, True, False):
        heard = router.feedback(decision.id, "thumb", value, source="user:1", at=at)
        assert not heard.duplicate
        assert heard.reward is not None
        assert heard.reward.value == value


def test_a_value_is_compared_with_the_active_one(router: Router) -> None:
    decision, now = router.choose("x"), datetime.now(UTC)
    active = router.feedback(decision.id, "thumb", True, source="user:1", at=now)
    late = router.feedback(decision.id, "thumb", False, source="user:1", at=now - timedelta(hours=1))
    again = router.feedback(decision.id, "thumb", True, source="user:1", at=now - timedelta(hours=2))
    assert (late.duplicate, again.duplicate, again.id) == (False, True, active.id)
    # Under a key, or by another source, or under another name, it is a word of its own.
    assert not router.feedback(decision.id, "thumb", True, source="user:1", key="k").duplicate
    assert not router.feedback(decision.id, "thumb", True, source="user:2").duplicate
    assert not router.feedback(decision.id, "rating", 1.0, source="user:1").duplicate
    assert len(router.decision(decision.id).feedback) == 5


def test_a_late_word_does_not_return_after_a_retraction(router: Router) -> None:
    decision, now = router.choose("x"), datetime.now(UTC)
    early = router.feedback(decision.id, "thumb", True, source="user:1", at=now - timedelta(hours=3))
    active = router.feedback(decision.id, "thumb", False, source="user:1", at=now)
    assert router.retract(active.id).reward is None
    between = router.feedback(decision.id, "thumb", True, source="user:1", at=now - timedelta(hours=1))
    assert (between.duplicate, between.reward) == (False, None)
    later = router.feedback(decision.id, "thumb", True, source="user:1", at=now + timedelta(hours=1))
    assert later.reward is not None
    # What is not active may be taken back without a trace.
    assert router.retract(early.id).reward == later.reward
    assert router.beliefs()[decision.model]["n"] == 1


def test_retracting_brings_nothing_back(router: Router) -> None:
    decision = router.choose("x")
    router.feedback(decision.id, "thumb", True, source="user:1")
    second = router.feedback(decision.id, "thumb", False, source="user:1")
    assert router.retract(second.id).reward is None
    assert router.beliefs()[decision.model]["n"] == 0
    assert router.retract(second.id).duplicate
    with pytest.raises(UnknownFeedbackError):
        router.retract(NOBODY)


def test_a_comment_is_kept_and_teaches_nothing(router: Router) -> None:
    decision = router.choose("x")
    heard = router.feedback(decision.id, "comment", "It was \ud800 fine", source="user:1")
    assert heard.reward is None
    assert router.decision(decision.id).feedback[0].feedback.value == "It was � fine"


def test_metrics_of_the_routers_own(open_router: Open) -> None:
    router = open_router(metrics={"seconds_saved": Metric(low=0, high=60, weight=1.0)})
    decision = router.choose("x")
    heard = router.feedback(decision.id, "seconds_saved", 30, source="app")
    assert heard.reward is not None
    assert heard.reward.value == pytest.approx(0.5)


@EMBEDDED
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("thumb", 1, TypeError),
        ("thumb", "up", TypeError),
        ("judge", True, TypeError),
        ("judge", 1.2, ValueError),
        ("judge", float("nan"), ValueError),
        ("judge", float("-inf"), ValueError),
        ("judge", 10**400, ValueError),
        ("rating", -0.1, ValueError),
        ("comment", 3, TypeError),
        ("comment", "x" * 30_000, ValueError),
        ("applause", True, ValueError),
        ("", True, ValueError),
        (None, True, TypeError),
    ],
    ids=str,
)
def test_bad_feedback_is_refused_and_never_reaches_a_belief(
    router: Router, name: str, value: object, error: type[Exception]
) -> None:
    decision = router.choose("x")
    with pytest.raises(error):
        router.feedback(decision.id, name, value)  # type: ignore[arg-type] # that is the point
    assert router.beliefs()[decision.model]["n"] == 0


@EMBEDDED
@pytest.mark.parametrize(
    "at",
    [datetime(2026, 1, 1), datetime(9000, 1, 1, tzinfo=UTC), -1.0, float("nan"), "yesterday"],
    ids=str,
)
def test_bad_moments_are_refused(router: Router, at: object) -> None:
    decision = router.choose("x")
    with pytest.raises((TypeError, ValueError)):
        router.feedback(decision.id, "thumb", True, at=at)  # type: ignore[arg-type] # that is the point


def test_feedback_on_unknown_decisions(router: Router, open_router: Open) -> None:
    for unknown in (NOBODY, "not-an-id"):
        with pytest.raises(UnknownDecisionError):
            router.feedback(unknown, "thumb", True)
    other = open_router(name="other")
    decision = other.choose("x")
    with pytest.raises(UnknownDecisionError):
        router.feedback(decision.id, "thumb", True)
    with pytest.raises(UnknownDecisionError):
        router.decision(NOBODY)


def test_feedback_about_a_conversation(router: Router) -> None:
    first, second = (router.choose("x", conversation="c", user="user:7") for _ in range(2))
    assert second.conversation_head == first.id
    heard = router.feedback(None, "thumb", True, conversation="c", key="k")
    assert (heard.decision_id, heard.source, heard.applied) == (first.id, "user:7", True)
    again = router.feedback(None, "thumb", True, conversation="c", key="k")
    assert (again.id, again.duplicate) == (heard.id, True)
    assert router.feedback(first.id, "thumb", True, key="k").duplicate
    with pytest.raises(ConflictError):
        router.feedback(None, "thumb", False, conversation="c", key="k")
    assert router.beliefs()[first.model]["n"] == 1


def test_feedback_about_a_conversation_whose_turns_are_drawn_anew(open_router: Open) -> None:
    router = open_router(sticky=False)
    first = router.choose("x", conversation="c")
    heard = router.feedback(None, "thumb", True, conversation="c", key="k")
    second = router.choose("y", conversation="c")
    # Sent again after the conversation went on, it is still about the turn that was the latest then.
    again = router.feedback(None, "thumb", True, conversation="c", key="k")
    assert (again.id, again.decision_id, again.duplicate) == (heard.id, first.id, True)
    assert router.feedback(None, "thumb", True, conversation="c").decision_id == second.id


def test_feedback_is_about_a_decision_or_a_conversation(router: Router, open_router: Open) -> None:
    decision = router.choose("x", conversation="c")
    with pytest.raises(UnknownDecisionError, match="no conversation 'd'"):
        router.feedback(None, "thumb", True, conversation="d")
    with pytest.raises(UnknownDecisionError, match="no conversation 'c' in router 'other'"):
        open_router(name="other").feedback(None, "thumb", True, conversation="c")
    with pytest.raises(TypeError, match="either"):
        router.feedback(None, "thumb", True)
    with pytest.raises(TypeError, match="either"):
        router.feedback(decision.id, "thumb", True, conversation="c")
    with pytest.raises(ValueError, match="conversation"):
        router.feedback(None, "thumb", True, conversation="")


def test_feedback_may_come_before_its_decision(open_router: Open) -> None:
    here, there = open_router(), open_router()
    decision = open_router(log="sqlite://").choose("x", user="user:7")
    early = here.feedback(decision.id, "thumb", True)
    assert (early.applied, early.pending, early.source, early.reward) == (False, True, None, None)
    assert asyncio.run(there.afeedback(decision.id, "thumb", True)).duplicate
    with pytest.raises(UnknownDecisionError):
        here.decision(decision.id)
    appear(here, decision)
    wait_until(lambda: all(r.beliefs()[decision.model]["n"] == 1 for r in (here, there)))
    (said,) = there.decision(decision.id).feedback
    assert (said.feedback.id, said.feedback.source, said.feedback.applied) == (early.id, "user:7", True)
    assert there.retract(early.id).reward is None
    assert here.beliefs()[decision.model]["n"] == 0


def test_what_was_taken_back_before_its_decision_teaches_nothing(open_router: Open) -> None:
    router = open_router()
    decision = open_router(log="sqlite://").choose("x")
    early = router.feedback(decision.id, "thumb", True)
    assert router.retract(early.id).pending
    assert router.retract(early.id).duplicate
    appear(router, decision)
    wait_until(lambda: len(router.decision(decision.id).feedback) == 1)
    assert router.beliefs()[decision.model]["n"] == 0


def test_forgetting_a_user_reaches_what_waits(open_router: Open) -> None:
    router = open_router()
    decision = open_router(log="sqlite://").choose("x", user="user:8")
    for source in ("user:7", "user:8"):
        assert router.feedback(decision.id, "thumb", True, source=source).pending
    assert router.forget_user("user:7").feedback == 1
    appear(router, decision)
    wait_until(lambda: len(router.decision(decision.id).feedback) == 1)
    assert router.decision(decision.id).feedback[0].feedback.source == "user:8"


def test_the_source_is_the_user_unless_said_otherwise(router: Router) -> None:
    mine, nobodys = router.choose("x", user="user:7"), router.choose("x")
    assert router.feedback(mine.id, "thumb", True).source == "user:7"
    assert router.feedback(nobodys.id, "thumb", True).source == f"anonymous:{nobodys.id}"


# -- learning --------------------------------------------------------------------------------------


def test_it_learns_which_model_is_better(open_router: Open) -> None:
    router = open_router(policy=ThompsonSampling())
    teach(router, {"small": 0.2, "large": 0.9}, rounds=40)
    decision = router.choose("question 100")
    assert decision.probabilities["large"] > 0.95
    assert decision.probabilities["small"] >= 0.005 - 1e-12  # half of the floor of 0.01


def test_a_preference_acts_on_the_next_request(open_router: Open) -> None:
    router = open_router(policy=Greedy(), floor=0.0)
    teach(router, {"small": 0.7, "large": 0.8}, rounds=20)
    assert router.choose("x").model == "large"
    assert router.choose("x", preference=Preference(price_weight=1.0)).model == "small"
    router.configure(preference=Preference(price_weight=1.0))
    decision = router.choose("x")
    assert decision.model == "small"
    assert decision.cost_unit_usd is not None
    router.configure(preference=Preference())
    assert router.choose("x").model == "large"
    assert router.settings.cost_unit_usd == decision.cost_unit_usd  # fixed when first used
    router.put_model(Model("dearest", output_usd_per_mtok=500.0))
    assert router.choose("x").cost_unit_usd == decision.cost_unit_usd


def test_a_quality_floor_acts_on_the_next_request(open_router: Open) -> None:
    router = open_router(policy=Greedy(), floor=0.1, preference=Preference(price_weight=1.0))
    teach(router, {"small": 0.4, "large": 0.9}, rounds=30)
    assert set(router.choose("x").probabilities) == {"small", "large"}
    strict = Preference(price_weight=1.0, max_quality_drop=0.02)
    decision = router.choose("x", preference=strict)
    assert decision.probabilities == {"large": 1.0}
    assert decision.reason == "only"
    assert router.choose("x", preference=strict, models=["small"]).model == "small"
    router.configure(preference=strict)
    assert router.choose("x").probabilities == {"large": 1.0}
    assert set(router.choose("x", preference=Preference()).probabilities) == {"small", "large"}


def test_a_key_holds_to_its_quality_floor(open_router: Open) -> None:
    router = open_router()
    first = router.choose("x", key="a", preference=Preference(max_quality_drop=0.1))
    assert router.choose("x", key="a", preference=Preference(max_quality_drop=0.1)).id == first.id
    with pytest.raises(ConflictError):
        router.choose("x", key="a", preference=Preference(max_quality_drop=0.2))


def test_a_budget_is_kept(open_router: Open) -> None:
    cheap, dear = Model("cheap", output_usd_per_mtok=1.0), Model("dear", output_usd_per_mtok=100.0)
    router = open_router(
        models=[cheap, dear], budget_usd_per_request=0.01, durable=False, seed=1, worker=1
    )
    teach(router, {"cheap": 0.4, "dear": 0.9}, rounds=10)
    router.configure(budget_usd_per_request=0.0101)  # counts from now on
    spent = 0.0
    for _ in range(600):
        decision = router.choose("x")
        model = cheap if decision.model == "cheap" else dear
        outcome = Outcome(input_tokens=1, output_tokens=300)
        spent += model.cost_usd(1, 300)
        router.report(decision.id, outcome)
    # 600 draws of dollars 0.0003 and 0.03 spread by 0.0006 a request.
    assert spent / 600 == pytest.approx(0.0101, rel=0.1)
    assert spent <= (600 + ADVANCE + 3) * 0.0101


# -- models, settings ------------------------------------------------------------------------------


def test_models_come_go_and_return_with_their_evidence(router: Router) -> None:
    teach(router, {"small": 0.9}, rounds=5)
    router.retire_model("small")
    assert router.choose("x").probabilities == {"large": 1.0}
    assert router.beliefs()["small"]["retired"]
    with pytest.raises(UnknownModelError):
        router.retire_model("small")
    with pytest.raises(UnknownModelError):
        router.retire_model("nobody")
    router.put_model(Model("small", output_usd_per_mtok=0.5))
    assert router.beliefs()["small"]["n"] == pytest.approx(2.5)
    router.put_model(Model("small"), reset=True)
    assert router.beliefs()["small"]["n"] == 0
    router.put_model(Model("new"))
    assert set(router.choose("x").probabilities) == {"small", "large", "new"}
    with pytest.raises(TypeError):
        router.put_model("small")  # type: ignore[arg-type] # that is the point


def test_late_feedback_for_a_reset_model_does_not_count(router: Router) -> None:
    decision = router.choose("x", models=["small"])
    router.put_model(Model("small"), reset=True)
    assert router.feedback(decision.id, "thumb", True).applied
    assert router.beliefs()["small"]["n"] == 0
    router.rebuild()
    assert router.beliefs()["small"]["n"] == 0


def test_settings_in_the_log_win_unless_applied(
    open_router: Open, caplog: pytest.LogCaptureFixture
) -> None:
    open_router(policy=LinUCB(alpha=0.3), half_life=timedelta(days=3)).close()
    third = Model("third")
    again = open_router(policy=Greedy(), models=[third])
    assert again.settings.policy == LinUCB(alpha=0.3)
    assert [m.name for m in again.models] == ["small", "large"]
    assert "apply=True" in caplog.text
    again.close()
    applied = open_router(policy=Greedy(), models=[third], apply=True)
    assert applied.settings.policy == Greedy()
    assert applied.settings.half_life == timedelta(days=3)  # not named, so it stays
    assert [m.name for m in applied.models] == ["third"]


def test_settings_changed_by_one_worker_are_used_by_all(open_router: Open) -> None:
    one, two = open_router(), open_router()
    one.configure(policy=Greedy(), floor=0.0)
    one.put_model(Model("third"))
    wait_until(lambda: two.settings.policy == Greedy() and len(two.models) == 3)


@EMBEDDED
@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "thompson"},
        {"preference": 0.3},
        {"cost_unit_usd": 0.0},
        {"budget_usd_per_request": -1.0},
        {"budget_usd_per_request": float("nan")},
        {"half_life": 3600},
        {"half_life": timedelta(0)},
        {"floor": 1.5},
        {"floor": "much"},
        {"features": "magic"},
        {"text": "some"},
        {"sticky": 1},
        {"metrics": {"x": 1}},
        {"colour": "red"},
        {"budget_since": 0.0},
    ],
    ids=str,
)
def test_bad_settings_are_refused(open_router: Open, settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        open_router(**settings)
    router = open_router()
    with pytest.raises(SettingsError):
        router.configure(**settings)  # type: ignore[arg-type] # that is the point
    assert router.choose("x").id


def test_bad_ways_to_open(open_router: Open) -> None:
    with pytest.raises(SettingsError):
        open_router(log="nonsense")
    with pytest.raises(SettingsError):
        open_router(store="ftp://somewhere")
    with pytest.raises(ValueError, match="twice"):
        open_router(models=[Model("a"), Model("a")])
    with pytest.raises(TypeError):
        open_router(models=["small"])
    with pytest.raises(ValueError):
        open_router(name="")
    with pytest.raises(SettingsError, match="no router"):
        open_router(name="absent", create=False)


# -- forgetting, rebuilding ------------------------------------------------------------------------


def test_forgetting_a_user_unlearns_and_erases(open_router: Open) -> None:
    router, other = open_router(), open_router()
    mine = [router.choose(f"mine {i}", user="user:1", models=["small"]) for i in range(5)]
    theirs = router.choose("theirs", user="user:2", models=["small"])
    for decision in [*mine, theirs]:
        router.feedback(decision.id, "thumb", True, source="user:1")
    router.feedback(theirs.id, "judge", 0.2, source="judge:a")
    router.report(mine[0].id, Outcome(output_tokens=10), answer="secret")
    counts = router.forget_user("user:1")
    assert (counts.decisions, counts.feedback, counts.outcomes, counts.texts) == (5, 6, 1, 5)
    belief = router.beliefs()["small"]
    assert belief["n"] == pytest.approx(0.5)
    assert belief["mean_reward"] == pytest.approx(0.2)
    wait_until(lambda: other.beliefs()["small"]["n"] == pytest.approx(0.5))
    with pytest.raises(UnknownDecisionError):
        router.decision(mine[0].id)
    assert router.forget_user("user:1").decisions == 0
    assert router.rebuild().encoded == 0
    assert router.beliefs()["small"]["n"] == pytest.approx(0.5)


def test_forgetting_reaches_checkpoints(open_router: Open) -> None:
    router = open_router()
    for i in range(4):
        decision = router.choose(f"x {i}", user=f"user:{i % 2}", models=["small"])
        router.feedback(decision.id, "rating", 0.25 + 0.5 * (i % 2))
    router.close()  # keeps a checkpoint
    router = open_router()
    router.forget_user("user:1")
    router.close()
    router = open_router()
    belief = router.beliefs()["small"]
    assert belief["n"] == pytest.approx(2, abs=1e-9)
    assert belief["mean_reward"] == pytest.approx(0.25)


def test_rebuild_equals_what_was_live(router: Router) -> None:
    teach(router, {"small": 0.3, "large": 0.6}, rounds=6)
    live = router.beliefs()
    generation = router.rebuild().generation
    assert generation == 1
    rebuilt = router.beliefs()
    for model, belief in live.items():
        assert rebuilt[model]["n"] == pytest.approx(belief["n"], rel=1e-9)
        assert rebuilt[model]["mean_reward"] == pytest.approx(belief["mean_reward"], rel=1e-9)


def test_other_features_encode_the_log_again(open_router: Open) -> None:
    router, other = open_router(), open_router()
    teach(router, {"small": 0.3, "large": 0.6}, rounds=10)
    done = router.rebuild("hashed:buckets=16")
    assert (done.features, done.encoded) == ("hashed:buckets=16", 20)
    assert router.beliefs()["small"]["n"] == 5
    assert router.choose("x").features.shape == (32,)
    wait_until(lambda: other.choose("x").features.shape == (32,))
    other.close()
    assert open_router().choose("x").features.shape == (32,)


def test_fitted_features_are_kept_in_the_log(open_router: Open) -> None:
    router = open_router()
    topics = ("code review of a python function", "a poem about the sea", "integrate x squared")
    for i in range(30):
        decision = router.choose(f"{topics[i % 3]} {i}")
        router.feedback(decision.id, "rating", 0.5)
    fitted = router.fit_features(components=4)
    assert isinstance(fitted, FittedFeatures)
    router.rebuild(fitted)
    x = router.choose("a poem about the sea").features
    router.close()
    again = open_router().choose("a poem about the sea")
    assert again.features.tobytes() == x.tobytes()
    assert again.features_version == fitted.version


def test_decisions_without_text_stand_in_the_way_of_new_features(open_router: Open) -> None:
    router = open_router(text="hash")
    teach(router, {"small": 0.25}, rounds=4)
    with pytest.raises(FeaturesError, match="4 decisions"):
        router.rebuild("hashed:buckets=16")
    assert router.settings.features == "hashed"
    done = router.rebuild("hashed:buckets=16", textless="mean")
    assert done.textless == 4
    assert router.beliefs()["small"]["mean_reward"] == pytest.approx(0.25)
    with pytest.raises(FeaturesError):
        router.configure(features="hashed:buckets=8")
    with pytest.raises(ValueError):
        router.rebuild(textless="ignore")
    with pytest.raises(SettingsError):
        router.rebuild("magic")
    with pytest.raises(FeaturesError):
        router.rebuild("fitted:unknown")


def test_text_is_kept_as_the_setting_says(open_router: Open) -> None:
    for text in ("full", "hash", "none"):
        router = open_router(name=text, text=text)
        decision = router.choose("a secret")
        router.report(decision.id, Outcome(), answer="another")
        story = router.decision(decision.id)
        assert (story.prompt, story.answer) == (
            ("a secret", "another") if text == "full" else (None, None)
        )
        assert (story.prompt_hash is None) == (text == "none")


def test_a_half_life_fades_old_evidence(open_router: Open) -> None:
    router = open_router(half_life=timedelta(seconds=0.4))
    decision = router.choose("x", models=["small"])
    router.feedback(decision.id, "thumb", True)
    first = router.beliefs()["small"]["n"]
    assert 0 < first < 1
    wait_until(lambda: router.beliefs()["small"]["n"] < first / 2)
    router.configure(half_life=None)  # a refold
    assert router.beliefs()["small"]["n"] == 1
    assert to_us(decision.at) > 0


# -- lifetimes, threads, async ---------------------------------------------------------------------


def test_everything_survives_a_restart(open_router: Open) -> None:
    router = open_router()
    teach(router, {"small": 0.3, "large": 0.9}, rounds=8)
    before, kept = router.beliefs(), router.choose("x", conversation="c")
    router.close()
    router.close()
    with pytest.raises(ClosedError):
        router.choose("x")
    again = open_router()
    for model, belief in again.beliefs().items():
        assert belief["n"] == pytest.approx(before[model]["n"], rel=1e-9)
    assert again.choose("y", conversation="c").model == kept.model


def test_not_durable_still_arrives(open_router: Open) -> None:
    router = open_router(durable=False)
    decisions = [router.choose(f"x {i}") for i in range(50)]
    router.close()
    again = open_router()
    assert all(again.decision(decision.id).prompt for decision in decisions)


def test_many_threads(open_router: Open) -> None:
    router = open_router()
    errors: list[BaseException] = []

    def live(user: int) -> None:
        try:
            for i in range(15):
                decision = router.choose(f"question {i}", user=f"user:{user}", conversation=f"c{i % 3}")
                router.report(decision.id, Outcome(output_tokens=10))
                router.feedback(decision.id, "thumb", i % 2 == 0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=live, args=(user,)) for user in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(belief["n"] for belief in router.beliefs().values()) == 8 * 15


def test_async_twins_do_not_block_the_loop(open_router: Open) -> None:
    async def live() -> None:
        async with open_router() as router:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            decisions = await asyncio.gather(
                *(router.achoose(f"x {i}", conversation="c") for i in range(20))
            )
            await asyncio.gather(*(router.areport(d.id, Outcome(latency_s=1.0)) for d in decisions))
            heard = await asyncio.gather(*(router.afeedback(d.id, "thumb", True) for d in decisions))
            assert all(h.applied for h in heard)
            assert ticks > 20
            ticking.cancel()
            with pytest.raises(UnknownDecisionError):
                await router.afeedback(NOBODY, "thumb", True)
            keyed = await router.achoose("x", key="k")
            assert (await router.achoose("x", key="k")).id == keyed.id

    asyncio.run(live())


def appear(router: Router, decision: Decision) -> None:
    """A decision that another worker has made becomes visible in the log."""
    rows = decision_rows(decision, "x", keep="full", input_tokens=1.0, body_hash=None)
    committed(router.log.writer.insert(*rows))


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for another thread's work; the bound only ends a hopeless wait."""
    done = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if true():
            return
        done.wait(0.02)
    raise AssertionError("it did not become true in time")
