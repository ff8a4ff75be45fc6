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

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import FeaturesError, FormatError
from bandit_router.events import Array, Prompt, check_count
from bandit_router.features.signals import NAMES, SIGNALS_VERSION, lowered, signals, window
from bandit_router.features.vectors import check_ready

_MAGIC, _FORMAT = b"BRFF", 1
_HEADER = struct.Struct(
    "<4sHHIIQ32s"
)  # magic, format, signals, terms, components, vocabulary bytes, digest
_SCALE = 3.0  # of the SVD block beside the signals: the best of 1, 3 and 6 on four routing tables

# Scripts without spaces: each character a word, so that pairs of words are pairs of characters.
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(
    f"[{_ALONE}]|[0-9a-z\u00aa\u00b5\u00ba\u00c0-\u0dff\u0f00-\u0fff\u10a0-\u177f\u1800-\u1fff"
    "\u2c00-\u2dff\ua000-\ud7ff\U00010000-\U0010ffff]+"
)


def terms(text: str) -> list[str]:
    """Return the words and the pairs of neighbouring words of a text, lower-cased.

    Examples
    --------
    >>> terms("Explain quantum computing!")
    ['explain', 'quantum', 'computing', 'explain quantum', 'quantum computing']
    """
    words = [word[:40] for word in _WORD.findall(lowered(window(text)))]
    return words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]


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
    """

    vocabulary: tuple[str, ...]
    idf: Array
    components: NDArray[np.float32]
    _rows: dict[str, int]
    _body: bytes

    def __init__(self, vocabulary: Sequence[str], idf: Array, components: NDArray[np.float32]) -> None:
        idf, components = np.array(idf, dtype=np.float64), np.array(components, dtype=np.float32)
        _check_parts(vocabulary, idf, components)
        idf.flags.writeable = components.flags.writeable = False
        set_once = object.__setattr__
        set_once(self, "vocabulary", tuple(vocabulary))
        set_once(self, "idf", idf)
        set_once(self, "components", components)
        set_once(self, "_rows", {term: row for row, term in enumerate(vocabulary)})
        set_once(self, "_body", _write_body(vocabulary, idf, components))

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
    def version(self) -> str:
        """As `FeatureExtractor.version`: a digest of the content."""
        return f"fitted-{hashlib.sha256(self.to_bytes()).hexdigest()[:24]}"

    @property
    def dim(self) -> int:
        """As `FeatureExtractor.dim`."""
        return 1 + len(NAMES) + self.components.shape[1]

    def extract(self, prompt: Prompt) -> Array:
        """As `FeatureExtractor.extract`."""
        x = np.concatenate([[1.0], signals(prompt), _SCALE * self.project(prompt.text)])
        x.flags.writeable = False
        return x

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        """As `FeatureExtractor.extract_many`."""
        x = np.array([self.extract(prompt) for prompt in prompts]).reshape(len(prompts), self.dim)
        x.flags.writeable = False
        return x

    def ready(self, vector: object) -> Array:
        """As `FeatureExtractor.ready`; the vector is x itself, of shape (dim,)."""
        return check_ready(vector, self.dim)

    def project(self, text: str) -> Array:
        """Return the components of a text, of shape (n_components,): what scikit-learn's transform gives."""
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
        return self._body

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
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
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
    svd = TruncatedSVD(k, n_iter=7, random_state=seed).fit(table)
    return list(tfidf.get_feature_names_out()), tfidf.idf_, svd.components_.T


def _check_parts(vocabulary: Sequence[str], idf: Array, components: NDArray[np.float32]) -> None:
    n = len(vocabulary)
    if n < 1 or idf.shape != (n,) or components.ndim != 2 or components.shape[0] != n:
        raise FeaturesError(
            f"expected idf ({n},) and components ({n}, k), got {idf.shape} and {components.shape}"
        )
    if len(set(vocabulary)) != n or any("\n" in term for term in vocabulary):
        raise FeaturesError("expected each term once and on one line")
    # Rows of an orthonormal basis: no entry above one. Weights of a frequency: never below one.
    if not (np.abs(components) <= 1.0 + 1e-3).all() or not ((idf >= 1.0) & (idf <= 100.0)).all():
        raise FeaturesError("expected finite components within 1 and idf from 1 to 100")


def _write_body(vocabulary: Sequence[str], idf: Array, components: NDArray[np.float32]) -> bytes:
    text = "\n".join(vocabulary).encode()
    body = text + idf.astype("<f8").tobytes() + components.astype("<f4").tobytes()
    digest = hashlib.sha256(body).digest()
    n, k = components.shape
    return _HEADER.pack(_MAGIC, _FORMAT, SIGNALS_VERSION, n, k, len(text), digest) + body


def _read_header(data: bytes) -> tuple[bytes, int, int, int]:
    """Return the body, and how many terms, components and bytes of vocabulary it holds."""
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise FormatError("fitted features: these bytes are not fitted features")
    _, version, signals_version, n, k, size, digest = _HEADER.unpack_from(data)
    if version != _FORMAT:
        raise FormatError(f"fitted features: expected format version {_FORMAT}, got {version}")
    if signals_version != SIGNALS_VERSION:
        raise FormatError(
            f"fitted features: fitted with signals {signals_version}, this release has "
            f"{SIGNALS_VERSION}; fit again"
        )
    body = data[_HEADER.size :]
    if len(body) != size + 8 * n + 4 * n * k or hashlib.sha256(body).digest() != digest:
        raise FormatError("fitted features: the bytes are damaged or cut short")
    return body, n, k, size
