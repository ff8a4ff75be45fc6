"""How a router comes into the log, and how its settings change there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypedDict

import sqlalchemy as sa

from bandit_router.embeddings import extractor_from_spec
from bandit_router.errors import FeaturesError, SettingsError
from bandit_router.events import Model
from bandit_router.features import FeatureExtractor
from bandit_router.log import EventLog, registration
from bandit_router.log.bases import has_bases
from bandit_router.log.deciding import has_decisions
from bandit_router.log.registration import Registration
from bandit_router.log.writer import committed
from bandit_router.policies import Policy
from bandit_router.preference import Preference
from bandit_router.rebuilding import Refolded, faded, take_over
from bandit_router.rewards import Metric
from bandit_router.settings import Settings, TextPolicy
from bandit_router.view import Extractors, keep_artefact, known_extractor, lens_of

logger = logging.getLogger(__name__)


class SettingsArguments(TypedDict, total=False):
    """The settings of a router, as keyword arguments; `Settings` says what each is."""

    policy: Policy
    preference: Preference
    cost_unit_usd: float | None
    budget_usd_per_request: float | None
    half_life: timedelta | None
    floor: float
    features: str | FeatureExtractor
    text: TextPolicy
    text_retention: timedelta | None
    sticky: bool
    metrics: Mapping[str, Metric]
    rater_limit: float | None
    drift_detection: bool


def register(
    log: EventLog,
    name: str,
    models: Sequence[Model],
    settings: Mapping[str, Any],  # of each setting's own type
    *,
    apply: bool,
    create: bool,
    now: float,
) -> Registration:
    """Return a router as the log has it: made, changed or just found there.

    Raises
    ------
    SettingsError
        A bad setting; or there is no such router, and `create` is False.
    """
    _check(models)
    Settings().with_changes({name: settings[name] for name in settings.keys() - {"features"}}, now=now)
    if not create and log.read(lambda c: registration.versions(c, name)) is None:
        names = ", ".join(log.read(registration.router_names)) or "none at all"
        raise SettingsError(f"the log has no router {name!r}; it has {names}")

    def job(connection: sa.Connection, others: Sequence[Refolded]) -> Registration:
        fresh = registration.versions(connection, name) is None
        if fresh:
            registration.create_router(connection, name, models, Settings(), now)
        if fresh or apply:
            configure_router(connection, name, settings, now, others)
        if apply and models and not fresh:
            _put_all(connection, name, models)
        found = registration.read_registration(connection, name)
        assert found is not None
        return found

    with faded(log, name, settings if apply else {}) as others:
        found = committed(log.write(partial(job, others=others)))
    _warn_of_differences(found, models, settings)
    return found


def bring(
    log: EventLog, name: str, features: str | FeatureExtractor, extractors: Extractors, *, apply: bool
) -> None:
    """See that features which a router is to have can be had here, before anything is made.

    Raises
    ------
    SettingsError, FeaturesError
        They cannot.
    """
    if (
        apply
        or not isinstance(features, str)
        or log.read(lambda c: registration.versions(c, name)) is None
    ):
        extractors.find(log, features)


def _warn_of_differences(
    found: Registration,
    models: Sequence[Model],
    settings: Mapping[str, Any],  # of each setting's own type
) -> None:
    """Say which arguments the log's settings win over."""
    known = found.known
    lost = [f"model {model.name}" for model in models if known.get(model.name) != model]
    lost += [name for name, value in settings.items() if not _same(getattr(found.settings, name), value)]
    if lost:
        logger.warning(
            "router %s: what the log has wins over %s; open with apply=True to put it there",
            found.name,
            ", ".join(lost),
        )


def _same(kept: object, given: object) -> bool:
    spec = getattr(given, "spec", given)
    return given is None or kept in (given, spec) or (isinstance(kept, Mapping) and _within(kept, given))


def _within(kept: Mapping[str, Any], given: object) -> bool:  # Any: metrics
    return isinstance(given, Mapping) and all(kept.get(name) == value for name, value in given.items())


def _check(models: Sequence[Model]) -> None:
    if isinstance(models, str) or not isinstance(models, Sequence):
        raise TypeError(f"models: expected a list of Model, got {type(models).__name__}")
    for model in models:
        if not isinstance(model, Model):
            raise TypeError(f"models: expected Model, got {type(model).__name__}")
    names = [model.name for model in models]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"models: {repeated[0]!r} stands there twice")


def _put_all(connection: sa.Connection, name: str, models: Sequence[Model]) -> None:
    before = registration.read_registration(connection, name)
    assert before is not None
    for model in models:
        if model not in before.models:
            registration.put_model(connection, name, model)
    for model in before.models:
        if model.name not in {m.name for m in models}:
            registration.retire_model(connection, name, model.name)


def configure_router(
    connection: sa.Connection,
    name: str,
    settings: Mapping[str, Any],  # of each setting's own type
    now: float,
    others: Sequence[Refolded] = (),
) -> None:
    """Change settings of a router; a new half-life, or other features, begin a new generation.

    Parameters
    ----------
    others : sequence of Refolded
        What was archived, with the new half-life.

    Raises
    ------
    SettingsError
        No such setting, or a bad value.
    FeaturesError
        The router has decisions with other features: those go through `rebuild`.
    StaleGenerationError
        More was archived meanwhile.
    """
    registration.hold(connection, name)
    found = registration.read_registration(connection, name)
    assert found is not None
    changes = dict(settings)
    if "features" in changes:
        changes["features"] = _adopt(connection, found, changes["features"], now)
    unit = found.settings.cost_unit_usd
    if unit is not None and changes.setdefault("cost_unit_usd", unit) is None:
        changes["cost_unit_usd"] = unit
    if unit is not None and changes["cost_unit_usd"] != unit:
        raise SettingsError(f"cost_unit_usd: it was fixed at {unit:g} when it was first set")
    changed = found.settings.with_changes(changes, now=now)
    if changed == found.settings:
        return
    registration.write_settings(connection, name, changed, now)
    refold = ("half_life", "features")
    if any(getattr(changed, setting) != getattr(found.settings, setting) for setting in refold):
        if has_bases(connection, name):  # else it might be a new router's first features
            extractor = _extractor(connection, changed.features)
            take_over(connection, lens_of(replace(found, settings=changed), extractor), others)
        registration.begin_generation(connection, name)


def _adopt(connection: sa.Connection, found: Registration, features: object, now: float) -> str:
    """The SPEC of features that a router may use; a fitted extractor is kept in the log."""
    extractor, kept = _extractor(connection, features), found.settings.features
    other = extractor.spec != kept and has_decisions(connection, found.name)
    if other and extractor.version != _extractor(connection, kept).version:
        raise FeaturesError("features: a router with decisions changes them by rebuild(features=...)")
    keep_artefact(connection, extractor, now)
    return extractor.spec


def _extractor(connection: sa.Connection, features: object) -> FeatureExtractor:
    if not isinstance(features, str):
        return known_extractor(features)
    return extractor_from_spec(features, partial(registration.find_extractor, connection))
