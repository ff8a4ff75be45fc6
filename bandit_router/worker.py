"""What a router has in one process: connections, threads, and a generator of its own."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bandit_router.decider import Decider
from bandit_router.learner import Learner
from bandit_router.log import EventLog
from bandit_router.store import PosteriorStore, open_store

logger = logging.getLogger(__name__)
_abandoned: list[Worker] = []  # a parent's workers: a child must not even close their files


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a worker is made, so that a forked process can make its own.

    Attributes
    ----------
    identity : sequence of int
        Mixed into the seed, so that no two workers draw alike.
    """

    url: str
    store: str | PosteriorStore
    router: str
    seed: int | None
    identity: Sequence[int] | None
    clock: Callable[[], float]


class Worker:
    """Connections, threads and a generator of one process.

    Parameters
    ----------
    plan : Plan
    log : EventLog
        Open, and with the router in it.
    """

    def __init__(self, plan: Plan, log: EventLog) -> None:
        self.plan, self.log, self.pid = plan, log, os.getpid()
        self.own_store = isinstance(plan.store, str)
        self.store = open_store(plan.store) if isinstance(plan.store, str) else plan.store
        self.learner = Learner(log, self.store, plan.router, clock=plan.clock)
        self.decider = Decider(self.learner, log, rng=_generator(plan), clock=plan.clock)

    def again(self) -> Worker:
        """Return this process's own worker, made after a fork; the parent's is left alone."""
        _abandoned.append(self)
        logger.info("router %s: reopened in a forked process", self.plan.router)
        return Worker(self.plan, EventLog.open(self.plan.url))

    def close(self) -> None:
        """Drain and stop the threads, keep a checkpoint, disconnect."""
        self.learner.close()
        self.log.close()
        if self.own_store:
            self.store.close()


def _generator(plan: Plan) -> np.random.Generator:
    identity = [os.getpid(), threading.get_native_id()] if plan.identity is None else list(plan.identity)
    entropy = np.random.SeedSequence().entropy if plan.seed is None else plan.seed
    assert isinstance(entropy, int)
    return np.random.default_rng([entropy, *identity])
