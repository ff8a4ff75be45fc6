"""Watch: looks now and then whether the loop still learns, and whether a model has changed.

It does so beside the requests and never on one.

Of several workers of one `serve`, one looks at the log for all: it holds a lock that ends with its process,
and leaves what it found in a file that the others read.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TextIO

from bandit_router.errors import BanditRouterError
from bandit_router.learner import Health
from bandit_router.log.registration import read_registration, router_names
from bandit_router.service.desk import Desk
from feedback.health import Alarm, alarms_of, examine
from feedback.standing import Standing, alarms_of_standing, partitions_left, schema_said
from feedback.thresholds import Thresholds
from feedback.vitals import Vitals

logger = logging.getLogger(__name__)
FIRST_S = 5.0  # after the start
LOOK_S = 60.0  # between two looks
REMEMBERED = 60  # looks over which words are counted
_LOCK, _FOUND = "alarms.lock", "alarms.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found, for all workers of a machine.

    Attributes
    ----------
    at : float
        When [s since 1970].
    alarms : tuple of Alarm
        Of all routers' loops.
    rewards : mapping of str to int
        The number of each router's latest reward row.
    schema : str, optional
        What is unusual about the log's schema.
    partitions_s : float, optional
        For how long from then on partitions are there [s].
    vitals : mapping of str to Vitals
        Of each router; only the worker that looked has them.
    """

    at: float = 0.0
    alarms: tuple[Alarm, ...] = ()
    rewards: Mapping[str, int] = field(default_factory=dict)
    schema: str | None = None
    partitions_s: float | None = None
    vitals: Mapping[str, Vitals] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Motion:
    """When a router's beliefs last moved, and up to which reward row they had learnt then."""

    observations: float
    reward: int
    at: float


class Watch:
    """Knows which alarms there are.

    Parameters
    ----------
    desk : Desk
    thresholds : Thresholds
    folder : Path, optional
        Shared by all workers of one `serve`; None: this one looks for itself.
    words : callable
        Returns how many words this worker has heard, and how many of them were about no decision.
    first_s, every_s : float
        When it looks [s].
    """

    def __init__(
        self,
        desk: Desk,
        *,
        thresholds: Thresholds,
        folder: Path | None = None,
        words: Callable[[], tuple[int, int]] = lambda: (0, 0),
        first_s: float = FIRST_S,
        every_s: float = LOOK_S,
    ) -> None:
        self._desk, self._thresholds, self._folder = desk, thresholds, folder
        self._first_s, self._every_s = first_s, every_s
        self._words, self._counted = words, deque([words()], maxlen=REMEMBERED)
        self._motions: dict[str, _Motion] = {}
        self._noticed: dict[str, int] = {}  # up to which reward row changes were looked for
        self._store_since: float | None = None
        self._look, self._leads = Look(), None if folder is None else _Lead(folder / _LOCK)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bandit-router alarms", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End; a look that is under way ends first."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._leads is not None:
            self._leads.close()

    @property
    def look(self) -> Look:
        """What the last look found."""
        return self._look

    def alarms(self) -> tuple[Alarm, ...]:
        """Return all alarms: of the last look, and of how this worker stands now. It asks nobody."""
        standings = self.standings()
        own = (alarm for s in standings for alarm in alarms_of_standing(s, self._thresholds))
        return (*self._look.alarms, *own)

    def standings(self) -> tuple[Standing, ...]:
        """Return how this worker stands: what is shared first, then each router."""
        routers, look = self._desk.routers, self._look
        healths = {name: router.health() for name, router in routers.items()}
        return (
            self._shared(healths, look),
            *(self._own(name, health, look) for name, health in healths.items()),
        )

    def _shared(self, healths: Mapping[str, Health], look: Look) -> Standing:
        store = next((health.store for health in healths.values() if health.store), None)
        self._store_since = (self._store_since or time.monotonic()) if store else None
        logs = [router.log for router in self._desk.routers.values()]
        away = [log.trouble for log in logs] + [health.log for health in healths.values()]
        waiting = [log.journal.waiting for log in logs]
        return Standing(
            log=next(filter(None, away), None),
            journaled=sum(decisions for decisions, _ in waiting),
            journal_bytes=sum(size for _, size in waiting),
            journal_limit=min((log.patience.journal_bytes for log in logs), default=0),
            store=store,
            store_away_s=0.0 if self._store_since is None else time.monotonic() - self._store_since,
            words=self._counted[-1][0] - self._counted[0][0],
            unknown=self._counted[-1][1] - self._counted[0][1],
            skew_s=_skews(healths),
            schema=look.schema,
            partitions_s=look.partitions_s,
        )

    def _own(self, name: str, health: Health, look: Look) -> Standing:
        motion = self._motions.get(name)
        return Standing(
            router=name,
            behind_s=health.behind_s,
            learning=health.learning,
            skipped=health.skipped,
            unlearnt=0 if motion is None else look.rewards.get(name, 0) - motion.reward,
            still_s=0.0 if motion is None else time.monotonic() - motion.at,
        )

    # -- what the thread does ---------------------------------------------------------------------

    def _run(self) -> None:
        pause, rng = self._first_s, random.Random()
        while not self._ending.wait(pause):
            # Workers that were started together should not look together.
            pause = self._every_s * rng.uniform(0.9, 1.0)
            try:
                self.again()
            except BanditRouterError as error:
                logger.info("alarms wait: %s", error)  # what is away has an alarm of its own
            except Exception:  # the thread must outlive whatever it meets
                logger.warning("alarms wait", exc_info=True)

    def again(self) -> None:
        """Look, or read what another worker has found.

        Raises
        ------
        LogUnavailableError
        """
        if self._leads is None or self._leads.holds():
            self._look = look_at(self._desk, self._thresholds)
            self._tell(self._look)
        else:
            self._look = self._heard() or self._look
        self._counted.append(self._words())
        for name, router in self._desk.routers.items():
            self._move(name, router.health().observations, self._look.rewards.get(name, 0))
        if self._leads is None or self._leads.holds():
            self._notice()

    def _notice(self) -> None:
        """Look for models that have changed, where there are rewards that were not looked at."""
        for name, router in self._desk.routers.items():
            reward = self._look.rewards.get(name, 0)
            if router.settings.drift_detection and reward > self._noticed.get(name, 0):
                for drift in router.find_drift():
                    logger.info("router %s: %s has changed: %s", name, drift.model, drift.why)
                self._noticed[name] = reward

    def _move(self, name: str, observations: float, reward: int) -> None:
        motion = self._motions.get(name)
        if motion is None or motion.observations != observations or reward <= motion.reward:
            self._motions[name] = _Motion(observations=observations, reward=reward, at=time.monotonic())

    def _tell(self, look: Look) -> None:
        if self._folder is None:
            return
        body = asdict(replace(look, vitals={}))
        beside = self._folder / f"{_FOUND}.{os.getpid()}"
        beside.write_text(json.dumps(body), "utf-8")
        beside.replace(self._folder / _FOUND)

    def _heard(self) -> Look | None:
        assert self._folder is not None
        try:
            body = json.loads((self._folder / _FOUND).read_text("utf-8"))
        except FileNotFoundError:
            return None
        alarms = tuple(Alarm(**alarm) for alarm in body.pop("alarms"))
        return Look(alarms=alarms, **body)


class _Lead:
    """A lock on a file, which one process holds until it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def holds(self) -> bool:
        """Whether this process is the one."""
        import fcntl  # only POSIX has it, as `serve` needs

        if self._file is not None:
            return True
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def close(self) -> None:
        """Leave it to others."""
        if self._file is not None:
            self._file.close()


def look_at(desk: Desk, thresholds: Thresholds) -> Look:
    """Look at the log, and at clocks.

    Raises
    ------
    LogUnavailableError
    """
    log, now = desk.log, desk.clock()
    alarms: list[Alarm] = []
    rewards, vitals = {}, {}
    for name in log.read(router_names):
        registration = log.read(partial(read_registration, router=name))
        if registration is None:
            continue
        vitals[name], recent = examine(log.read, registration, thresholds, now=now)
        alarms += alarms_of(vitals[name], thresholds)
        rewards[name] = recent.last_reward
    return Look(
        at=now,
        alarms=tuple(alarms),
        rewards=rewards,
        schema=schema_said(log.engine),
        partitions_s=log.read(lambda c: partitions_left(c, now)),
        vitals=vitals,
    )


def _skews(healths: Mapping[str, Health]) -> dict[str, float]:
    """How far this machine's clock is ahead of each server's, by the routers' last measures [s]."""
    found = {}
    for health in healths.values():
        for server, skew_s in (("PostgreSQL", health.log_skew_s), ("Redis", health.store_skew_s)):
            if skew_s is not None:
                found[server] = skew_s
    return found
