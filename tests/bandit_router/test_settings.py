"""Settings: checked at every name, and the same after a trip through JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.errors import SettingsError
from bandit_router.events import Model
from bandit_router.policies import EpsilonGreedy, Greedy, InverseGapWeighting, LinUCB, ThompsonSampling
from bandit_router.preference import Preference
from bandit_router.rewards import METRICS, Metric, Trust
from bandit_router.settings import Settings, model_from_json, model_to_json, settings_changes

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
weights = st.floats(0, 1e6)
trusts = st.builds(
    Trust,
    weight=st.floats(0, 1),
    slope=st.floats(-9, 9),
    offset=st.floats(-9, 9),
    probed=st.floats(0, 1),
)
metrics = st.builds(
    Metric,
    kind=st.sampled_from(["bool", "number", "text"]),
    weight=st.floats(0, 1),
    low=st.floats(-10, -1),
    high=st.floats(0, 10),
    trust=st.dictionaries(names, trusts, max_size=2),
)
periods = st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=50 * 365))
drops = st.none() | st.floats(0, 1)
all_settings = st.builds(
    Settings,
    policy=st.builds(LinUCB, alpha=weights)
    | st.builds(ThompsonSampling, width=weights)
    | st.builds(InverseGapWeighting, gamma=weights)
    | st.builds(EpsilonGreedy, epsilon=st.floats(0, 1))
    | st.just(Greedy()),
    preference=st.builds(
        Preference, price_weight=weights, latency_weight=weights, max_quality_drop=drops
    ),
    cost_unit_usd=st.none() | st.floats(1e-9, 1e6),
    budget_usd_per_request=st.none() | st.floats(1e-9, 1e6),
    half_life=periods,
    floor=st.floats(0, 1),
    features=st.sampled_from(["hashed", "hashed:buckets=8", "vectors:dim=5"]),
    text=st.sampled_from(["full", "hash", "none"]),
    text_retention=periods,
    sticky=st.booleans(),
    metrics=st.dictionaries(names, metrics, max_size=3),
    budget_since=st.none() | st.floats(0, 4e9),
)


@given(all_settings)
def test_json_gives_the_same_settings_back(settings: Settings) -> None:
    body = json.loads(json.dumps(settings.to_json(), allow_nan=False))
    assert Settings.from_json(body) == settings


def test_absent_is_the_default() -> None:
    assert Settings.from_json({}) == Settings()
    assert Settings().metrics == METRICS
    changed = Settings.from_json({"policy": "greedy", "metrics": {"judge": {"weight": 0.9}}})
    assert changed.policy == Greedy()
    assert changed.metrics == {**METRICS, "judge": Metric(weight=0.9)}


def test_numbers_of_numpy_and_whole_ones_become_floats() -> None:
    settings = Settings(cost_unit_usd=np.float32(0.5), budget_usd_per_request=1, floor=np.float64(0))
    body = json.loads(json.dumps(settings.to_json()))
    assert (body["cost_unit_usd"], body["budget_usd_per_request"], body["floor"]) == (0.5, 1.0, 0.0)


class _Own(Greedy):
    """A policy that no SPEC gives back, so that no other worker could read it from the log."""


WRONG: list[tuple[str, Any, str]] = [
    ("policy", "greedy", "expected a Policy like .*, got 'greedy'"),
    ("policy", None, "expected a Policy"),
    ("policy", ThompsonSampling, "expected a Policy like .*, got <class"),
    ("policy", _Own(), "'greedy' does not give it back"),
    ("preference", None, "expected a Preference"),
    ("preference", {"price_weight": 1.0}, "expected a Preference"),
    *(
        (name, bad, "")
        for name in ("cost_unit_usd", "budget_usd_per_request")
        for bad in (0, -1.0, 1e-300, math.nan, math.inf, True, "1", [])
    ),
    *(
        (name, bad, "expected a positive timedelta")
        for name in ("half_life", "text_retention")
        for bad in (timedelta(0), timedelta(-1), 5, 5.0, "1h", True)
    ),
    ("half_life", timedelta.max, "seconds"),
    *(("floor", bad, "") for bad in (None, -0.01, 1.01, math.nan, True, "0.1")),
    *(("features", bad, "") for bad in (None, "", 5, "a\nb")),
    *(("text", bad, "full, hash or none") for bad in (None, "", "FULL", 5, [], True)),
    *(
        (name, bad, "true or false")
        for name in ("sticky", "drift_detection")
        for bad in (None, 1, "yes")
    ),
    ("metrics", None, "expected an object"),
    ("metrics", [("a", Metric())], "expected an object"),
    ("metrics", {"": Metric()}, "expected 1 to 255"),
    ("metrics", {5: Metric()}, "expected a text"),
    ("metrics", {"a": {"weight": 1.0}}, "expected a Metric"),
    *(
        (name, bad, "")
        for name in ("budget_since", "rater_limit")
        for bad in (-1.0, math.nan, "now", True)
    ),
]


@pytest.mark.parametrize(("name", "bad", "message"), WRONG)
def test_wrong_values_name_their_setting(name: str, bad: object, message: str) -> None:
    shown = "metric" if name == "metrics" else name
    with pytest.raises(SettingsError, match=rf"^{shown}.*{message}"):
        Settings(**{name: bad})  # type: ignore[arg-type]  # that is what is tested


def test_every_setting_is_tried_with_a_wrong_value() -> None:
    assert {name for name, _, _ in WRONG} == {f.name for f in fields(Settings)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "settings: expected an object, got NoneType"),
        ([], "settings: expected an object, got list"),
        ("greedy", "settings: expected an object, got str"),
        ({"polcy": "greedy"}, "no setting 'polcy'; there are budget_since, .*policy"),
        ({5: "greedy"}, "no setting 5"),
        ({"half_life": 5}, "no setting 'half_life'; .*half_life_s"),
        ({"policy": 5}, "policy: "),
        ({"policy": "ucb"}, "no policy 'ucb'; there are linucb"),
        ({"policy": "linucb:alpha=nan"}, "alpha"),
        ({"policy": None}, "policy"),
        ({"preference": 5}, "preference: expected an object"),
        ({"preference": {"price": 1}}, "preference: .*price"),
        ({"preference": {5: 1}}, "preference"),
        ({"preference": {"price_weight": -1}}, "preference: price_weight"),
        ({"half_life_s": "1h"}, "half_life_s: "),
        ({"half_life_s": -1}, "half_life_s: "),
        ({"half_life_s": 0}, "half_life: expected a positive timedelta"),
        ({"half_life_s": 1e300}, "half_life_s: "),
        ({"text_retention_s": math.nan}, "text_retention_s: "),
        ({"metrics": []}, "metrics: expected an object"),
        ({"metrics": {"stars": 5}}, "metrics: expected an object, got int"),
        ({"metrics": {"stars": {"kind": "star"}}}, "kind"),
        ({"metrics": {"stars": {"kind": []}}}, "kind"),
        ({"metrics": {"stars": {"low": 1, "high": 1}}}, "low and high"),
        ({"metrics": {"stars": {"size": 1}}}, "metrics: .*size"),
        ({"metrics": {"stars": {"trust": 1}}}, "metrics: expected an object"),
        ({"metrics": {"stars": {"trust": {"a": {"size": 1}}}}}, "metrics: .*size"),
        ({"floor": "0.1"}, "floor"),
        ({"floor": None}, "floor"),
        ({"text": "some"}, "text"),
        ({"sticky": 1}, "sticky"),
    ],
)
def test_wrong_json(body: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_json(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(Settings().to_json())), json_values))
def test_any_json_is_settings_or_a_settings_error(body: Mapping[str, object]) -> None:
    try:
        settings = Settings.from_json(body)
    except SettingsError:
        return
    assert Settings.from_json(settings.to_json()) == settings


def test_changes() -> None:
    settings = Settings().with_changes({"floor": 0.1, "policy": Greedy()}, now=5.0)
    assert (settings.floor, settings.policy, settings.budget_since) == (0.1, Greedy(), None)
    budgeted = settings.with_changes({"budget_usd_per_request": 0.01}, now=7.0)
    assert (budgeted.budget_since, budgeted.floor) == (7.0, 0.1)
    again = budgeted.with_changes({"budget_usd_per_request": 0.01, "floor": 0.2}, now=9.0)
    assert again.budget_since == 7.0
    assert again.with_changes({"budget_usd_per_request": 0.02}, now=9.0).budget_since == 9.0
    assert settings.with_changes({}, now=1.0) == settings
    for bad in ({"flor": 0.1}, {"budget_since": 1.0}, {"half_life_s": 1.0}):
        with pytest.raises(SettingsError, match=r"no setting '.*'; there are budget_usd_per_request"):
            settings.with_changes(bad, now=1.0)
    with pytest.raises(SettingsError, match="floor"):
        settings.with_changes({"floor": 2.0}, now=1.0)


def test_half_life_in_seconds() -> None:
    assert Settings(half_life=timedelta(days=7)).half_life_s == 604_800.0
    assert Settings().half_life_s is None
    assert settings_changes({"half_life_s": 60, "text_retention_s": None}) == {
        "half_life": timedelta(minutes=1),
        "text_retention": None,
    }


@given(
    st.builds(
        Model,
        names,
        input_usd_per_mtok=weights,
        output_usd_per_mtok=weights,
        context_tokens=st.none() | st.integers(1, 10**7),
    )
)
def test_json_gives_the_same_model_back(model: Model) -> None:
    assert model_from_json(json.loads(json.dumps(model_to_json(model)))) == model


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "model: expected an object, got NoneType"),
        ({}, "model: .*name"),
        ({"name": ""}, "model: model name"),
        ({"name": "a", "price": 1}, "model: .*price"),
        ({"name": "a", "input_usd_per_mtok": "1"}, "model: input_usd_per_mtok"),
    ],
)
def test_wrong_models(body: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        model_from_json(body)
