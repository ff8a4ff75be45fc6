"""From an embedding of a thousand numbers to the few components that beliefs learn from."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import EmbeddingsUnavailableError, FeaturesError, FormatError
from bandit_router.values import Array

MAX_SIZE = 65_536  # numbers of one embedding
_MAGIC, _FORMAT = b"BREP", 1
_HEADER = struct.Struct("<4sHII")  # magic, format, size, components
_DIGEST = 32  # bytes of a SHA-256, after the header and over all the rest
_POWER = 0.7  # mean squared length: that of fitted TF-IDF components on three routing tables
_LEAST = 1e-3  # of the length of what is left of embeddings without their mean


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Projection:
    """An affine map from embeddings of unit length to components.

    Components are not whitened: where they are fitted their scale falls with rank, so that shrinkage spares
    the strong ones.

    Parameters
    ----------
    mean : ndarray of shape (size,)
        Subtracted from embeddings of unit length.
    components : ndarray of shape (size, dim)

    Attributes
    ----------
    version : str
        A digest of the content.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    version: str = field(init=False)

    def __post_init__(self) -> None:
        for name in ("mean", "components"):
            own = np.array(getattr(self, name), dtype=np.float32, order="C")  # the order of sums
            own.flags.writeable = False
            object.__setattr__(self, name, own)
        _check_parts(self.mean, self.components)
        digest = hashlib.sha256(self.to_bytes()).hexdigest()
        object.__setattr__(self, "version", f"projection-{digest[:24]}")

    def __repr__(self) -> str:
        return f"<Projection {self.version}: {self.size} to {self.dim}>"

    @property
    def size(self) -> int:
        """Length of an embedding."""
        return int(self.components.shape[0])

    @property
    def dim(self) -> int:
        """How many components."""
        return int(self.components.shape[1])

    @classmethod
    def random(cls, size: int, dim: int, *, seed: int) -> Projection:
        """Return an orthonormal projection that a seed determines, in every release and on every machine.

        Raises
        ------
        FeaturesError
            More components than an embedding has numbers.
        """
        if dim > size:
            raise FeaturesError(f"dim: expected at most {size}, the length of an embedding, got {dim}")
        # No generator of NumPy promises the same numbers in its next release; a hash does.
        stream = hashlib.shake_256(f"{seed}:{size}:{dim}".encode()).digest(-(-size * dim // 8))
        bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=size * dim)
        basis, triangle = np.linalg.qr(2.0 * bits.reshape(size, dim) - 1.0)
        basis *= np.where(np.diag(triangle) < 0, -1.0, 1.0)  # LAPACK is free in its signs
        scaled = (basis * math.sqrt(_POWER * size / dim)).round(6)
        return cls(np.zeros(size, dtype=np.float32), scaled.astype(np.float32))

    @classmethod
    def fit(cls, embeddings: Array, dim: int) -> Projection:
        """Return the principal components of embeddings of shape (n, size); fewer where n is small.

        Raises
        ------
        FeaturesError
            Fewer than two, or all alike.
        """
        if len(embeddings) < 2:
            raise FeaturesError(f"fit: expected at least 2 embeddings, got {len(embeddings)}")
        unit = np.array([_unit(row) for row in embeddings])
        mean = unit.mean(axis=0)
        _, strengths, basis = np.linalg.svd(unit - mean, full_matrices=False)
        kept = min(dim, len(unit) - 1, unit.shape[1])
        length = math.sqrt(float(np.square(strengths[:kept]).sum()) / len(unit))
        if length < _LEAST:
            raise FeaturesError("fit: the embeddings are all alike")
        components = basis[:kept].T * (math.sqrt(_POWER) / length)
        return cls(mean.astype(np.float32), components.astype(np.float32))

    def project(self, embedding: Array) -> Array:
        """Return the components of an embedding, of shape (dim,).

        Raises
        ------
        EmbeddingsUnavailableError
            It has another length.
        """
        if embedding.shape != (self.size,):
            raise EmbeddingsUnavailableError(
                f"embeddings: expected {self.size} numbers, got {embedding.shape[-1]}"
            )
        projected: Array = (_unit(embedding) - self.mean) @ self.components.astype(np.float64)
        return projected

    def to_bytes(self) -> bytes:
        """Return the artefact as bytes, without loss."""
        header = _HEADER.pack(_MAGIC, _FORMAT, self.size, self.dim)
        body = self.mean.astype("<f4").tobytes() + self.components.astype("<f4").tobytes()
        return header + hashlib.sha256(header + body).digest() + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Projection:
        """Read what `to_bytes` wrote.

        Raises
        ------
        FormatError
            Not a projection, damaged, or of a newer version.
        """
        if len(data) < _HEADER.size + _DIGEST or data[:4] != _MAGIC:
            raise FormatError("projection: these bytes are not a projection")
        _, version, size, dim = _HEADER.unpack_from(data)
        if version != _FORMAT:
            raise FormatError(f"projection: expected format version {_FORMAT}, got {version}")
        start = _HEADER.size + _DIGEST
        body, digest = data[start:], data[_HEADER.size : start]
        whole = len(body) == 4 * size * (dim + 1)
        if not whole or hashlib.sha256(data[: _HEADER.size] + body).digest() != digest:
            raise FormatError("projection: the bytes are damaged or cut short")
        numbers = np.frombuffer(body, dtype="<f4")
        try:
            return cls(numbers[:size], numbers[size:].reshape(size, dim))
        except FeaturesError as error:
            raise FormatError(f"projection: {error}") from error


def _unit(embedding: Array) -> Array:
    """Return an embedding, which is not zero, at length one."""
    scaled: Array = embedding / np.abs(embedding).max()  # so that no square overflows
    return scaled / math.sqrt(float(scaled @ scaled))


def _check_parts(mean: NDArray[np.float32], components: NDArray[np.float32]) -> None:
    """Raise FeaturesError unless mean and components fit each other and can give no NaN."""
    fits = components.ndim == 2 and mean.shape == components.shape[:1] and min(components.shape) > 0
    if not fits or len(mean) > MAX_SIZE:
        raise FeaturesError(
            f"expected mean (size,) and components (size, dim), got {mean.shape} and {components.shape}"
        )
    if not (np.abs(mean) <= 1.01).all() or not (np.abs(components) <= 2 / _LEAST).all():
        raise FeaturesError("expected finite components, of a plausible scale")
