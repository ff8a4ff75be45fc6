"""Upkeep: what a log needs now and then, whoever does it: partitions ahead, no keys that have served."""

from __future__ import annotations

import logging
import math
import random
import time

from bandit_router.errors import BanditRouterError
from bandit_router.log.deciding import has_old_keys, sweep_keys
from bandit_router.log.engine import translated
from bandit_router.log.eventlog import EventLog
from bandit_router.log.partitions import database_time, ensure
from bandit_router.log.writer import committed

logger = logging.getLogger(__name__)
EVERY_S = 600.0  # between two looks of one worker, at the least


class Upkeep:
    """Looks after a log for one worker; any number of workers may.

    It goes by the database's clock, lest one worker whose own is off lets go of what others need.

    Parameters
    ----------
    log : EventLog
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._next = -math.inf
        self._rng = random.Random()  # the host's own draws stay as its seed says

    def look(self) -> None:
        """Do what is to be done, if it is time to look; what stands in the way is told, and waits."""
        if time.monotonic() < self._next:
            return
        # Workers that were started together shall not always meet.
        self._next = time.monotonic() + EVERY_S * self._rng.uniform(1.0, 1.5)
        try:
            with translated("creating partitions"):
                ensure(self._log.engine)
            self._sweep()
        except BanditRouterError as error:
            logger.warning("%s", error)

    def _sweep(self) -> None:
        now = self._log.read(database_time)
        if self._log.read(lambda connection: has_old_keys(connection, now)):
            committed(self._log.write(lambda connection: sweep_keys(connection, now)))
