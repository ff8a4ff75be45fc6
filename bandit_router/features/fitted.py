"""Features fitted to a product's own prompts: TF-IDF of words and pairs, then a truncated SVD.

Fitting needs scikit-learn; using the artefact does not.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import FeaturesError, FormatError
from bandit_router.features.signals import NAMES, SIGNALS_VERSION, lowered, signals, window
from bandit_router.features.vectors import check_ready, each
from bandit_router.prompt import Prompt
from bandit_router.values import Array, check_count

_MAGIC, _FORMAT = b"BRFF", 1
_HEADER = struct.Struct("<4sHHIIQ")  # magic, format, signals, terms, components, vocabulary [bytes]
_DIGEST = 32  # bytes of a SHA-256, after the header and over all the rest
_SCALE = 2.0  # of the components beside the signals: the best of 0.5 to 3 on four routing tables

# Scripts without spaces: each character a word, so that pairs of words are pairs of characters.
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(
    f"[{_ALONE}]|[0-9a-z\u00aa\u00b5\u00ba\u00c0-\u0dff\u0f00-\u0fff\u10a0-\u177f\u1800-\u1fff"
    "\u2c00-\u2dff\u3100-\u33ff\ua000-\ud7ff\ufb00-\ufdff\ufe70-\ufefe\uff10-\uff19\uff21-\uff3a"
    "\uff41-\uff5a\uff66-\uffdc\U00010000-\U0010ffff]+"
)


def terms(text: str) -> list[str]:
    """Return the words and the pairs of neighbouring words of a text, lower-cased.

    Examples
    --------
    >>> terms("Explain quantum computing!")
    ['explain', 'quantum', 'computing', 'explain quantum', 'quantum computing']
    """
    words = [word[:40] for word in _WORD.findall(lowered(window(text)))]
    return words + [f"{a} {b}" for a, b in pairwise(words)]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FittedFeatures:
    """Hand-made signals, and components of TF-IDF fitted to a product's own prompts.

    ``x = [1, signals, components]``. The components are not whitened: their scale falls with rank, so
    that shrinkage spares the strong ones. Make one with `fit` or `from_bytes`.

    Parameters
    ----------
    vocabulary : tuple of str
        Words and pairs of words, in the order of the rows below.
    idf : ndarray of shape (n_terms,)
    components : ndarray of shape (n_terms, n_components)
        Projects TF-IDF; float32.

    Attributes
    ----------
    version : str
        As `FeatureExtractor.version`: a digest of the content.
    """

    vocabulary: tuple[str, ...]
    idf: Array
    components: NDArray[np.float32]
    _rows: dict[str, int]
    version: str

    def __init__(self, vocabulary: Sequence[str], idf: Array, components: NDArray[np.float32]) -> None:
        idf, components = np.array(idf, dtype=np.float64), np.array(components, dtype=np.float32)
        _check_parts(vocabulary, idf, components)
        idf.flags.writeable = components.flags.writeable = False
        set_once = object.__setattr__
        set_once(self, "vocabulary", tuple(vocabulary))
        set_once(self, "idf", idf)
        set_once(self, "components", components)
        set_once(self, "_rows", {term: row for row, term in enumerate(vocabulary)})
        digest = hashlib.sha256(self.to_bytes()).hexdigest()
        set_once(self, "version", f"fitted-{digest[:24]}")

    @classmethod
    def fit(
        cls,
        prompts: Iterable[Prompt],
        *,
        components: int = 48,
        min_df: int = 2,
        max_terms: int = 20_000,
        seed: int = 0,
    ) -> FittedFeatures:
        """Fit to prompts; the same prompts and seed give the same features.

        Parameters
        ----------
        prompts : iterable of Prompt
            A few hundred or more; all that is kept of them is their vocabulary.
        components : int
            At most; fewer where prompts or terms are fewer.
        min_df : int
            Prompts that a term must occur in.
        max_terms : int
            The most frequent terms are kept.
        seed : int
            Of the randomised SVD.

        Raises
        ------
        FeaturesError
            scikit-learn is missing, or there is too little text to fit to.
        """
        for name, value in (("components", components), ("min_df", min_df), ("max_terms", max_terms)):
            if check_count(name, value) < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        return cls(*_fit([prompt.text for prompt in prompts], components, min_df, max_terms, seed))

    def __repr__(self) -> str:
        n, k = self.components.shape
        return f"<FittedFeatures {self.version}: {n} terms, {k} components>"

    @property
    def spec(self) -> str:
        """As `FeatureExtractor.spec`; the artefact itself is in the log."""
        return f"fitted:{self.version}"

    @property
    def dim(self) -> int:
        """As `FeatureExtractor.dim`."""
        return 1 + len(NAMES) + int(self.components.shape[1])

    def extract(self, prompt: Prompt) -> Array:
        """As `FeatureExtractor.extract`."""
        x = np.concatenate([[1.0], signals(prompt), _SCALE * self.project(prompt.text)])
        x.flags.writeable = False
        return x

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        """As `FeatureExtractor.extract_many`."""
        return each(self.extract, prompts, self.dim)

    def ready(self, vector: object) -> Array:
        """As `FeatureExtractor.ready`; the vector is x itself, of shape (dim,)."""
        return check_ready(vector, self.dim)

    def project(self, text: str) -> Array:
        """Return the components of a text, of shape (n_components,), as scikit-learn would."""
        counts = Counter(row for term in terms(text) if (row := self._rows.get(term)) is not None)
        if not counts:
            return np.zeros(self.components.shape[1])
        rows = np.fromiter(counts.keys(), dtype=np.intp, count=len(counts))
        tf = 1.0 + np.log(np.fromiter(counts.values(), dtype=np.float64, count=len(counts)))
        weights = tf * self.idf[rows]
        projected: Array = weights @ self.components[rows].astype(np.float64)
        return projected / math.sqrt(weights @ weights)

    def to_bytes(self) -> bytes:
        """Return the artefact as bytes, without loss."""
        text = "\n".join(self.vocabulary).encode()
        n, k = self.components.shape
        header = _HEADER.pack(_MAGIC, _FORMAT, SIGNALS_VERSION, n, k, len(text))
        body = text + self.idf.astype("<f8").tobytes() + self.components.astype("<f4").tobytes()
        return header + hashlib.sha256(header + body).digest() + body

    @classmethod
    def from_bytes(cls, data: bytes) -> FittedFeatures:
        """Read what `to_bytes` wrote.

        Raises
        ------
        FormatError
            Not fitted features, damaged, of a newer version, or fitted with other signals.
        """
        body, n, k, size = _read_header(data)
        try:
            vocabulary = body[:size].decode().split("\n")
        except UnicodeDecodeError as error:
            raise FormatError("fitted features: the vocabulary is damaged") from error
        idf = np.frombuffer(body, dtype="<f8", count=n, offset=size)
        components = np.frombuffer(body, dtype="<f4", offset=size + 8 * n).reshape(n, k)
        try:
            return cls(vocabulary, idf, components)
        except FeaturesError as error:
            raise FormatError(f"fitted features: {error}") from error


def _fit(
    texts: list[str], components: int, min_df: int, max_terms: int, seed: int
) -> tuple[list[str], Array, NDArray[np.float32]]:
    """Return the vocabulary, idf and components that scikit-learn finds."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd
    except ImportError as error:
        raise FeaturesError(
            "fitting features needs scikit-learn: pip install 'bandit-router[fitted]'"
        ) from error
    tfidf = TfidfVectorizer(analyzer=terms, sublinear_tf=True, min_df=min_df, max_features=max_terms)
    if len(texts) < min_df:
        raise FeaturesError(f"fit: expected at least {min_df} prompts, got {len(texts)}")
    try:
        table = tfidf.fit_transform(texts)
    except ValueError as error:  # no term is left
        raise FeaturesError(f"fit: no word occurs in {min_df} prompts or more") from error
    k = min(components, *(side - 1 for side in table.shape))
    if k < 1:
        raise FeaturesError(f"fit: expected at least 2 prompts and 2 terms, got {table.shape}")
    _, _, basis = randomized_svd(table, k, n_iter=7, random_state=seed)
    return list(tfidf.get_feature_names_out()), tfidf.idf_, basis.T


def _check_parts(vocabulary: Sequence[str], idf: Array, components: NDArray[np.float32]) -> None:
    """Raise FeaturesError unless the parts of an artefact fit each other and can give no NaN."""
    n = len(vocabulary)
    if n < 1 or idf.shape != (n,) or components.ndim != 2 or len(components) != n:
        raise FeaturesError(
            f"expected idf ({n},) and components ({n}, k), got {idf.shape} and {components.shape}"
        )
    if len(set(vocabulary)) != n or any("\n" in term for term in vocabulary):
        raise FeaturesError("expected each term once and on one line")
    # Rows of an orthonormal basis: no entry above one. Weights of a frequency: never below one.
    if not (np.abs(components) <= 1.0 + 1e-3).all() or not ((idf >= 1.0) & (idf <= 100.0)).all():
        raise FeaturesError("expected finite components within 1 and idf from 1 to 100")


def _read_header(data: bytes) -> tuple[bytes, int, int, int]:
    """Return the body, and how many terms, components and bytes of vocabulary it holds."""
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise FormatError("fitted features: these bytes are not fitted features")
    _, version, signals_version, n, k, size = _HEADER.unpack_from(data)
    if version != _FORMAT:
        raise FormatError(f"fitted features: expected format version {_FORMAT}, got {version}")
    if signals_version != SIGNALS_VERSION:
        raise FormatError(
            f"fitted features: fitted with signals {signals_version}, this release has "
            f"{SIGNALS_VERSION}; fit again"
        )
    start = _HEADER.size + _DIGEST
    body, digest = data[start:], data[_HEADER.size : start]
    whole = min(n, k) > 0 and len(data) == start + size + 8 * n + 4 * n * k
    if not whole or hashlib.sha256(data[: _HEADER.size] + body).digest() != digest:
        raise FormatError("fitted features: the bytes are damaged or cut short")
    return body, n, k, size
