"""Policies: pure functions from beliefs to probabilities, and the one place where floor and draw happen.

Every policy is ``probabilities(mean, std) -> p``: what each eligible model promises, and how wide that
is, to how likely each is drawn. No state, no randomness; so the logged probability is exact, and the
same object answers offline "what would you have done?".
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, Protocol, cast

import numpy as np
from scipy.special import ndtr

from bandit_router.errors import SettingsError
from bandit_router.values import Array, check_amount, check_unit


class Policy(Protocol):
    """A rule that turns promises into probabilities."""

    @property
    def spec(self) -> str:
        """The text that gives this policy back: ``policy_from_spec(policy.spec) == policy``."""
        ...

    def probabilities(self, mean: Array, std: Array) -> Array:
        """Return how likely each model is drawn.

        Parameters
        ----------
        mean, std : ndarray of shape (K,)
            The promise of each model and its standard deviation; not changed.

        Returns
        -------
        p : ndarray of shape (K,)
            Sums to one.
        """
        ...


def _best(score: Array) -> Array:
    """All probability on the highest score; ties share it."""
    top = score == score.max()
    share: Array = top / top.sum()
    return share


@dataclass(frozen=True, slots=True)
class Greedy:
    """The highest mean, always. Nothing can be learnt about the others without a floor."""

    @property
    def spec(self) -> str:
        """As `Policy.spec`."""
        return "greedy"

    def probabilities(self, mean: Array, std: Array) -> Array:
        """As `Policy.probabilities`."""
        return _best(mean)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every model alike."""

    @property
    def spec(self) -> str:
        """As `Policy.spec`."""
        return "uniform"

    def probabilities(self, mean: Array, std: Array) -> Array:
        """As `Policy.probabilities`."""
        return np.full(len(mean), 1.0 / len(mean))


@dataclass(frozen=True, slots=True)
class LinUCB:
    """The highest upper confidence bound ``mean + alpha std``.

    Parameters
    ----------
    alpha : float
        Standard deviations of optimism.

    References
    ----------
    .. [1] Li et al., "A contextual-bandit approach to personalized news article recommendation",
       WWW 2010, algorithm 1.

    Examples
    --------
    >>> LinUCB(alpha=1.0).probabilities(np.array([0.5, 0.6]), np.array([0.3, 0.1]))
    array([1., 0.])
    """

    alpha: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", check_amount("alpha", self.alpha))

    @property
    def spec(self) -> str:
        """As `Policy.spec`."""
        return f"linucb:alpha={self.alpha!r}"

    def probabilities(self, mean: Array, std: Array) -> Array:
        """As `Policy.probabilities`."""
        return _best(mean + self.alpha * std)


@dataclass(frozen=True, slots=True)
class EpsilonGreedy:
    """The highest mean, but with probability `epsilon` any model alike.

    Parameters
    ----------
    epsilon : float
        In [0, 1].
    """

    epsilon: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", check_unit("epsilon", self.epsilon))

    @property
    def spec(self) -> str:
        """As `Policy.spec`."""
        return f"egreedy:epsilon={self.epsilon!r}"

    def probabilities(self, mean: Array, std: Array) -> Array:
        """As `Policy.probabilities`."""
        return with_floor(_best(mean), self.epsilon)


@dataclass(frozen=True, slots=True)
class InverseGapWeighting:
    """SquareCB: ``p = 1 / (K + gamma gap)`` for all but the best, which takes the rest.

    Parameters
    ----------
    gamma : float
        How sharply probability falls with the gap to the best mean; 0 is uniform.

    References
    ----------
    .. [1] Foster and Rakhlin, "Beyond UCB", ICML 2020, algorithm 1.
    """

    gamma: float = 100.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", check_amount("gamma", self.gamma))

    @property
    def spec(self) -> str:
        """As `Policy.spec`."""
        return f"igw:gamma={self.gamma!r}"

    def probabilities(self, mean: Array, std: Array) -> Array:
        """As `Policy.probabilities`."""
        p = 1.0 / (len(mean) + self.gamma * (mean.max() - mean))
        rest: Array = p + (1.0 - p.sum()) * _best(mean)
        return rest


DEFAULT_FLOOR = 0.01  # total share of exploration that keeps everything evaluable off-policy
_REACH = 6.0  # standard deviations beyond which a normal has no mass that counts
_STEP = 1.75  # of the narrowest model: a panel of five nodes this wide errs by about 1e-5
_PANELS = np.array([-6.0, -4.5, -3.25, -2.25, -1.25, -0.4, 0.4, 1.25, 2.25, 3.25, 4.5, 6.0])
_NODES, _WEIGHTS = (a.astype(np.float64) for a in np.polynomial.legendre.leggauss(5))
_MOST = 256  # even panels
_EVEN_NODES = (np.arange(_MOST)[:, None] + (1.0 + _NODES) / 2).ravel()
_EVEN_WEIGHTS = np.tile(_WEIGHTS / 2, _MOST)


@dataclass(frozen=True, slots=True)
class ThompsonSampling:
    """Each model as often as a draw from its belief is the highest.

    The probability is a one-dimensional integral, ``p_k = ∫ f_k(t) prod_{j != k} F_j(t) dt`` with the
    normal density ``f`` and distribution ``F`` of each model's expected reward. It is done by
    Gauss-Legendre quadrature; where widths differ much its panels are laid at every model's own scale,
    so that a belief ten thousand times narrower than another, or of no width, is met where it stands.

    Parameters
    ----------
    width : float
        Multiplies the standard deviations; 1 is the posterior itself. With half of them it earned more on
        every routing table that was tried (docs/learning.md).

    References
    ----------
    .. [1] Thompson, "On the likelihood that one unknown probability exceeds another", Biometrika 1933.
    .. [2] Agrawal and Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013.

    Examples
    --------
    >>> ThompsonSampling().probabilities(np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.1, 0.0])).round(3)
    array([0.5, 0.5, 0. ])
    """

    width: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", check_amount("width", self.width))

    @property
    def spec(self) -> str:
        """As `Policy.spec`."""
        return "thompson" if self == ThompsonSampling() else f"thompson:width={self.width!r}"

    def probabilities(self, mean: Array, std: Array) -> Array:
        """As `Policy.probabilities`."""
        std = self.width * std
        # Whoever cannot reach the best lower end never wins.
        live = np.flatnonzero(mean + _REACH * std >= (mean - _REACH * std).max())
        p = np.zeros(len(mean))
        p[live] = 1.0 if len(live) == 1 else _win_probabilities(mean[live], std[live])
        return p


def _win_probabilities(mean: Array, std: Array) -> Array:
    """Probability that each of several independent normals is the highest."""
    # A width of nothing becomes one that is too small to see, so that equal means still share.
    std = np.maximum(std, 1e-12 * (1.0 + np.abs(mean).max()))
    t, weight = _quadrature(mean, std)
    z = (t - mean[:, None]) / std[:, None]
    below = ndtr(z) + 1e-300
    density = np.exp(-0.5 * z * z) / below
    p = density @ (weight * below.prod(axis=0)) / std
    share: Array = p / p.sum()
    return share


def _quadrature(mean: Array, std: Array) -> tuple[Array, Array]:
    """Nodes and weights where the highest of the normals can be; the fewer of two ways to lay panels.

    Even panels, as wide as the narrowest model asks for; or panels at every model's own scale.
    """
    low, high = (mean - _REACH * std).max(), (mean + _REACH * std).max()
    width = _STEP * std.min()
    panels = (high - low) / width
    if panels < min(len(mean) * len(_PANELS), _MOST - 1):
        n = (int(panels) + 1) * len(_NODES)
        return low + width * _EVEN_NODES[:n], width * _EVEN_WEIGHTS[:n]
    edges = np.sort((mean[:, None] + std[:, None] * _PANELS).ravel())
    edges = edges[edges >= low]
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half + half * _NODES).ravel(), (half * _WEIGHTS).ravel()


def score(policy: Policy, utility: Array, std: Array, z: Array) -> Array:
    """Return a score whose highest is drawn as the policy draws, for standard normal `z` of shape (K,).

    Exact for the index policies (Thompson sampling, LinUCB, greedy); others are taken as greedy.
    """
    if isinstance(policy, ThompsonSampling):
        return utility + policy.width * std * z
    if isinstance(policy, LinUCB):
        return utility + policy.alpha * std
    return utility


def with_floor(p: Array, floor: float) -> Array:
    """Mix `floor` of uniform probability into `p`: each of K models keeps at least ``floor / K``.

    Parameters
    ----------
    p : ndarray of shape (K,)
    floor : float
        In [0, 1].
    """
    mixed: Array = (1.0 - floor) * p + floor / len(p)
    return mixed


def with_shares(p: Array, shares: Array) -> Array:
    """Mix each model's own share into `p`: the k-th keeps at least ``shares[k]``.

    Parameters
    ----------
    p, shares : ndarray of shape (K,)
        The shares sum to at most 1.

    Examples
    --------
    >>> with_shares(np.array([1.0, 0.0]), np.array([0.1, 0.05])).round(3)
    array([0.95, 0.05])
    """
    mixed: Array = (1.0 - shares.sum()) * p + shares
    return mixed


def draw(p: Array, u: float) -> int:
    """Return the model that a uniform number `u` in [0, 1) falls on."""
    total = list(accumulate(p.tolist()))
    # The first whose total is more than u: never one of probability zero.
    return bisect_right(total, u * total[-1])


POLICIES: dict[str, type[Policy]] = {
    "linucb": LinUCB,
    "thompson": ThompsonSampling,
    "igw": InverseGapWeighting,
    "egreedy": EpsilonGreedy,
    "greedy": Greedy,
    "uniform": Uniform,
}


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split ``name:key=value,key=value``.

    Raises
    ------
    SettingsError
        Malformed.

    Examples
    --------
    >>> parse_spec("linucb:alpha=0.5")
    ('linucb', {'alpha': '0.5'})
    """
    name, _, rest = spec.strip().partition(":")
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or key.strip() in options:
            raise SettingsError(f"{spec!r}: expected name:key=value,key=value, each key once")
        options[key.strip()] = value.strip()
    return name, options


def policy_from_spec(spec: str) -> Policy:
    """Return the policy that a SPEC names, such as ``linucb:alpha=0.5`` or ``thompson``.

    Raises
    ------
    SettingsError
        No such policy, no such option, or a value out of range.
    """
    name, options = parse_spec(spec)
    if name not in POLICIES:
        raise SettingsError(f"{spec!r}: no policy {name!r}; there are {', '.join(POLICIES)}")
    known = [f.name for f in fields(cast(Any, POLICIES[name]))]  # every policy here is a dataclass
    unknown = [key for key in options if key not in known]
    if unknown:
        there = ", ".join(known) or "none"
        raise SettingsError(f"{spec!r}: {name} has no option {unknown[0]!r}; its options: {there}")
    try:
        return POLICIES[name](**{key: float(value) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{spec!r}: {error}") from error
