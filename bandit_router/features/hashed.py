"""The default features: hand-made signals and hashed n-grams. No download, nothing to fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_router.features.signals import (
    HEAD,
    IDEOGRAM,
    IS_WORD,
    LOWER,
    NAMES,
    SIGNALS_VERSION,
    TAIL,
    code_points,
    kinds,
    marked,
    signals,
    window,
)
from bandit_router.features.vectors import check_ready, check_size, each
from bandit_router.prompt import Prompt
from bandit_router.values import Array

MAX_BUCKETS = 4096

Hashes = NDArray[np.uint64]

_NORM = 0.5  # of the buckets beside the signals; 1 was worse at prior precisions of 30 and 100
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_ROOM = HEAD + TAIL + 2


def _powers(base: int) -> Hashes:
    """Return ``base^i`` modulo 2^64 for every character of a window."""
    steps = np.full(_ROOM, base, dtype=np.uint64)
    steps[0] = 1
    return np.multiply.accumulate(steps)


_POWERS = _powers(_BASE)
_INVERSES = _powers(pow(_BASE, -1, 1 << 64))


@dataclass(frozen=True, slots=True)
class HashedFeatures:
    """Hand-made signals, and word and character n-grams hashed into buckets with signs.

    ``x = [1, signals, buckets]``. The buckets see the first 8,000 and last 4,000 characters of a longer
    text; lengths and shares see all of it.

    Parameters
    ----------
    buckets : int
        1 to 4096.

    Raises
    ------
    SettingsError
        Not such a number.

    Examples
    --------
    >>> HashedFeatures().extract(Prompt(text="Explain quantum computing")).shape
    (64,)
    """

    buckets: int = 48

    def __post_init__(self) -> None:
        check_size("buckets", self.buckets, MAX_BUCKETS)

    @property
    def spec(self) -> str:
        """As `FeatureExtractor.spec`."""
        return "hashed" if self.buckets == 48 else f"hashed:buckets={self.buckets}"

    @property
    def version(self) -> str:
        """As `FeatureExtractor.version`."""
        return f"hashed-{SIGNALS_VERSION}-{self.buckets}"

    @property
    def dim(self) -> int:
        """As `FeatureExtractor.dim`."""
        return 1 + len(NAMES) + self.buckets

    def extract(self, prompt: Prompt) -> Array:
        """As `FeatureExtractor.extract`."""
        x = np.empty(self.dim)
        x[0] = 1.0
        x[1 : 1 + len(NAMES)] = signals(prompt)
        x[1 + len(NAMES) :] = _hashed(prompt.text, self.buckets)
        x.flags.writeable = False
        return x

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        """As `FeatureExtractor.extract_many`."""
        return each(self.extract, prompts, self.dim)

    def ready(self, vector: object) -> Array:
        """As `FeatureExtractor.ready`; the vector is x itself, of shape (dim,)."""
        return check_ready(vector, self.dim)


def _hashed(text: str, buckets: int) -> Array:
    """Return the signed square roots of the bucket sums, as a vector of length 1/2, or of zeros."""
    seen = window(text)
    starts, ends = _words(kinds(seen))
    grams = _ngrams(lowered_points(seen), starts, ends)
    place = (grams >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
    sign = 1.0 - 2.0 * (grams & np.uint64(1)).astype(np.float64)
    sums = np.bincount(place.astype(np.intp), weights=sign, minlength=buckets)
    size = np.abs(sums)
    damped: Array = np.copysign(np.sqrt(size), sums)
    total = float(size.sum())
    return damped * (_NORM / math.sqrt(total)) if total else np.zeros(buckets)


def lowered_points(text: str) -> NDArray[np.uint32]:
    """Return the characters in lower case."""
    if text.isascii():
        return code_points(text.lower())
    points = code_points(text)
    return np.where(points < len(LOWER), LOWER.take(points, mode="clip"), points)


def _words(classes: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where words start and end; an ideogram is a word by itself."""
    inside = np.zeros(len(classes) + 2, dtype=bool)
    inside[1:-1] = marked(IS_WORD, classes)
    alone = np.zeros(len(classes) + 2, dtype=bool)
    alone[1:-1] = classes == IDEOGRAM
    edge = alone[1:] | alone[:-1]
    start = inside[1:] & (edge | ~inside[:-1])
    end = inside[:-1] & (edge | ~inside[1:])
    return np.flatnonzero(start), np.flatnonzero(end)


def _ngrams(points: NDArray[np.uint32], starts: NDArray[np.intp], ends: NDArray[np.intp]) -> Hashes:
    """Return hashes of words, pairs of words and runs of four characters.

    A polynomial prefix hash ``H[i] = S_{j<i} point[j] base^j`` modulo 2^64 gives that of any run as
    ``(H[end] - H[start]) / base^start``.
    """
    prefix = np.zeros(len(points) + 1, dtype=np.uint64)
    np.cumsum(points * _POWERS[: len(points)], out=prefix[1:])
    words = (prefix[ends] - prefix[starts]) * _INVERSES[starts]
    pairs = words[:-1] * np.uint64(31) + words[1:]
    fours = (prefix[4:] - prefix[:-4]) * _INVERSES[: max(len(points) - 3, 0)]
    return _mixed(np.concatenate([words, pairs, fours]))


def _mixed(h: Hashes) -> Hashes:
    """Spread the bits (the finaliser of splitmix64)."""
    h = (h ^ h >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ h >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return h ^ h >> np.uint64(31)
