"""Features: what the beliefs see of a prompt, as a vector with a version."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from bandit_router.errors import SettingsError
from bandit_router.features.fitted import FittedFeatures
from bandit_router.features.hashed import HashedFeatures
from bandit_router.features.vectors import VectorFeatures
from bandit_router.policies import parse_spec
from bandit_router.prompt import Prompt
from bandit_router.values import Array

__all__ = [
    "FeatureExtractor",
    "FittedFeatures",
    "HashedFeatures",
    "VectorFeatures",
    "features_from_spec",
]


class FeatureExtractor(Protocol):
    """Turns a prompt into the vector x that beliefs learn from; ``x[0] = 1``."""

    @property
    def spec(self) -> str:
        """The text that `features_from_spec` reads."""
        ...

    @property
    def version(self) -> str:
        """At most 64 characters; the same version gives the same numbers in every process, for ever."""
        ...

    @property
    def dim(self) -> int:
        """Length of x, the constant included."""
        ...

    def extract(self, prompt: Prompt) -> Array:
        """Return x of shape (dim,): finite, bounded, not writeable."""
        ...

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        """Return shape (n, dim): row by row what `extract` returns."""
        ...

    def ready(self, vector: object) -> Array:
        """Return x for a vector that the user computed.

        Raises
        ------
        ValueError
            Wrong shape, not finite, or beyond one million.
        """
        ...


_KINDS: dict[str, tuple[str, Callable[[int], FeatureExtractor]]] = {
    "hashed": ("buckets", HashedFeatures),
    "vectors": ("dim", VectorFeatures),
}


def features_from_spec(spec: str) -> FeatureExtractor:
    """Return the extractor that a SPEC names: ``hashed``, ``hashed:buckets=128`` or ``vectors:dim=26``.

    Raises
    ------
    SettingsError
        Anything else; ``fitted:VERSION`` too, which needs its artefact.

    Examples
    --------
    >>> features_from_spec("vectors:dim=26").dim
    27
    """
    if spec.startswith("fitted:"):
        raise SettingsError(f"{spec!r}: the artefact is needed: FittedFeatures.from_bytes(...)")
    name, options = parse_spec(spec)
    if name not in _KINDS:
        raise SettingsError(f"{spec!r}: expected hashed, hashed:buckets=N or vectors:dim=N")
    if spec.strip() == "hashed":
        return HashedFeatures()
    key, kind = _KINDS[name]
    if set(options) != {key} or not re.fullmatch("[0-9]{1,9}", options[key]):
        raise SettingsError(f"{spec!r}: expected {name}:{key}=N")
    return kind(int(options[key]))
