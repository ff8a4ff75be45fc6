"""A large log made of nothing, and how long it takes to replay it: ``bandit-router bench --replay ROWS``."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import sqlalchemy as sa
from rich.progress import track

from bandit_router.events import Model, new_id
from bandit_router.log import EventLog
from bandit_router.log import tables as t
from bandit_router.log.rows import pack, to_us
from bandit_router.policies import InverseGapWeighting, Uniform
from bandit_router.router import Router
from simulations.offpolicy.batches import choose_many
from simulations.offpolicy.verdicts import judge
from simulations.rounds import read

MODELS, DIM, CHUNK = 10, 64, 5_000
POLICIES = ("thompson", "linucb:alpha=0.25", "igw:gamma=100", "greedy", "uniform")
_BEGAN = 1.7e9  # [s since 1970]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How long a large log took.

    Attributes
    ----------
    decisions : int
    built_s, read_s, judged_s : float
        Until the log was written, until it was read into arrays, until five fixed policies were judged [s].
    rows_per_s : float
        Read.
    peak_mb : float
        The most memory that this process has had.
    """

    decisions: int
    built_s: float
    read_s: float
    judged_s: float
    rows_per_s: float
    peak_mb: float

    def rows(self) -> dict[str, float]:
        """Return the numbers by their names."""
        return asdict(self)


def measure_replay(log: str, decisions: int) -> Replayed:
    """Build that many decisions of a router of its own in a log, by its URL, and replay five fixed policies."""
    name = f"bench-{new_id()}"
    models = [Model(f"model-{k}") for k in range(MODELS)]
    with Router.open(log, name=name, models=models, policy=Uniform()):
        pass
    with EventLog.open(log) as opened:
        _, built = _timed(lambda: _build(log, name, [m.name for m in models], decisions))
        rounds, took = _timed(lambda: read(opened, name, dtype=np.float32))
    _, judged = _timed(lambda: judge(rounds, POLICIES))
    return Replayed(
        decisions=decisions,
        built_s=built,
        read_s=took,
        judged_s=judged,
        rows_per_s=decisions / took,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _timed(call: Callable[[], Answer]) -> tuple[Answer, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def _build(url: str, router: str, models: list[str], decisions: int) -> None:
    """Write rows as the router would, in large transactions."""
    from bandit_router.log.engine import connect

    engine = connect(url).execution_options(writes=True)
    chunks = range(0, decisions, CHUNK)
    rng = np.random.default_rng(0)
    for start in track(chunks, "Writing ...", transient=True):
        rows = list(_rows(rng, router, models, start, min(CHUNK, decisions - start)))
        with engine.begin() as connection:
            connection.execute(sa.insert(t.decisions), [decision for decision, _ in rows])
            connection.execute(sa.insert(t.rewards), [reward for _, reward in rows])
    engine.dispose()


def _rows(
    rng: np.random.Generator, router: str, models: list[str], start: int, n: int
) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    x = np.hstack([np.ones((n, 1)), rng.normal(size=(n, DIM - 1))])
    mean, std = rng.normal(0.6, 0.05, (n, MODELS)), rng.uniform(0.02, 0.04, (n, MODELS))
    p = choose_many(
        InverseGapWeighting(gamma=50.0), mean, std, np.ones(mean.shape, dtype=bool), floor=0.1
    )
    chosen = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=MODELS - 1)
    got = rng.random(n) < mean[np.arange(n), chosen]
    for i, k in enumerate(chosen.tolist()):
        at = _BEGAN + (start + i) * 0.01
        said = zip(models, p[i].tolist(), mean[i].tolist(), std[i].tolist(), strict=True)
        decision = {
            "id": new_id(at),
            "router": router,
            "at_us": to_us(at),
            "model": models[k],
            "probability": float(p[i, k]),
            "reason": "exploit",
            "policy": "igw",
            "features": pack(x[i]),
            "features_version": "bench",
            "candidates": json.dumps([[*one, 0.001, 1.5] for one in said]),
            "input_tokens": 100.0,
        }
        shared = {name: decision[name] for name in ("router", "at_us", "model")}
        yield (
            decision,
            {
                **shared,
                "decision_id": decision["id"],
                "revision": 1,
                "made_us": decision["at_us"],
                "value": float(got[i]),
                "weight": 1.0,
            },
        )
