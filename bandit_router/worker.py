"""What a router has in one process: connections, threads, and a generator of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from bandit_router.decider import Decider
from bandit_router.learner import Learner
from bandit_router.log import EventLog
from bandit_router.log.patience import Patience
from bandit_router.pseudonyms import Pseudonyms
from bandit_router.store import PosteriorStore, open_store
from bandit_router.view import Extractors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a worker is made, so that a forked process can make its own.

    Attributes
    ----------
    identity : tuple of int, optional
        Mixed into the seed, so that no two workers draw alike; by default the process's id.
    pseudonyms : Pseudonyms, optional
        What users are kept as.
    extractors : Extractors
        Features that this process was given, or has made.
    """

    url: str = field(repr=False)  # a password may be in a URL
    store: str | PosteriorStore = field(repr=False)
    router: str
    clock: Callable[[], float]
    seed: int | None = None
    identity: tuple[int, ...] = field(default_factory=lambda: (os.getpid(),))
    patience: Patience = field(default_factory=Patience)
    pseudonyms: Pseudonyms | None = None
    extractors: Extractors = field(default_factory=Extractors, repr=False)

    def generator(self) -> np.random.Generator:
        """Return the generator that draws this worker's models."""
        seed = np.random.SeedSequence().entropy if self.seed is None else self.seed
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=self.identity))


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
        rng = plan.generator()
        self.own_store = isinstance(plan.store, str)
        self.store = open_store(plan.store) if isinstance(plan.store, str) else plan.store
        self.learner = Learner(
            log, self.store, plan.router, extractors=plan.extractors, clock=plan.clock
        )
        self.decider = Decider(self.learner, rng=rng, clock=plan.clock)
        log.adopt()

    def again(self) -> Worker:
        """Return this process's own worker, made after a fork; the parent's is left alone."""
        logger.info("router %s: reopened in a forked process", self.plan.router)
        identity, extractors = (*self.plan.identity, os.getpid()), self.plan.extractors.again()
        plan = replace(self.plan, identity=identity, extractors=extractors)
        log = EventLog.open(plan.url, patience=plan.patience)
        try:
            return Worker(plan, log)
        except BaseException:
            log.close()
            raise

    def close(self) -> None:
        """Drain and stop the threads, keep a checkpoint, disconnect."""
        with ExitStack() as rest:  # from below; what fails holds up none of it
            rest.callback(self.log.close)
            rest.callback(self.plan.extractors.close)
            rest.callback(self.learner.join)
            if self.own_store:
                rest.callback(self.store.close)
            self.learner.close()
