"""The log as arrays: what was decided, with which probabilities, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_router.errors import SettingsError
from bandit_router.features.vectors import STOPGAP
from bandit_router.log import EventLog
from bandit_router.log.deciding import read_rounds
from bandit_router.log.registration import read_registration, router_names
from bandit_router.log.rows import Row, candidates_of, from_us, unpack
from bandit_router.policies import Policy, with_floor
from bandit_router.values import Array

DRAWN = ("exploit", "explore")  # reasons of decisions that a policy drew


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounds:
    """n decisions of one router over K models.

    Attributes
    ----------
    models : tuple of str
        Every model that was ever eligible.
    x : ndarray of shape (n, dim)
        Features; rows of another version are left out (`left_out`).
    at : ndarray of shape (n,)
        When they were decided [s since 1970].
    chosen : ndarray of int, shape (n,)
        Which model was drawn.
    probabilities, mean, std, cost_usd : ndarray of shape (n, K)
        As logged; 0 and NaN where a model was not eligible.
    reward, weight : ndarray of shape (n,)
        NaN and 0 where nothing was heard.
    drawn : ndarray of bool, shape (n,)
        Whether a policy drew it and the drawn model served: only these say what another policy would get.
    """

    models: tuple[str, ...]
    x: Array
    at: Array
    chosen: NDArray[np.int64]
    probabilities: Array
    mean: Array
    std: Array
    cost_usd: Array
    reward: Array
    weight: Array
    drawn: NDArray[np.bool_]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def under(self, policy: Policy, *, floor: float = 0.0) -> Array:
        """Return the probabilities that a policy would have given, of shape (n, K), from what was believed.

        It judges by the promised rewards alone, whatever cost and latency were worth then.

        Parameters
        ----------
        policy : Policy
        floor : float
            Share of exploration over the eligible models.
        """
        p = np.zeros_like(self.probabilities)
        for i, eligible in enumerate(self.probabilities > 0):
            drawn = policy.probabilities(self.mean[i, eligible], self.std[i, eligible])
            p[i, eligible] = with_floor(drawn, floor)
        return p


def read(
    log: EventLog, router: str = "default", *, since: float | None = None, until: float | None = None
) -> Rounds:
    """Read a router's decisions of a period as arrays.

    Parameters
    ----------
    log : EventLog
    router : str
    since, until : float, optional
        The period [s since 1970].

    Raises
    ------
    SettingsError
        The log has no such router.
    ValueError
        It decided nothing in that period.
    """
    with log.reading() as connection:
        if read_registration(connection, router) is None:
            names = ", ".join(router_names(connection)) or "none at all"
            raise SettingsError(f"the log has no router {router!r}; it has {names}")
        rows = [
            row for rows in read_rounds(connection, router, since=since, until=until) for row in rows
        ]
    if not rows:
        raise ValueError(f"router {router!r} decided nothing in that period")
    versions = [row["features_version"] for row in rows]
    version = next((v for v in reversed(versions) if not v.endswith(STOPGAP)), versions[-1])
    kept = [row for row in rows if row["features_version"] == version]
    return _arrays(kept, len(rows) - len(kept))


def _arrays(rows: list[Row], left_out: int) -> Rounds:
    candidates = [candidates_of(row["candidates"]) for row in rows]
    models = tuple(
        sorted({c.model for some in candidates for c in some} | {row["model"] for row in rows})
    )
    place = {model: k for k, model in enumerate(models)}
    grid = np.full((4, len(rows), len(models)), np.nan)
    grid[0] = 0.0
    for i, some in enumerate(candidates):
        for c in some:
            cost = np.nan if c.cost_usd is None else c.cost_usd
            grid[:, i, place[c.model]] = (c.probability, c.mean, c.std, cost)
    heard = [row["reward"] for row in rows]
    return Rounds(
        models=models,
        x=np.stack([unpack(row["features"]) for row in rows]),
        at=np.array([from_us(row["at_us"]) for row in rows]),
        chosen=np.array([place[row["model"]] for row in rows], dtype=np.int64),
        probabilities=grid[0],
        mean=grid[1],
        std=grid[2],
        cost_usd=grid[3],
        reward=np.array([np.nan if r is None else r for r in heard]),
        weight=np.array([row["reward_weight"] or 0.0 for row in rows]),
        drawn=np.array([_was_drawn(row) for row in rows]),
        left_out=left_out,
    )


def _was_drawn(row: Row) -> bool:
    return row["reason"] in DRAWN and row["served"] in (None, row["model"])
