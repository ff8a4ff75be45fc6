"""Rebuilding beliefs from the log, with the same features or with others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import FeaturesError, SettingsError
from bandit_router.features import FeatureExtractor, FittedFeatures, HashedFeatures, VectorFeatures
from bandit_router.learner import POLL_S, Learner
from bandit_router.log import EventLog
from bandit_router.log.checkpoints import drop_checkpoints
from bandit_router.log.deciding import read_prompts, textless_ids, write_features
from bandit_router.log.registration import (
    begin_generation,
    hold,
    keep_extractor,
    read_registration,
    write_settings,
)
from bandit_router.log.writer import committed
from bandit_router.prompt import Prompt
from bandit_router.values import Array
from bandit_router.view import load_features

_CHUNK = 256  # prompts that are encoded at once
OTHERS_S = 5 * POLL_S  # how long other workers go on with the old features, at the least
LATE_PASSES = 20  # looks for what they decided meanwhile; one that finds nothing is the last


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
    """Fold a router's beliefs again from its whole log; decisions with other features are encoded first.

    All new vectors, the settings and the new generation come in one transaction: nobody ever sees some of
    them without the others. What other workers still decide with the old features is encoded afterwards.
    """
    if textless not in ("refuse", "mean"):
        raise ValueError(f"textless: expected 'refuse' or 'mean', got {textless!r}")
    router, spec = learner.view.registration.name, learner.view.registration.settings.features
    extractor = load_features(log, features if isinstance(features, str) else spec)
    if features is not None and not isinstance(features, str):
        extractor = known_extractor(features)
    refuse = textless == "refuse" and features is not None
    vectors, bare = _encode(log, router, extractor, refuse=refuse, mean=textless == "mean")
    generation = committed(log.write(lambda c: _switch(c, router, extractor, vectors, now)))
    began = time.monotonic()
    committed(learner.catch_up())
    encoded, patience = len(vectors) - bare, max(OTHERS_S, 2 * (time.monotonic() - began))
    for _ in range(LATE_PASSES if extractor.spec != spec else 0):
        time.sleep(patience)  # others fold too, and decide with the old features until they have
        late, _ = _encode(log, router, extractor, refuse=False, mean=textless == "mean")
        if not late:
            break
        switch = partial(_switch, router=router, extractor=extractor, vectors=late, now=now)
        generation = committed(log.write(switch))
        committed(learner.catch_up())
        encoded += len(late)
    return Rebuilt(generation=generation, features=extractor.spec, encoded=encoded, textless=bare)


def _switch(
    connection: sa.Connection,
    router: str,
    extractor: FeatureExtractor,
    vectors: Mapping[str, Array],
    now: float,
) -> int:
    hold(connection, router)
    write_features(connection, extractor.version, vectors)
    if isinstance(extractor, FittedFeatures):
        keep_extractor(connection, extractor.version, extractor.to_bytes(), now)
    found = read_registration(connection, router)
    assert found is not None
    if found.settings.features != extractor.spec:
        write_settings(connection, router, replace(found.settings, features=extractor.spec), now)
    drop_checkpoints(connection, router)
    return begin_generation(connection, router)


def _encode(
    log: EventLog, router: str, extractor: FeatureExtractor, *, refuse: bool, mean: bool
) -> tuple[dict[str, Array], int]:
    """Return the vectors of decisions that have others, and how many of them have no text."""
    bare = log.read(lambda c: textless_ids(c, router, extractor.version))
    if bare and refuse:
        raise FeaturesError(
            f"features: {len(bare)} decisions have no text to encode again; "
            "with textless='mean' only each model's plain mean survives of them"
        )
    prompts = log.read(lambda c: read_prompts(c, router, but=extractor.version))
    vectors: dict[str, Array] = {}
    for start in range(0, len(prompts), _CHUNK):
        chunk = prompts[start : start + _CHUNK]
        x = extractor.extract_many([Prompt.of(prompt) for _, prompt in chunk])
        vectors.update(zip((decision_id for decision_id, _ in chunk), x, strict=True))
    if not mean:
        return vectors, 0
    constant = np.zeros(extractor.dim)
    constant[0] = 1.0
    vectors.update(dict.fromkeys(bare, constant))
    return vectors, len(bare)


def known_extractor(features: object) -> FeatureExtractor:
    """Return an extractor that every worker can make from its SPEC, or from the log.

    Raises
    ------
    SettingsError
        Something else.
    """
    if not isinstance(features, HashedFeatures | FittedFeatures | VectorFeatures):
        kinds = "a SPEC, HashedFeatures, FittedFeatures or VectorFeatures"
        raise SettingsError(f"features: expected {kinds}, got {type(features).__name__}")
    return features
