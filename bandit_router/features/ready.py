"""Vectors that the user brings: checked, and with the constant in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandit_router.errors import FeaturesError, SettingsError
from bandit_router.events import Array, Prompt, check_vector

LIMIT = 1e6  # of one feature: its square must not drown the others in a float64 sum
MAX_DIM = 8192


def check_ready(vector: object, dim: int) -> Array:
    """Return a vector of shape (dim,) that beliefs can learn from, not writeable.

    Raises
    ------
    ValueError
        Wrong shape, not numbers, not finite, or beyond one million.
    """
    checked = check_vector("features", vector, dim)
    largest = float(np.abs(checked).max())
    if largest > LIMIT:
        raise ValueError(f"features: expected numbers within {LIMIT:g}, got {largest:g}")
    return checked


@dataclass(frozen=True, slots=True)
class VectorFeatures:
    """Vectors of the user's own, such as embeddings: ``x = [1, vector]``.

    Parameters
    ----------
    size : int
        Length of the user's vector, 1 to 8192.

    Raises
    ------
    SettingsError
        Not such a number.

    Examples
    --------
    >>> VectorFeatures(2).ready([0.5, -0.5])
    array([ 1. ,  0.5, -0.5])
    """

    size: int

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int):
            raise SettingsError(f"dim: expected a whole number, got {self.size!r:.40}")
        if not 1 <= self.size <= MAX_DIM:
            raise SettingsError(f"dim: expected 1 to {MAX_DIM}, got {self.size}")

    def __repr__(self) -> str:
        return f"VectorFeatures({self.size})"

    @property
    def spec(self) -> str:
        """As `FeatureExtractor.spec`."""
        return f"vectors:dim={self.size}"

    @property
    def version(self) -> str:
        """As `FeatureExtractor.version`."""
        return f"vectors-1-{self.size}"

    @property
    def dim(self) -> int:
        """As `FeatureExtractor.dim`: one more than the user's vector."""
        return 1 + self.size

    def extract(self, prompt: Prompt) -> Array:
        """Raise FeaturesError: a text says nothing to this router."""
        raise FeaturesError("this router takes ready vectors: call choose(features=...)")

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        """Raise FeaturesError, as `extract`."""
        raise FeaturesError("this router takes ready vectors: call choose(features=...)")

    def ready(self, vector: object) -> Array:
        """Return ``[1, vector]`` for a vector of shape (size,)."""
        x = np.concatenate([[1.0], check_ready(vector, self.size)])
        x.flags.writeable = False
        return x
