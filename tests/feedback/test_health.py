"""Alarms: a loop that is well raises none; each thing that breaks one raises its own, and no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit_router import Model
from bandit_router.errors import SettingsError
from bandit_router.log.recent import Recent, Seen
from bandit_router.log.registration import Registration
from bandit_router.preference import Preference
from bandit_router.settings import Settings
from feedback.health import LOOP, alarms_of
from feedback.thresholds import Thresholds, thresholds_from_json
from feedback.vitals import Count, vitals_of

NOW = 1_800_000_000.0
N, SLICES = 2_400, 24
P = {"large": 0.3, "small": 0.7}
Change = Callable[[int, Seen], Seen]
Case = tuple[str, str, Change, dict[str, Any]]  # Any: of Recent


def registration(**settings: Any) -> Registration:
    preference = Preference(price_weight=0.3)
    return Registration(
        name="default",
        created_us=0,
        revision=1,
        generation=0,
        settings=Settings(preference=preference, **settings),
        models=(Model("large", output_usd_per_mtok=10.0), Model("small", output_usd_per_mtok=0.6)),
    )


def well(n: int = N) -> Recent:
    """A day of a loop that is well."""
    rng = np.random.default_rng(0)
    seen = []
    for i in range(n):
        model = "large" if rng.random() < P["large"] else "small"
        liked = bool(rng.random() < 0.8)
        heard = rng.random() < 0.3
        seen.append(
            Seen(
                id=f"d{i}",
                at=NOW - 86_400 * (1 - i / n),
                place=SLICES * i // n,
                model=model,
                reason="exploit" if model == "small" else "explore",
                probabilities=P,
                features_version="hashed:1",
                features=rng.normal(size=64),
                outcome=True,
                cost_known=True,
                reward=float(liked) if heard else None,
                words=(("thumb", "true" if liked else "false", 1.0),) if heard else (),
            )
        )
    return Recent(since=NOW - 86_400, until=NOW, slices=SLICES, seen=tuple(seen), decisions=float(n))


def codes(recent: Recent, **settings: Any) -> set[str]:
    vitals = vitals_of(recent, registration(**settings))
    return {alarm.code for alarm in alarms_of(vitals, Thresholds())}


def test_a_loop_that_is_well_raises_nothing() -> None:
    assert codes(well()) == set()


def test_little_data_raises_nothing_however_bad() -> None:
    bad = well(50)
    seen = tuple(
        replace(s, model="large", outcome=False, words=(), reward=None, reason="degraded")
        for s in bad.seen
    )
    assert codes(replace(bad, seen=seen)) == set()
    assert codes(Recent(since=NOW - 86_400, until=NOW)) == set()


def unheard(i: int, s: Seen) -> Seen:
    return replace(s, words=(), reward=None)


def same(_: int, s: Seen) -> Seen:
    return replace(s, words=tuple((name, "true", 1.0) for name, *_ in s.words))


def capped(i: int, s: Seen) -> Seen:
    return replace(s, words=tuple((*word[:2], 0.1 if i % 4 == 0 else 1.0) for word in s.words))


def one_model(_: int, s: Seen) -> Seen:
    return replace(s, model="small", probabilities={"large": 0.01, "small": 0.99})


def lower(_: int, s: Seen) -> Seen:
    return replace(s, probabilities={"large": 0.3, "medium": 1e-4, "small": 0.6999})


def never_explored(_: int, s: Seen) -> Seen:
    return replace(s, model="small" if s.model == "small" or int(s.id[1:]) % 2 else "large")


def drifted(i: int, s: Seen) -> Seen:
    assert s.features is not None
    return replace(s, features=s.features + (i >= N * 3 / 4) * np.eye(64)[17])


def worse(i: int, s: Seen) -> Seen:
    if s.reward is None or s.model != "small" or i < N / 2:
        return s
    value = float(s.reward and i % 2)
    return replace(s, reward=value, words=(("thumb", str(bool(value)).lower(), 1.0),))


def nothing(_: int, s: Seen) -> Seen:
    return s


BROKEN: list[Case] = [
    ("feedback_missing", "0 of 2,", unheard, {}),
    ("words_lost", "100 of 8", nothing, {"waiting": 100}),
    ("feedback_constant", "'thumb' say true", same, {}),
    ("one_model", "'small' served", one_model, {}),
    ("floor_broken", "had 0.03 of", lower, {}),
    ("draws_unlike", "expected 720", never_explored, {}),
    ("features_drift", "feature 17 is 1 standard", drifted, {}),
    ("rewards_drift", "mean reward of 'small'", worse, {}),
    ("outcomes_missing", "expected 50%", lambda i, s: replace(s, outcome=i % 3 == 0), {}),
    ("costs_unknown", "cost is not known", lambda i, s: replace(s, cost_known=i % 3 == 0), {}),
    ("judge_failing", "'j'", nothing, {"judged": {"j": Counter(graded=50, malformed=40, failed=10)}}),
    ("degraded", "(20 %)", lambda i, s: replace(s, reason="degraded") if i % 5 == 0 else s, {}),
    ("words_capped", "count less than half", capped, {}),
]


@pytest.mark.parametrize(("code", "said", "change", "more"), BROKEN, ids=[case[0] for case in BROKEN])
def test_each_thing_that_breaks_raises_its_alarm_alone(
    code: str, said: str, change: Change, more: dict[str, Any]
) -> None:
    good = well()
    broken = replace(good, seen=tuple(change(i, s) for i, s in enumerate(good.seen)), **more)
    vitals = vitals_of(broken, registration())
    alarms = alarms_of(vitals, Thresholds())
    # Where one model takes all, the other's draws are few: nothing else follows from that.
    assert [alarm.code for alarm in alarms] == [code]
    assert said in alarms[0].message
    assert alarms[0].router == "default"


def test_every_alarm_is_tried() -> None:
    assert {case[0] for case in BROKEN} == set(LOOP)


def test_a_drift_says_since_when() -> None:
    good = well()
    broken = replace(good, seen=tuple(drifted(i, s) for i, s in enumerate(good.seen)))
    vitals = vitals_of(broken, registration())
    assert vitals.features is not None
    assert vitals.moments[int(vitals.features.place)] == NOW - 6 * 3600


def test_what_a_budget_or_an_older_setting_explains_is_no_broken_floor() -> None:
    good = well()
    broken = replace(good, seen=tuple(lower(i, s) for i, s in enumerate(good.seen)))
    assert codes(broken, budget_usd_per_request=0.1) == set()
    assert codes(broken, floor=0.0) == set()
    assert codes(replace(broken, configured=NOW - 60)) == set()


def test_costs_that_nothing_depends_on_may_be_unknown() -> None:
    good = well()
    broken = replace(good, seen=tuple(replace(s, cost_known=False) for s in good.seen))
    plain = replace(registration(), settings=Settings())
    assert alarms_of(vitals_of(broken, plain), Thresholds()) == ()


def test_thresholds_come_from_a_table() -> None:
    assert thresholds_from_json({"join_rate": 0.1, "window_h": 2}).join_rate == 0.1
    for bad, said in [
        ({"joinrate": 1}, "no entry 'joinrate'"),
        ({"join_rate": 2}, "join_rate"),
        ({"slices": 0}, "slices"),
        ({"drift": "much"}, "drift"),
        ({"window_h": 0}, "window_h"),
    ]:
        with pytest.raises(SettingsError, match=said):
            thresholds_from_json(bad)
    low = Thresholds(join_rate=0.0, top_share=1.0)
    good = well()
    for change in (unheard, one_model):
        broken = replace(good, seen=tuple(change(i, s) for i, s in enumerate(good.seen)))
        assert alarms_of(vitals_of(broken, registration()), low) == ()


def test_none_of_none() -> None:
    assert str(Count()) == "none of none"
    assert not Count().share < 1
