"""Vectors that the user brings: checked, and with the constant in front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bandit_router.errors import FeaturesError, SettingsError
from bandit_router.prompt import Prompt
from bandit_router.values import Array, check_vector

LIMIT = 1e6  # of one feature: its square must not drown the others in a float64 sum
MAX_DIM = 8192
STOPGAP = "~"  # at the end of the version of features that lack what could not be had in time


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


def check_size(what: str, value: object, limit: int) -> int:
    """Return `value` if it is a whole number from 1 to `limit`, else raise SettingsError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingsError(f"{what}: expected a whole number, got {type(value).__name__}")
    if not 1 <= value <= limit:
        raise SettingsError(f"{what}: expected 1 to {limit}, got {value}")
    return value


@dataclass(frozen=True, slots=True, init=False, repr=False)
class VectorFeatures:
    """Vectors of the user's own, such as embeddings: ``x = [1, vector]``.

    Parameters
    ----------
    dim : int
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

    def __init__(self, dim: int) -> None:
        object.__setattr__(self, "size", check_size("dim", dim, MAX_DIM))

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


def each(extract: Callable[[Prompt], Array], prompts: Sequence[Prompt], dim: int) -> Array:
    """Return what `extract` gives for each prompt, of shape (n, dim), not writeable."""
    x = np.array([extract(prompt) for prompt in prompts]).reshape(len(prompts), dim)
    x.flags.writeable = False
    return x
