"""View: settings, features and beliefs that belong together, and how they are read from the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandit_router.errors import FeaturesError, FormatError, LogUnavailableError
from bandit_router.evidence import Evidence
from bandit_router.features import FeatureExtractor, FittedFeatures, features_from_spec
from bandit_router.log import EventLog
from bandit_router.log.lens import Lens
from bandit_router.log.registration import Registration, find_extractor, read_registration
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
    )


def load_features(log: EventLog, spec: str) -> FeatureExtractor:
    """Return the feature extractor that a SPEC names; fitted ones come from the log.

    Raises
    ------
    FeaturesError
        The log has no such artefact, or one that cannot be read.
    """
    kind, _, version = spec.partition(":")
    if kind != "fitted":
        return features_from_spec(spec)
    artefact = log.read(lambda connection: find_extractor(connection, version))
    if artefact is None:
        raise FeaturesError(f"features: the log has no extractor {version!r}")
    try:
        return FittedFeatures.from_bytes(artefact)
    except FormatError as error:
        raise FeaturesError(f"features: the extractor {version!r} of the log: {error}") from error


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
