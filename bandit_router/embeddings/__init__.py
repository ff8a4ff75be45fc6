"""Features from embedding models and endpoints: time-limited, remembered, flagged where they are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bandit_router.embeddings.embedded import EmbeddedFeatures
from bandit_router.embeddings.projection import Projection
from bandit_router.embeddings.sources import Endpoint, Function, SentenceModel, Source
from bandit_router.errors import FeaturesError, FormatError, SettingsError
from bandit_router.features import FeatureExtractor, FittedFeatures, features_from_spec
from bandit_router.policies import parse_spec

__all__ = [
    "EmbeddedFeatures",
    "Endpoint",
    "Function",
    "Projection",
    "SentenceModel",
    "Source",
    "artefact_of",
    "embeds",
    "extractor_from_spec",
]

Find = Callable[[str], bytes | None]


def _function(**options: str) -> Function:
    return Function(None, **options)


_SOURCES: dict[str, tuple[Callable[..., Source], frozenset[str], frozenset[str]]] = {
    "openai": (Endpoint, frozenset({"model"}), frozenset({"base_url", "api_key_env"})),
    "sentence": (SentenceModel, frozenset({"model"}), frozenset()),
    "callable": (_function, frozenset({"name", "version"}), frozenset()),
}
_SIZES: Mapping[str, Callable[[str], Any]] = {"dim": int, "seed": int, "timeout_s": float}


def embeds(spec: str) -> bool:
    """Whether a SPEC names features made of embeddings, for which prompts may leave this machine."""
    return spec.strip().partition(":")[0] in _SOURCES


def extractor_from_spec(spec: str, find: Find = lambda version: None) -> FeatureExtractor:
    """Return the extractor that any SPEC names, those made of embeddings included.

    ``openai:model=M[,base_url=URL][,api_key_env=NAME]``, ``sentence:model=M``, or
    ``callable:name=N,version=V``, each with ``[,dim=64][,seed=0][,timeout_s=0.5][,projection=VERSION]``; else
    as `features_from_spec`. Nothing is loaded or asked yet (`EmbeddedFeatures.warm`).

    Parameters
    ----------
    spec : str
    find : callable
        Returns an artefact by its version, or None.

    Raises
    ------
    SettingsError
        No such features, or a bad option.
    FeaturesError
        Their artefact is not to be found, or cannot be read.

    Examples
    --------
    >>> extractor_from_spec("openai:model=text-embedding-3-small,dim=32").dim
    48
    """
    kind, _, rest = spec.strip().partition(":")
    if kind == "fitted":
        found: FittedFeatures = _read(FittedFeatures.from_bytes, rest, find)
        return found
    return _embedded(spec, find) if embeds(spec) else features_from_spec(spec)


def artefact_of(features: FeatureExtractor) -> tuple[str, bytes] | None:
    """Return the (version, bytes) that a log must keep so that the SPEC can be read; None where none is."""
    if isinstance(features, FittedFeatures):
        return features.version, features.to_bytes()
    if isinstance(features, EmbeddedFeatures) and features.size.projection is not None:
        return features.size.projection.version, features.size.projection.to_bytes()
    return None


def _embedded(spec: str, find: Find) -> EmbeddedFeatures:
    kind, options = parse_spec(spec)
    make, needed, allowed = _SOURCES[kind]
    known = needed | allowed | {*_SIZES, "projection"}
    if not needed <= options.keys() <= known:
        wanted = ", ".join([*(f"{name}=..." for name in sorted(needed)), *sorted(known - needed)])
        raise SettingsError(f"{spec!r}: expected {kind}:{wanted}")
    try:
        size = {name: read(options[name]) for name, read in _SIZES.items() if name in options}
    except ValueError as error:
        raise SettingsError(f"{spec!r}: {error}") from error
    if "projection" in options:
        size["projection"] = _read(Projection.from_bytes, options["projection"], find)
    source = make(**{name: options[name] for name in options.keys() & (needed | allowed)})
    return EmbeddedFeatures(source, **size)


def _read(read: Callable[[bytes], Any], version: str, find: Find) -> Any:  # Any: what `read` makes
    artefact = find(version)
    if artefact is None:
        raise FeaturesError(f"features: the log has no extractor {version!r}")
    try:
        return read(artefact)
    except FormatError as error:
        raise FeaturesError(f"features: the extractor {version!r} of the log: {error}") from error
