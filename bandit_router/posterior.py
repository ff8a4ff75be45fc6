"""What the router believes about each model: the posterior that follows from the sums of evidence.

Means, covariances and the strength of the prior are functions of the sums, and never stored as truth.

References
----------
.. [1] Bishop, Pattern Recognition and Machine Learning (2006), section 3.3.
.. [2] MacKay, "Bayesian interpolation", Neural Computation 4 (1992).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack

from bandit_router.evidence import Evidence, Observation
from bandit_router.values import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of a model before it has evidence: ``r ~ N(theta . x, noise)``.

    Attributes
    ----------
    mean : float
        Expected reward of a model that was never tried: the prior mean of the weight of ``x[0]``.
    bias_precision, precision : float
        Prior precision of the weight of ``x[0]``, and of each other weight, in observations
        (precision times noise variance).
    noise : float
        Variance of a reward of weight 1 around its expectation.
    """

    mean: float = 0.5
    bias_precision: float = 10.0
    precision: float = 30.0
    noise: float = 0.1

    def precisions(self, dim: int) -> Array:
        """The diagonal of the prior precision, of shape (dim,), in observations."""
        diagonal = np.full(dim, self.precision)
        diagonal[0] = self.bias_precision
        return diagonal


PRECISIONS = (
    1.0,
    3.0,
    10.0,
    30.0,
    100.0,
)  # beyond it, models that fell out of favour would never return
_DOUBT = math.log(27.0)  # nine in ten that it counts in full, and the rest shared by three
_OLD_FIT = 8.0  # half-lives: a later contribution would be too heavy for a rank-one update of it
_PSEUDO = 4.0  # observations that the start values of mean and noise are worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """When what was known before is no longer believed.

    Attributes
    ----------
    powers : tuple of float
        What each observation may count that was known before, the first of which is 1.
    """

    powers: tuple[float, ...] = (1.0, 0.3, 0.1, 0.0)


def fit_prior(evidence: Iterable[Evidence], *, at: float = 0.0, start: Prior | None = None) -> Prior:
    """Choose the prior that all models share from their sums alone.

    The mean is the mean reward over all models; noise and precision maximise the marginal likelihood
    [2]_, over a grid of precisions, with the noise at its best value for each; the bias keeps its own.

    Parameters
    ----------
    evidence : iterable of Evidence
    at : float
        As of when [s]; matters only with a half-life.
    start : Prior, optional
        Believed before any evidence, and worth four observations of mean and noise.
    """
    start = Prior() if start is None else start
    sums = [_Sums.of(e, e.fading(at)) for e in evidence if e.n > 0]
    return _chosen(sums, start)[0] if sums else start


def _chosen(sums: Sequence[_Sums], start: Prior) -> tuple[Prior, Array]:
    """The prior, and its centre: the weights, of shape (dim,), around which those of all models lie.

    A prompt is hard or easy for all models alike. So the centre is what one ridge regression finds in all
    evidence together, a plug-in value; what is left to a model's own weights is how it differs.
    """
    n = sum(s.n for s in sums)
    mean = (_PSEUDO * start.mean + sum(s.b[0] for s in sums)) / (_PSEUDO + n)
    prior, centre = replace(start, mean=float(mean)), np.zeros(len(sums[0].b))
    centre[0] = mean
    pooled = sum(sums, _Sums.none(len(centre))).centred(centre)
    shared = _climb([pooled], prior).precisions(len(centre))
    centre += _solve(pooled.A, pooled.b, shared)[1]
    return _climb([s.centred(centre) for s in sums], prior), centre


def _climb(sums: Sequence[_Sums], prior: Prior) -> Prior:
    """Go uphill over the grid of precisions, from the prior's; the likelihood has one peak there."""
    at = int(np.argmin(np.abs(np.log(PRECISIONS) - math.log(prior.precision))))
    fits: dict[int, tuple[float, Prior]] = {}
    while True:
        near = range(max(at - 1, 0), min(at + 2, len(PRECISIONS)))
        fits |= {
            i: _marginal(sums, replace(prior, precision=PRECISIONS[i])) for i in near if i not in fits
        }
        best = max(near, key=lambda i: fits[i][0])
        if best == at:
            return fits[at][1]
        at = best


@dataclass(frozen=True, slots=True)
class _Sums:
    A: Array
    b: Array
    c: float
    n: float

    @classmethod
    def of(cls, evidence: Evidence, scale: float) -> _Sums:
        return cls(evidence.A, evidence.b, evidence.c, evidence.n).scaled(scale)

    @classmethod
    def none(cls, dim: int) -> _Sums:
        return cls(np.zeros((dim, dim)), np.zeros(dim), 0.0, 0.0)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.A + other.A, self.b + other.b, self.c + other.c, self.n + other.n)

    def scaled(self, power: float) -> _Sums:
        """The sums of the same rewards, each of that likelihood power."""
        return _Sums(self.A * power, self.b * power, self.c * power, self.n * power)

    def centred(self, centre: Array) -> _Sums:
        """The sums that rewards less ``centre . x`` would have given."""
        known = self.A @ centre
        c = self.c + float(centre @ (known - 2 * self.b))
        return _Sums(self.A, self.b - known, c, self.n)


def _choose_power(
    live: Sequence[_Sums],
    known: Sequence[_Sums],
    prior: Prior,
    centre: Array,
    doubt: Doubt,
) -> float:
    """How much of what was known before counts: the power under which it foretells best what was seen since.

    The sums of what was known, each of that power, are a belief; what it foretold of the rewards since is
    ``p(both) / p(known)``. All models share the power: one that proved wrong casts doubt on the others,
    or those that it made look poor would never be tried. Prior and centre are held fixed.
    """
    seen = [(after, before) for after, before in zip(live, known, strict=True) if after.n > 0]
    if not any(before.n > 0 for _, before in seen):
        return 1.0
    pairs = [(after.centred(centre), before.centred(centre)) for after, before in seen]
    return max(doubt.powers, key=lambda power: _foretold(pairs, power, prior) - _DOUBT * (power < 1.0))


def _foretold(pairs: Sequence[tuple[_Sums, _Sums]], power: float, prior: Prior) -> float:
    """Log likelihood of what was seen, given what was known at that power; the noise at its best value."""
    n, residual, log_determinants = _PSEUDO, _PSEUDO * prior.noise, 0.0
    precisions = prior.precisions(len(pairs[0][0].b))
    for live, known in pairs:
        before = known.scaled(power)
        for sums, sign in ((before + live, 1.0), (before, -1.0)):
            factor, weights = _solve(sums.A, sums.b, precisions)
            residual += sign * (sums.c - float(sums.b @ weights))
            log_determinants += sign * 2 * float(np.log(factor.diagonal()).sum())
        n += live.n
    noise = max(residual, _PSEUDO * prior.noise) / n
    return -0.5 * (n * math.log(noise) + log_determinants)


def _marginal(sums: Sequence[_Sums], prior: Prior) -> tuple[float, Prior]:
    """Log marginal likelihood (MacKay 1992, eq. 2.13) and the prior with its best noise."""
    residual, log_determinants = _PSEUDO * prior.noise, 0.0
    precisions = prior.precisions(len(sums[0].b))
    for s in sums:
        factor, weights = _solve(s.A, s.b, precisions)
        residual += max(s.c - float(s.b @ weights), 0.0)
        log_determinants += 2 * float(np.log(factor.diagonal()).sum()) - float(np.log(precisions).sum())
    n = _PSEUDO + sum(s.n for s in sums)
    noise = residual / n
    score = -0.5 * (n * math.log(noise) + log_determinants)
    return score, replace(prior, noise=noise)


def _solve(A: Array, b: Array, precisions: Array) -> tuple[Array, Array]:
    """Cholesky factor of ``A + diag(precisions)``, and the solution for `b`."""
    P = A.copy(order="F")
    P.flat[:: len(b) + 1] += precisions
    factor, info = lapack.dpotrf(P, lower=False, overwrite_a=True)
    if info != 0:
        raise FloatingPointError("evidence is not positive definite: more was retracted than was added")
    solution, _ = lapack.dpotrs(factor, b, lower=False)
    return factor, solution


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """The posterior of all models as of one moment; a pure function of their sums.

    Attributes
    ----------
    weights : ndarray of shape (K, dim)
        Posterior means.
    covariance : ndarray of shape (K, dim, dim)
        Posterior covariances, divided by the noise.
    centre : ndarray of shape (dim,)
        Prior mean of the weights of every model.
    power : float
        What each observation counts that was known before.
    """

    prior: Prior
    at: float
    centre: Array
    power: float
    weights: Array
    covariance: Array


class Beliefs:
    """All models stacked, ready to predict.

    Parameters
    ----------
    models : sequence of str
        Names, in the order of every array that `predict` returns.
    dim : int
        Length of ``x``.
    half_life : float, optional
        How long it takes until evidence counts half [s].
    prior : Prior, optional
        A fixed prior. By default it is chosen from the evidence (`fit_prior`) at every fit, and models
        share what they have in common.
    known : mapping of str to Evidence, optional
        What was known before, of some models: of an evaluation, say. It is kept apart from `evidence`, and
        how much of it counts is chosen at every fit: all of it, until what is seen contradicts it.
    doubt : Doubt
        When it is contradicted.

    Notes
    -----
    One writer (`learn`, `adopt`) at a time; a reader beside it needs the writer's lock.

    Examples
    --------
    >>> beliefs = Beliefs(["small", "large"], dim=2)
    >>> beliefs.learn("small", Observation.of([1.0, 0.5], 1.0))
    >>> mean, std = beliefs.predict(np.array([1.0, 0.5]))
    >>> bool(mean[0] > mean[1]), bool(std[0] < std[1])
    (True, True)
    """

    def __init__(
        self,
        models: Sequence[str],
        dim: int,
        *,
        half_life: float | None = None,
        prior: Prior | None = None,
        known: Mapping[str, Evidence] | None = None,
        doubt: Doubt = Doubt(),
    ) -> None:
        self.dim = dim
        self.doubt = doubt
        self.half_life = half_life
        self.fixed_prior = prior
        self.known = dict(known or {})
        self.evidence: dict[str, Evidence] = {m: Evidence(dim, half_life=half_life) for m in models}
        self._index = {model: k for k, model in enumerate(self.evidence)}
        self._since_fit = 0
        self._weights: Array
        self._covariance: Array
        self.adopt(self.fit())

    def __repr__(self) -> str:
        return f"<Beliefs models={list(self.evidence)} dim={self.dim} half_life={self.half_life}>"

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order of the arrays."""
        return tuple(self.evidence)

    def index(self, model: str) -> int:
        """Return the place of a model in the arrays."""
        return self._index[model]

    def rewards(self, model: str) -> float:
        """Return how many rewards of a model are known, faded as of the last fit; with those from before."""
        both = (self.evidence[model], self.known.get(model))
        return float(sum(sums.n * sums.fading(self.fitted_at) for sums in both if sums is not None))

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of each model's expected reward for `x`.

        Parameters
        ----------
        x : ndarray of shape (dim,)

        Returns
        -------
        mean, std : ndarray of shape (K,)
        """
        mean = self._weights @ x
        spread = (self._flat @ x).reshape(-1, self.dim) @ x
        return mean, np.sqrt(np.maximum(spread, 0.0) * self.prior.noise)

    def learn(self, model: str, observation: Observation) -> None:
        """Add one contribution to a model's sums, and update its posterior (Bishop (3.50), (3.51))."""
        if model not in self._index:
            self.add_model(model)
        k = self._index[model]
        self.evidence[model].add(observation)
        self._since_fit += 1
        age = 0.0 if self.half_life is None else (observation.at - self.fitted_at) / self.half_life
        if age > _OLD_FIT:
            self.adopt(self.fit(at=observation.at))
            return
        g = math.exp2(age)
        w, x = g * observation.weight, observation.x
        if w < 0:
            self._weights[k], self._covariance[k] = self._posterior_of(model)
            return
        spread = self._covariance[k] @ x
        denominator = 1.0 + w * float(x @ spread)
        surprise = g * observation.weighted_reward - w * float(x @ self._weights[k])
        self._weights[k] += (surprise / denominator) * spread
        spread *= math.sqrt(w / denominator)
        self._covariance[k] -= np.multiply.outer(spread, spread)

    def learn_all(self, observations: Iterable[tuple[str, Observation]]) -> None:
        """Add many contributions to the sums, and fit once."""
        for model, observation in observations:
            if model not in self._index:
                self.add_model(model)
            self.evidence[model].add(observation)
        self.adopt(self.fit())

    def add_model(self, model: str, evidence: Evidence | None = None) -> None:
        """Stack one more model, at the prior or with the sums it has; the others stay as they are."""
        self._index[model] = len(self.evidence)
        self.evidence[model] = evidence or Evidence(self.dim, half_life=self.half_life)
        weights, covariance = self._posterior_of(model)
        self._weights = np.concatenate([self._weights, weights[None]])
        self._covariance = np.concatenate([self._covariance, covariance[None]])
        self._flat = self._covariance.reshape(-1, self.dim)

    def replace(self, evidence: Mapping[str, Evidence], *, at: float | None = None) -> None:
        """Take over the sums of all models, and fit."""
        self.evidence = dict(evidence)
        self._index = {model: k for k, model in enumerate(self.evidence)}
        self.adopt(self.fit(at=at))

    @property
    def stale(self) -> int:
        """Contributions since the last fit."""
        return self._since_fit

    def fit(self, *, at: float | None = None) -> Fit:
        """Return the posterior that follows from the sums as of `at` [s]; changes nothing.

        By default as of the last fit; but never as of before the newest landmark.
        """
        at = getattr(self, "fitted_at", 0.0) if at is None else at
        at = max([at, *(e.landmark for e in (*self.evidence.values(), *self.known.values()))])
        live = [_Sums.of(e, e.fading(at)) for e in self.evidence.values()]
        known = [self._known_of(model, at) for model in self.evidence]
        sums = [a + b for a, b in zip(live, known, strict=True)]
        prior, centre = self._choose_prior(sums)
        power = _choose_power(live, known, prior, centre, self.doubt)
        if power < 1.0:
            sums = [a + b.scaled(power) for a, b in zip(live, known, strict=True)]
            prior, centre = self._choose_prior(sums)
        weights = np.empty((len(sums), self.dim))
        covariance = np.empty((len(sums), self.dim, self.dim))
        for k, s in enumerate(sums):
            weights[k], covariance[k] = _posterior(s, prior, centre)
        return Fit(
            prior=prior, at=at, centre=centre, power=power, weights=weights, covariance=covariance
        )

    def _known_of(self, model: str, at: float) -> _Sums:
        known = self.known.get(model)
        return _Sums.none(self.dim) if known is None else _Sums.of(known, known.fading(at))

    def _choose_prior(self, sums: Sequence[_Sums]) -> tuple[Prior, Array]:
        some = [s for s in sums if s.n > 0]
        if self.fixed_prior is None and some:
            return _chosen(some, Prior())
        prior = self.fixed_prior or Prior()
        return prior, prior.mean * np.eye(self.dim)[0]

    def adopt(self, fit: Fit) -> None:
        """Predict with a fit of these sums from now on."""
        self.prior, self.fitted_at, self._centre, self.power = fit.prior, fit.at, fit.centre, fit.power
        self._weights, self._covariance = fit.weights, fit.covariance
        self._flat = self._covariance.reshape(-1, self.dim)
        self._since_fit = 0

    def _posterior_of(self, model: str) -> tuple[Array, Array]:
        """The posterior of one model under the prior and the power of the last fit."""
        evidence = self.evidence[model]
        live = _Sums.of(evidence, evidence.fading(self.fitted_at))
        known = self._known_of(model, self.fitted_at).scaled(self.power)
        return _posterior(live + known, self.prior, self._centre)


def _posterior(sums: _Sums, prior: Prior, centre: Array) -> tuple[Array, Array]:
    """Posterior mean and covariance (over the noise) of one model (Bishop (3.50), (3.51))."""
    precisions = prior.precisions(len(centre))
    if sums.n <= 0:
        return centre, np.diag(1.0 / precisions)
    factor, weights = _solve(sums.A, sums.b + precisions * centre, precisions)
    covariance, _ = lapack.dpotri(factor, lower=False)
    covariance = np.triu(covariance)
    return weights, covariance + np.triu(covariance, 1).T
