"""Of a weak and a strong model: the price weight for a share of strong calls, or for a drop in quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bandit_router.errors import SettingsError
from bandit_router.values import Array, check_unit
from simulations.protocols.pairs import threshold_for_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A price weight, and what it comes to by the forecasts.

    Attributes
    ----------
    price_weight : float
        For `Preference.price_weight`.
    share : float
        Part of the requests for which the strong model is then the better one.
    drop : float
        Mean quality that is lost by it against the strong model alone; negative where some is won.
    score : float
        RouteLLM's threshold for that share: on the foretold difference in quality, whatever it costs.
    """

    price_weight: float
    share: float
    drop: float
    score: float


def worth(quality: ArrayLike, cost_usd: ArrayLike, *, cost_unit_usd: float) -> Array:
    """Return the price weight up to which the strong model is chosen for each request, of shape (n,).

    The router takes the model of the highest ``q - w * c / unit``; of two, the strong one while ::

        w < (q_strong - q_weak) * unit / (c_strong - c_weak)

    Where the strong model is foretold to cost no more, it is chosen at any weight if it is better, and
    else counts as never chosen.

    Parameters
    ----------
    quality, cost_usd : array-like of shape (n, 2)
        As foretold, the weak model first; the cost in [USD].
    cost_unit_usd : float
        The dollars that the price weight is per [USD].

    Examples
    --------
    >>> worth([[0.5, 0.9], [0.5, 0.6]], [[0.001, 0.005], [0.001, 0.003]], cost_unit_usd=0.004)
    array([0.4, 0.2])
    """
    better = np.diff(np.asarray(quality, dtype=np.float64), axis=1)[:, 0]
    dearer = np.diff(np.asarray(cost_usd, dtype=np.float64), axis=1)[:, 0]
    free = np.where(better > 0, np.inf, -np.inf)
    found: Array = np.where(dearer > 0, better * cost_unit_usd / np.where(dearer > 0, dearer, 1.0), free)
    return found


def for_share(quality: Array, cost_usd: Array, share: float, *, cost_unit_usd: float) -> Calibration:
    """Return the price weight at which this share of the requests goes to the strong model.

    No price weight gives a larger share than that of the requests for which the strong model is
    foretold to be better; it is 0 then, and the share says what comes of it.

    Parameters
    ----------
    quality, cost_usd, cost_unit_usd
        As `worth`.
    share : float
        In [0, 1].
    """
    limit = worth(quality, cost_usd, cost_unit_usd=cost_unit_usd)
    n = len(limit)
    return _at(quality, limit, round(check_unit("share", share) * n))


def for_drop(quality: Array, cost_usd: Array, drop: float, *, cost_unit_usd: float) -> Calibration:
    """Return the highest price weight at which the mean quality falls by at most `drop`, as foretold.

    It falls from that of the strong model alone; what is worth most is given to it first.

    Parameters
    ----------
    quality, cost_usd, cost_unit_usd
        As `worth`.
    drop : float
        In [0, 1].

    Raises
    ------
    SettingsError
        The strong model is not foretold to be better on average.
    """
    check_unit("quality drop", drop)
    gap = np.diff(quality, axis=1)[:, 0]
    if not gap.mean() > 0:
        raise SettingsError("the strong model is not foretold to be better on average: nothing can drop")
    limit = worth(quality, cost_usd, cost_unit_usd=cost_unit_usd)
    best_first = np.argsort(-limit, kind="stable")
    won = np.concatenate([[0.0], np.cumsum(gap[best_first])]) / len(gap)
    enough = won >= gap.mean() - drop - 1e-12  # sums in another order
    return _at(quality, limit, int(np.argmax(enough)))


def _at(quality: Array, limit: Array, count: int) -> Calibration:
    """The price weight that lets that many requests reach the strong model."""
    falling = -np.sort(-limit)
    finite = np.abs(limit[np.isfinite(limit)])
    edge = 2.0 * max(float(finite.max(initial=0.0)), 1.0)
    ends = np.clip(np.concatenate([[np.inf], falling, [-np.inf]]), -edge, edge)
    weight = max(0.0, float(ends[count] + ends[count + 1]) / 2.0)
    strong = limit > weight
    gap = quality[:, 1] - quality[:, 0]
    share = float(strong.mean())
    return Calibration(
        price_weight=weight,
        share=share,
        drop=float(gap[~strong].sum() / len(gap)),
        score=threshold_for_share(gap, share),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a calibration is for: a share of strong calls, or a drop in quality.

    Raises
    ------
    SettingsError
        Not one of the two.
    """

    share: float | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.drop is None):
            raise SettingsError("expected one of a share of strong calls and a quality drop")

    @property
    def asked(self) -> dict[str, float]:
        """The one that is set, by name."""
        both = {"share": self.share, "quality_drop": self.drop}
        return {name: value for name, value in both.items() if value is not None}

    def of(self, quality: Array, cost_usd: Array, *, cost_unit_usd: float) -> Calibration:
        """Return the calibration, `for_share` or `for_drop`."""
        if self.share is not None:
            return for_share(quality, cost_usd, self.share, cost_unit_usd=cost_unit_usd)
        assert self.drop is not None
        return for_drop(quality, cost_usd, self.drop, cost_unit_usd=cost_unit_usd)
