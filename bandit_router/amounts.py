"""How an amount, such as the tokens of an answer, differs by prompt: ridge regression on its square root.

An error of the root is about as large for long answers as for short ones, and the sums of evidence of
``r = sqrt(amount)`` say exactly what is needed to predict without bias: the mean amount is ``c / n``, and
the mean of the squared prediction is ``w' A w / n``. So ``(w . x)^2 c / (w' A w)`` is on average, over the
prompts that were seen, what the amounts are. Strength of the ridge and what models have in common are
chosen from the sums, as for beliefs; so is how much counts of what was known before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bandit_router.errors import FormatError
from bandit_router.evidence import Evidence, Observation, evidence_from_bytes, evidence_to_bytes
from bandit_router.posterior import Beliefs, Doubt
from bandit_router.values import Array

LEAST = 0.25  # of the mean root: what a prompt is thought to amount to at least
SPREAD = 3.0  # standard deviations of the roots, beyond which no prediction goes
FIRST_FIT = 25  # amounts before the first fit
GROWTH = 0.1  # share by which they grow until the next
DOUBT = Doubt(powers=(1.0, 0.0))  # what was known before counts, or it does not
_DUST = 1e-9  # observations; what rounding leaves of those that were taken away again


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """How the amounts of one model differ by prompt.

    Attributes
    ----------
    weights : ndarray of shape (dim,)
        Of the root, divided so that the mean of its square over the prompts seen is 1.
    least, most : float
        Roots, in the same unit, beyond which nothing was seen.
    """

    weights: Array
    least: float
    most: float

    @classmethod
    def of(cls, evidence: Evidence, weights: Array, spread: float) -> Shape:
        """Read it from the sums, the weights that follow from them, and how far roots spread."""
        n = evidence.n
        unit = math.sqrt(max(float(weights @ evidence.A @ weights) / n, _DUST))
        mean = float(evidence.b[0]) / n / unit
        return cls(weights=weights / unit, least=LEAST * mean, most=(1.0 + SPREAD * spread) * mean)

    def at(self, x: Array) -> float:
        """Return what a prompt amounts to, as a multiple of the mean."""
        root = min(max(float(self.weights @ x), self.least), self.most)
        return root * root


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shapes:
    """How the amounts of all models differ by prompt; a pure function of their sums.

    Attributes
    ----------
    models : mapping of str to Shape
        Of every model of which an amount is known.
    common : Shape, optional
        What all have in common; None where nothing is known.
    power : float
        What each amount counts that was known before.
    """

    models: Mapping[str, Shape] = field(default_factory=dict)
    common: Shape | None = None
    power: float = 1.0

    def get(self, model: str) -> Shape | None:
        """Return that of a model, or what it is thought to share with the others."""
        return self.models.get(model, self.common)


class Amounts:
    """The amounts of all models, as sums, and how they differ by prompt.

    Parameters
    ----------
    half_life : float
        How long it takes until an amount counts half [s].
    known : mapping of str to Evidence, optional
        What was known before, of some models: of an evaluation, say. It is kept apart from `evidence`.

    Attributes
    ----------
    evidence : dict of str to Evidence
        The sums of each model.
    news : int
        Amounts since the last fit.

    Notes
    -----
    Predictions change by `fit` alone, which is due (`stale`) when the amounts have grown by a tenth.

    Examples
    --------
    >>> import numpy as np
    >>> amounts = Amounts(half_life=1e6)
    >>> for i in range(60):
    ...     amounts.add("small", np.array([1.0, i % 2]), 1.0 + 3.0 * (i % 2), at=0.0)
    >>> amounts.fit(at=0.0)
    >>> [round(amounts.multiple("small", np.array([1.0, long])), 1) for long in (0.0, 1.0)]
    [0.4, 1.6]
    """

    def __init__(self, *, half_life: float, known: Mapping[str, Evidence] | None = None) -> None:
        self.half_life = half_life
        self.known = dict(known or {})
        self.evidence: dict[str, Evidence] = {}
        self._shapes = Shapes()
        self.news = 0

    def add(self, model: str, x: Array, amount: float, *, at: float, sign: float = 1.0) -> None:
        """Add (or with ``sign=-1`` subtract) one amount as of `at` [s]; another length of `x` is left out."""
        if self._dim not in (None, len(x)):
            return
        root = math.sqrt(amount)
        observation = Observation(
            x=x, at=at, weight=sign, weighted_reward=sign * root, weighted_square=sign * amount
        )
        self._of(model, len(x)).add(observation)
        self.news += 1

    def merge(self, evidence: Mapping[str, Evidence], *, sign: float = 1.0) -> None:
        """Add (or with ``sign=-1`` subtract) sums of the same features; those of others are left out."""
        for model, sums in evidence.items():
            if self._dim in (None, sums.dim):
                self._of(model, sums.dim).merge(sums, sign=sign)
                self.news += round(sums.n) + 1

    def _of(self, model: str, dim: int) -> Evidence:
        return self.evidence.setdefault(model, Evidence(dim, half_life=self.half_life))

    @property
    def _dim(self) -> int | None:
        return next((sums.dim for sums in (*self.evidence.values(), *self.known.values())), None)

    def stale(self, *, at: float) -> bool:
        """Return whether the amounts have grown enough by `at` [s] to be fitted again."""
        total = sum(sums.n * sums.fading(at) for sums in self.evidence.values())
        return self.news >= max(FIRST_FIT, GROWTH * total)

    def fit(self, *, at: float) -> None:
        """Predict from now on by the sums as they are at `at` [s]."""
        self.adopt(self.shapes(at=at))

    def shapes(self, *, at: float) -> Shapes:
        """Return how the amounts of each model differ by prompt, and what all have in common."""
        live = {m: sums for m, sums in self.evidence.items() if sums.n * sums.fading(at) > _DUST}
        before = {m: Evidence(sums.dim, half_life=self.half_life) for m, sums in self.known.items()}
        models = before | live
        if not models:
            return Shapes()
        beliefs = Beliefs([], self._dim or 0, half_life=self.half_life, known=self.known, doubt=DOUBT)
        beliefs.evidence = models
        fit = beliefs.fit(at=at)
        counted = self._counted(models, fit.power)
        together, spread = Evidence(beliefs.dim, half_life=self.half_life), _spread(counted.values())
        for sums in counted.values():
            together.merge(sums)
        weights = zip(counted.items(), fit.weights, strict=True)
        return Shapes(
            models={m: Shape.of(sums, w, spread) for (m, sums), w in weights if sums.n > 0},
            common=Shape.of(together, fit.centre, spread),
            power=fit.power,
        )

    def _counted(self, live: Mapping[str, Evidence], power: float) -> dict[str, Evidence]:
        """The sums of each model, with those that were known before at some power."""
        counted = {model: sums.copy() for model, sums in live.items()}
        for model, sums in self.known.items():
            less = sums.copy()
            less.scale(power)
            counted[model].merge(less)
        return counted

    def adopt(self, shapes: Shapes) -> None:
        """Predict by these from now on."""
        self._shapes, self.news = shapes, 0

    @property
    def power(self) -> float:
        """What each amount counts that was known before: all of it, until what is seen contradicts it."""
        return self._shapes.power

    def multiple(self, model: str, x: Array | None) -> float:
        """Return what a prompt amounts to, as a multiple of the model's mean; 1 where nothing is known."""
        shape = self._shapes.get(model)
        if x is None or shape is None or len(shape.weights) != len(x):
            return 1.0
        return shape.at(x)

    def to_bytes(self) -> bytes:
        """Return the sums as bytes, without loss."""
        return evidence_to_bytes(self.evidence)

    @classmethod
    def from_bytes(cls, data: bytes, *, half_life: float) -> Amounts:
        """Read what `to_bytes` wrote.

        Raises
        ------
        FormatError
            Damaged, of a newer version, or sums of another kind.
        """
        amounts = cls(half_life=half_life)
        amounts.evidence = evidence_from_bytes(data)
        kinds = {(sums.dim, sums.half_life) for sums in amounts.evidence.values()}
        if len(kinds) > 1 or any(kind[1] != half_life for kind in kinds):
            raise FormatError(f"amounts: expected one dimension and a half-life of {half_life:g} s")
        return amounts


def _spread(evidence: Iterable[Evidence]) -> float:
    """Standard deviation of the roots of a model, as a part of their mean; of all models together."""
    known = [sums for sums in evidence if sums.n > 0]
    squares = sum(sums.c for sums in known)
    means = sum(float(sums.b[0]) ** 2 / sums.n for sums in known)
    return math.sqrt(max(squares / max(means, _DUST) - 1.0, 0.0))
