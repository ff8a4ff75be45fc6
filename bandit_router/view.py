"""View: settings, features and beliefs that belong together, and how they are read from the log."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from bandit_router.drift import marks_of
from bandit_router.embeddings import EmbeddedFeatures, artefact_of, extractor_from_spec
from bandit_router.errors import LogUnavailableError, SettingsError
from bandit_router.evidence import Evidence
from bandit_router.features import FeatureExtractor, FittedFeatures, HashedFeatures, VectorFeatures
from bandit_router.log import EventLog
from bandit_router.log.lens import Lens
from bandit_router.log.registration import (
    Registration,
    find_extractor,
    keep_extractor,
    read_registration,
)
from bandit_router.posterior import Beliefs
from bandit_router.predictions import Predictions
from bandit_router.store import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spent:
    """What all workers have spent since the budget was set, by the log.

    Attributes
    ----------
    requests : int
    usd : float
        A request without an outcome costs what was predicted [USD].
    since, at : float
        Of when the budget is, and when the log was asked [s since 1970].
    """

    requests: int = 0
    usd: float = 0.0
    since: float = 0.0
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """What one `choose` sees: settings, features and beliefs that belong together.

    Attributes
    ----------
    beliefs : Beliefs
    predictions : Predictions
        Both are read under the learner's lock.
    spent : Spent
        When the budget was set or this view was made, whichever was later.
    known : mapping of str to Evidence
        What was known before, of some models.
    """

    registration: Registration
    features: FeatureExtractor
    lens: Lens
    beliefs: Beliefs
    predictions: Predictions
    spent: Spent
    known: Mapping[str, Evidence] = field(default_factory=dict)


def complete(snapshot: Snapshot, registration: Registration, lens: Lens) -> dict[str, Evidence]:
    """The evidence of every model that is known, in the order of the models."""
    evidence = dict(snapshot.evidence)
    for model in registration.known:
        evidence.setdefault(model, Evidence(lens.dim, half_life=lens.half_life_s))
    return evidence


def lens_of(registration: Registration, features: FeatureExtractor) -> Lens:
    """Through what this router's beliefs look at the log."""
    return Lens(
        router=registration.name,
        dim=features.dim,
        features_version=features.version,
        half_life_s=registration.settings.half_life_s,
        born=registration.born,
        drifts=marks_of(registration.drifts),
    )


class Extractors:
    """The feature extractors of one process, by their SPECs.

    Those that are made of embeddings have connections, memory or a function that no log can keep: there is
    one of each.
    """

    def __init__(self) -> None:
        self._own: dict[str, EmbeddedFeatures] = {}
        self._lock = threading.Lock()

    def find(self, log: EventLog, features: str | FeatureExtractor) -> FeatureExtractor:
        """Return the extractor that a SPEC names, or the one given, ready to be used.

        Raises
        ------
        SettingsError
            No extractor of this library's.
        FeaturesError
            It cannot be had here: its artefact, package or function is missing.
        """
        given = features if isinstance(features, str) else known_extractor(features)
        if isinstance(given, str):
            with self._lock:
                own = self._own.get(given)
            given = own or load_features(log, given)
        if isinstance(given, EmbeddedFeatures):
            given.warm()
            with self._lock:
                self._own[given.spec] = given
        return given

    def again(self) -> Extractors:
        """Return those of a forked process."""
        fresh = Extractors()
        fresh._own = {spec: features.again() for spec, features in list(self._own.items())}
        return fresh

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            for features in self._own.values():
                features.close()


def load_features(log: EventLog, spec: str) -> FeatureExtractor:
    """Return the feature extractor that a SPEC names; artefacts come from the log.

    One that is made of embeddings may lack what it needs to extract: see `Extractors.find`.

    Raises
    ------
    FeaturesError
        The log has no such artefact, or one that cannot be read.
    """
    return log.read(lambda connection: extractor_from_spec(spec, partial(find_extractor, connection)))


def known_extractor(features: object) -> FeatureExtractor:
    """Return an extractor that a worker can make from its SPEC, or from the log.

    Raises
    ------
    SettingsError
        Something else.
    """
    if not isinstance(features, HashedFeatures | FittedFeatures | VectorFeatures | EmbeddedFeatures):
        kinds = "a SPEC, HashedFeatures, FittedFeatures, VectorFeatures or EmbeddedFeatures"
        raise SettingsError(f"features: expected {kinds}, got {type(features).__name__}")
    return features


def keep_artefact(connection: sa.Connection, features: FeatureExtractor, now: float) -> None:
    """Keep in the log what the SPEC of an extractor needs."""
    artefact = artefact_of(features)
    if artefact is not None:
        keep_extractor(connection, *artefact, now)


def find_registration(log: EventLog, router: str) -> Registration:
    """Return a router as the log has it.

    Raises
    ------
    LogUnavailableError
        It is not there any more.
    """
    found = log.read(lambda connection: read_registration(connection, router))
    if found is None:
        raise LogUnavailableError(f"log: it has no router {router!r} any more")
    return found
