"""Evidence adds up: what is known of each model, as sums.

``A = S g w x xT``, ``b = S g w r x``, ``c = S g w r^2`` and ``n = S g w`` over observations with features ``x``
(``x[0] = 1``), reward ``r`` and likelihood power ``w``. Sums commute: feedback may come late, twice, in any
order and from any worker, and a changed mind is the old contribution subtracted and the new one added.
``g = 2^((t - landmark) / half_life)`` is forward decay [1]_, so that old evidence fades while the sums still
commute.

References
----------
.. [1] Cormode et al., "Forward decay", ICDE 2009.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import blas

from bandit_router.errors import FormatError, NewerFormatError
from bandit_router.values import Array, check_number, check_unit, check_vector

FEATURE_LIMIT = 1e6  # beyond it, squares and sums of squares would lose what is small
_TIME_LIMIT = 1e12  # [s]; beyond it, the landmark of a short half-life would overflow
_MAGIC = b"BREV"
_VERSION = 1
_HEADER = struct.Struct("<4sHIdqdd")  # magic, version, dim, half-life, epoch, c, n
_HORIZON = 64  # half-lives after which the landmark moves on
_FORGOTTEN = -1000  # in half-lives: what is older than this weighs nothing in float64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What one decision adds to the sums of the model that served it.

    A revision is ``new - old``, a retraction is ``-old``: contributions are linear.

    Attributes
    ----------
    x : ndarray of shape (dim,)
        Features, with ``x[0] = 1``.
    at : float
        When the decision was made [s].
    weight, weighted_reward, weighted_square : float
        ``w``, ``w r`` and ``w r^2``.

    Examples
    --------
    >>> old = Observation.of([1.0, 2.0], 0.0)
    >>> new = Observation.of([1.0, 2.0], 1.0)
    >>> change = new - old
    >>> change.weight, change.weighted_reward
    (0.0, 1.0)
    """

    x: Array
    at: float
    weight: float
    weighted_reward: float
    weighted_square: float

    @classmethod
    def of(cls, x: object, reward: float, *, weight: float = 1.0, at: float = 0.0) -> Observation:
        """Return the contribution of a `reward` with a likelihood power `weight`.

        Raises
        ------
        ValueError
            Something is not finite, a feature exceeds 1e6, or the weight is negative.
        """
        vector = check_vector("x", x)
        if vector.size == 0 or np.abs(vector).max() > FEATURE_LIMIT:
            raise ValueError(f"x: expected at least one number, none beyond {FEATURE_LIMIT:g}")
        r, w = check_number("reward", reward), check_number("weight", weight)
        if w < 0 or max(w, abs(r)) > FEATURE_LIMIT:
            raise ValueError(
                f"expected a weight from 0 and a reward, none beyond 1e6, got {w:g} and {r:g}"
            )
        moment = check_number("at", at)
        if abs(moment) > _TIME_LIMIT:
            raise ValueError(f"at: expected seconds since 1970, got {moment:g}")
        return cls(x=vector, at=moment, weight=w, weighted_reward=w * r, weighted_square=w * r * r)

    def __sub__(self, old: Observation) -> Observation:
        return Observation(
            x=self.x,
            at=self.at,
            weight=self.weight - old.weight,
            weighted_reward=self.weighted_reward - old.weighted_reward,
            weighted_square=self.weighted_square - old.weighted_square,
        )

    def scaled(self, factor: float) -> Observation:
        """Return what counts `factor` times as much."""
        return replace(
            self,
            weight=factor * self.weight,
            weighted_reward=factor * self.weighted_reward,
            weighted_square=factor * self.weighted_square,
        )

    def __neg__(self) -> Observation:
        return Observation(
            x=self.x,
            at=self.at,
            weight=-self.weight,
            weighted_reward=-self.weighted_reward,
            weighted_square=-self.weighted_square,
        )


class Evidence:
    """The sums of one model.

    Parameters
    ----------
    dim : int
        Length of ``x``.
    half_life : float, optional
        How long it takes until evidence counts half [s]; None never forgets.

    Notes
    -----
    The landmark is always a whole number of half-lives since 1970 (`epoch`), so that moving it multiplies
    the sums by an exact power of two: nothing is rounded, and any order of arrival gives the same sums.

    Examples
    --------
    >>> evidence = Evidence(2)
    >>> evidence.add(Observation.of([1.0, 2.0], 0.5))
    >>> evidence.n, evidence.b.tolist()
    (1.0, [0.5, 1.0])
    """

    __slots__ = ("_triangle", "b", "c", "epoch", "half_life", "n")

    def __init__(self, dim: int, *, half_life: float | None = None) -> None:
        if half_life is not None and not 0 < half_life < math.inf:
            raise ValueError(f"half_life: expected a positive number of seconds, got {half_life}")
        self.half_life = half_life
        self.epoch = 0
        self._triangle = np.zeros((dim, dim), order="F")  # upper triangle of A
        self.b: Array = np.zeros(dim)
        self.c = 0.0
        self.n = 0.0

    def __repr__(self) -> str:
        return f"<Evidence dim={self.dim} n={self.n:.6g} half_life={self.half_life}>"

    @property
    def dim(self) -> int:
        """Length of ``x``."""
        return int(self.b.shape[0])

    @property
    def landmark(self) -> float:
        """The moment at which a contribution weighs as it came [s]."""
        return 0.0 if self.half_life is None else self.epoch * self.half_life

    @property
    def A(self) -> Array:  # noqa: N802 - as in the paper
        """``S g w x xT``, of shape (dim, dim), symmetric; a copy."""
        return np.triu(self._triangle) + np.triu(self._triangle, 1).T

    def add(self, observation: Observation) -> None:
        """Add one contribution, in place.

        Raises
        ------
        ValueError
            Its features have another length, or something in it is not finite.
        """
        x = observation.x
        if x.shape != self.b.shape:
            raise ValueError(f"x: expected shape {self.b.shape}, got {x.shape}")
        weighted = observation.weight + observation.weighted_reward + observation.weighted_square
        if not math.isfinite(float(x @ x) + weighted + observation.at):
            raise ValueError(f"expected finite numbers, got {observation!r}")
        g = self._growth(observation.at)
        blas.dsyr(g * observation.weight, x, a=self._triangle, overwrite_a=True)
        self.b += (g * observation.weighted_reward) * x
        self.c += g * observation.weighted_square
        self.n += g * observation.weight

    def add_many(self, x: Array, weights: Array, rewards: Array, at: Array) -> None:
        """Add n observations at once, in place.

        Parameters
        ----------
        x : ndarray of shape (n, dim)
        weights, rewards, at : ndarray of shape (n,)
            Likelihood powers, rewards and moments [s].

        Raises
        ------
        ValueError
            Lengths differ, or something is not finite.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x: expected shape (n, {self.dim}), got {x.shape}")
        if not weights.shape == rewards.shape == at.shape == (len(x),):
            raise ValueError(f"expected {len(x)} weights, rewards and moments")
        if not all(np.isfinite(numbers).all() for numbers in (x, weights, rewards, at)):
            raise ValueError("expected finite numbers, got a NaN or an infinity")
        if len(x) == 0:
            return
        self._growth(float(at.max()))
        g = weights * np.array([self._growth(moment) for moment in at.tolist()])
        self._triangle += x.T @ (g[:, None] * x)
        self.b += (g * rewards) @ x
        self.c += float(g @ rewards**2)
        self.n += float(g.sum())

    def merge(self, other: Evidence, *, sign: float = 1.0) -> None:
        """Add (or with ``sign=-1`` subtract) all of another's sums, in place."""
        if other.dim != self.dim or other.half_life != self.half_life:
            raise ValueError(f"expected evidence like {self!r}, got {other!r}")
        if other.epoch > self.epoch:
            self._move(other.epoch)
        g = sign * math.ldexp(1.0, other.epoch - self.epoch)
        self._triangle += g * other._triangle
        self.b += g * other.b
        self.c += g * other.c
        self.n += g * other.n

    def scale(self, factor: float) -> None:
        """Let all contributions so far count `factor` times as much, in place.

        Raises
        ------
        ValueError
            The factor is not from 0 to 1.
        """
        g = check_unit("factor", factor)
        self._triangle *= g
        self.b *= g
        self.c *= g
        self.n *= g

    def copy(self) -> Evidence:
        """Return the same sums in arrays of their own."""
        twin = Evidence(self.dim, half_life=self.half_life)
        twin.epoch = self.epoch
        twin.merge(self)
        return twin

    def plain(self, dim: int) -> Evidence:
        """Return the sums that the same rewards give where every ``x`` is the constant feature alone."""
        plain = Evidence(dim, half_life=self.half_life)
        plain._triangle[0, 0], plain.b[0] = self.n, self.b[0]
        plain.epoch, plain.c, plain.n = self.epoch, self.c, self.n
        return plain

    def fading(self, at: float) -> float:
        """Return what all sums must be multiplied by to be as of `at` [s]."""
        if self.half_life is None:
            return 1.0
        age = at / self.half_life - self.epoch
        return math.exp2(-min(max(age, _FORGOTTEN), -_FORGOTTEN))

    def _growth(self, at: float) -> float:
        if self.half_life is None:
            return 1.0
        age = at / self.half_life - self.epoch
        if age > _HORIZON:
            self._move(math.floor(at / self.half_life))
            age = at / self.half_life - self.epoch
        return math.exp2(age) if age > _FORGOTTEN else 0.0

    def _move(self, epoch: int) -> None:
        g = math.ldexp(1.0, max(self.epoch - epoch, 2 * _FORGOTTEN))
        self._triangle *= g
        self.b *= g
        self.c *= g
        self.n *= g
        self.epoch = epoch

    def to_bytes(self) -> bytes:
        """Return the sums as bytes, without loss."""
        half_life = math.nan if self.half_life is None else self.half_life
        header = _HEADER.pack(_MAGIC, _VERSION, self.dim, half_life, self.epoch, self.c, self.n)
        triangle = self._triangle.T[np.tril_indices(self.dim)]
        return header + self.b.astype("<f8").tobytes() + triangle.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Read what `to_bytes` wrote.

        Raises
        ------
        FormatError
            Not evidence, damaged, or of a newer version.
        """
        if len(data) < _HEADER.size or data[:4] != _MAGIC:
            raise FormatError("evidence: these bytes are not evidence")
        _, version, dim, half_life, epoch, c, n = _HEADER.unpack_from(data)
        if version > _VERSION:
            raise NewerFormatError(f"evidence: expected format version {_VERSION}, got {version}")
        if version != _VERSION:
            raise FormatError(f"evidence: expected format version {_VERSION}, got {version}")
        if len(data) != _HEADER.size + 8 * (dim + dim * (dim + 1) // 2):
            raise FormatError(f"evidence: {len(data)} bytes do not hold {dim} dimensions")
        numbers = np.frombuffer(data, dtype="<f8", offset=_HEADER.size).astype(np.float64)
        known = half_life > 0 and half_life < math.inf
        if not (
            np.isfinite(numbers).all() and math.isfinite(c + n) and (known or math.isnan(half_life))
        ):
            raise FormatError("evidence: expected finite sums")
        evidence = cls(dim, half_life=half_life if known else None)
        evidence.epoch, evidence.c, evidence.n = epoch, c, n
        evidence.b = numbers[:dim].copy()
        evidence._triangle.T[np.tril_indices(dim)] = numbers[dim:]
        return evidence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delta:
    """One change of one model's sums, which counts once however often it comes.

    Attributes
    ----------
    key : int
        Unique within a router: twice the number of its reward row, plus one for what the row adds.
    """

    key: int
    model: str
    observation: Observation


def evidence_to_bytes(evidence: Mapping[str, Evidence]) -> bytes:
    """Return the sums of many models as bytes, without loss."""
    parts = [struct.pack("<4sHI", b"BRES", _VERSION, len(evidence))]
    for model, sums in evidence.items():
        name, body = model.encode(), sums.to_bytes()
        parts += [struct.pack("<HI", len(name), len(body)), name, body]
    return b"".join(parts)


def evidence_from_bytes(data: bytes) -> dict[str, Evidence]:
    """Read what `evidence_to_bytes` wrote.

    Raises
    ------
    FormatError
        Not evidence, damaged, or of a newer version.
    """
    evidence: dict[str, Evidence] = {}
    try:
        magic, version, count = struct.unpack_from("<4sHI", data)
        if magic == b"BRES" and version > _VERSION:
            raise NewerFormatError(f"evidence: expected format version {_VERSION}, got {version}")
        if magic != b"BRES" or version != _VERSION:
            raise FormatError(f"evidence: expected format version {_VERSION}")
        at = struct.calcsize("<4sHI")
        for _ in range(count):
            name_length, length = struct.unpack_from("<HI", data, at)
            at += struct.calcsize("<HI")
            name = data[at : at + name_length].decode()
            evidence[name] = Evidence.from_bytes(data[at + name_length : at + name_length + length])
            at += name_length + length
    except (struct.error, UnicodeDecodeError) as error:
        raise FormatError(f"evidence: damaged: {error}") from error
    if at != len(data) or len(evidence) != count:
        raise FormatError("evidence: damaged: a wrong length")
    return evidence
