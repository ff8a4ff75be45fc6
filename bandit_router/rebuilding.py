"""Rebuilding beliefs from the log, with the same features or with others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import FeaturesError
from bandit_router.events import Array, Prompt
from bandit_router.features import FeatureExtractor, FittedFeatures, features_from_spec
from bandit_router.learner import Learner, load_features
from bandit_router.log import EventLog
from bandit_router.log.checkpoints import drop_checkpoints
from bandit_router.log.deciding import read_prompts, textless_ids, write_features
from bandit_router.log.registration import (
    Registration,
    begin_generation,
    keep_extractor,
    read_registration,
    write_settings,
)

_CHUNK = 256  # prompts that are encoded at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild did.

    Attributes
    ----------
    generation : int
        Of the beliefs now.
    features : str
        SPEC of the features.
    encoded : int
        Decisions that were encoded again.
    textless : int
        Decisions without text, of which only the plain mean survives.
    """

    generation: int
    features: str
    encoded: int = 0
    textless: int = 0


def rebuild(
    log: EventLog,
    learner: Learner,
    features: str | FeatureExtractor | None,
    *,
    textless: str,
    now: float,
) -> Rebuilt:
    """Fold a router's beliefs again from its whole log; with other features, encode the log first."""
    if textless not in ("refuse", "mean"):
        raise ValueError(f"textless: expected 'refuse' or 'mean', got {textless!r}")
    router = learner.view.registration.name
    encoded, mean_only, spec = 0, 0, learner.view.registration.settings.features
    if features is not None:
        extractor = features if not isinstance(features, str) else load_features(log, features)
        spec = extractor.spec
        encoded, mean_only = _encode(log, router, extractor, textless)
        log.write(lambda c: _switch(c, router, extractor, now)).result()
        late, _ = _encode(log, router, extractor, "mean" if textless == "mean" else "refuse")
        encoded += late
    generation = log.write(lambda c: _begin(c, router)).result()
    learner.catch_up().result()
    return Rebuilt(generation=generation, features=spec, encoded=encoded, textless=mean_only)


def _begin(connection: sa.Connection, router: str) -> int:
    drop_checkpoints(connection, router)
    return begin_generation(connection, router)


def _switch(connection: sa.Connection, router: str, extractor: FeatureExtractor, now: float) -> None:
    if isinstance(extractor, FittedFeatures):
        keep_extractor(connection, extractor.version, extractor.to_bytes(), now)
    found = read_registration(connection, router)
    assert found is not None
    write_settings(connection, router, replace(found.settings, features=extractor.spec), now)


def _encode(log: EventLog, router: str, extractor: FeatureExtractor, textless: str) -> tuple[int, int]:
    """Give every decision of a router the features of an extractor; return (encoded, without text)."""
    bare = log.read(lambda c: textless_ids(c, router, extractor.version))
    if bare and textless == "refuse":
        raise FeaturesError(
            f"features: {len(bare)} decisions have no text to encode again; "
            "with textless='mean' only each model's plain mean survives of them"
        )
    prompts = log.read(lambda c: read_prompts(c, router, but=extractor.version))
    for chunk in _chunked(prompts):
        x = extractor.extract_many([Prompt.of(prompt) for _, prompt in chunk])
        _write(log, extractor.version, [decision_id for decision_id, _ in chunk], x)
    constant = np.zeros(extractor.dim)
    constant[0] = 1.0
    for chunk in _chunked([(decision_id, None) for decision_id in bare]):
        _write(
            log, extractor.version, [decision_id for decision_id, _ in chunk], [constant] * len(chunk)
        )
    return len(prompts), len(bare)


def _write(log: EventLog, version: str, ids: Sequence[str], x: Sequence[Array] | Array) -> None:
    vectors = dict(zip(ids, x, strict=True))
    log.write(lambda c: write_features(c, version, vectors)).result()


def _chunked(items: Sequence[tuple[str, Any]]) -> Iterator[Sequence[tuple[str, Any]]]:  # Any: a prompt
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def adopt_features(
    connection: sa.Connection,
    features: str | FeatureExtractor,
    now: float,
    found: Registration,
    *,
    live: bool,
) -> str:
    """Return the SPEC of features for a router's settings; a fitted extractor is kept in the log.

    Raises
    ------
    FeaturesError
        The router has decisions with other features: those go through `rebuild`.
    """
    extractor = features_from_spec(features) if isinstance(features, str) else features
    if extractor.spec != found.settings.features and live:
        raise FeaturesError("features: a live router changes them by rebuild(features=...)")
    if isinstance(extractor, FittedFeatures):
        keep_extractor(connection, extractor.version, extractor.to_bytes(), now)
    return extractor.spec
