"""A judge model grades a sampled share of the answers; a grade is ordinary feedback.

Jobs wait in the log, so that they survive restarts and are shared by all workers. Each is claimed for a while,
paid for in advance out of the day's budget, tried, and finished when its grade is durable. A worker that dies
in between leaves a claim that ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx
from sqlalchemy import Connection

from bandit_router.errors import BanditRouterError, ClosedError, SettingsError
from bandit_router.log import judging
from bandit_router.log.judging import JudgeStatus, Queue
from bandit_router.log.writer import acommitted
from bandit_router.router import Router
from feedback.background import Background
from feedback.grading import new_client
from feedback.judge_settings import JudgeSettings, judge_settings_from_json
from feedback.probing import Probed, probe
from feedback.sampling import Cursor, sampled
from feedback.shift import Bench, Reference, Shift

__all__ = [
    *("Judge", "JudgeSettings", "JudgeStatus", "JudgeWork", "find_api_key"),
    "judge_settings_from_json",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

PAGE = 2_000  # outcomes looked at in one reading
PAUSE_S = 30.0  # when the log lets nothing through
GRACE_S = 5.0  # how long calls under way may go on when the judge is stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeWork:
    """What one pass of a judge did.

    Attributes
    ----------
    sampled : int
        Judgements that were made of new answers.
    graded, malformed, failed : int
        Judgements that ended.
    put_back : int
        Judgements that shall be tried again.
    pause_s : float
        Why the pass ended early: nothing gets through for so long [s]; 0 when nothing was due any more.
    """

    sampled: int = 0
    graded: int = 0
    malformed: int = 0
    failed: int = 0
    put_back: int = 0
    pause_s: float = 0.0


class Judge:
    """Grades a sampled share of the answers that one router's log has kept.

    Any number of judges may work on one log, in threads or processes: no answer is graded twice by the same
    model. Only routers that keep texts (``text="full"``) have answers to grade.

    Parameters
    ----------
    router : Router
    settings : JudgeSettings
    reference : callable, optional
        Given the story of a decision, returns an answer known to be good, or None; by default the tag that
        `settings.reference_tag` names.
    environ : mapping of str to str, optional
        Where the key is looked up; by default the process's environment.
    clock : callable
        Returns seconds since 1970.
    rng : random.Random, optional
        Spreads retries.

    Raises
    ------
    SettingsError
        The environment has no such key; or the router's metric "judge" is not a number from 0 to 1.
    """

    def __init__(
        self,
        router: Router,
        settings: JudgeSettings,
        *,
        reference: Reference | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        _check_router(router)
        self.settings = settings
        self._api_key = find_api_key(settings, os.environ if environ is None else environ)
        self._bench = Bench(
            router=router,
            settings=settings,
            queue=Queue(router=router.name, judge=settings.model),
            reference=_tagged(settings.reference_tag) if reference is None else reference,
            clock=clock,
            rng=random.Random() if rng is None else rng,
        )
        self._cursor: Cursor | None = None
        self._background: Background | None = None
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Judge {self.settings.model!r} of {self._bench.router!r}>"

    def status(self) -> JudgeStatus:
        """Return how far the judge is, over all workers."""
        bench = self._bench
        return bench.router.log.read(lambda c: judging.status(c, bench.queue, bench.clock()))

    def run_once(self) -> JudgeWork:
        """Sample what is new and grade what is due, until nothing is, or nothing gets through.

        Raises
        ------
        LogUnavailableError
            The log cannot be read or written.
        """
        return asyncio.run(self.arun_once())

    async def arun_once(self) -> JudgeWork:
        """As `run_once`, without blocking the event loop."""
        async with new_client(self.settings, self._api_key) as client:
            return await self._pass(client, asyncio.Event())

    def probe(self, *, prompts: int = 20) -> Probed:
        """Grade texts that answer nothing, on prompts whose answers were graded last: are they liked as well?

        What the calls cost is not counted as spent.

        Raises
        ------
        SettingsError
            Too few answers were graded yet, the day's budget cannot pay for it, or too few grades come.
        """
        return probe(self._bench, self._api_key, prompts=prompts)

    def start(self) -> None:
        """Go on grading in a thread of its own; nothing happens where it runs already."""
        if self._background is None or not self._background.alive:
            self._background = Background("bandit-router-judge", self._serve)

    def stop(self, *, grace_s: float = GRACE_S) -> None:
        """Claim nothing more, wait a while for calls under way [s], and put the others back."""
        background, self._background = self._background, None
        if background is not None:
            background.stop(grace_s=grace_s)

    # -- passes -----------------------------------------------------------------------------------

    async def _serve(self, leaving: asyncio.Event) -> None:
        async with new_client(self.settings, self._api_key) as client:
            while not leaving.is_set():
                try:
                    work = await self._pass(client, leaving)
                    pause, self._trouble = work.pause_s or self.settings.poll_s, ""
                except ClosedError:
                    return
                except Exception as error:  # the thread must outlive whatever one pass meets
                    self._say(error)
                    pause = PAUSE_S
                await _wait(leaving, pause)

    def _say(self, error: Exception) -> None:
        """Tell of an error once, not at every pass; of unforeseen ones no words, which may quote a text."""
        words = str(error) if isinstance(error, BanditRouterError) else type(error).__name__
        trouble, self._trouble = self._trouble, words
        if trouble != words:
            logger.warning("judge %s: grading waits: %s", self.settings.model, words)

    async def _pass(self, client: httpx.AsyncClient, leaving: asyncio.Event) -> JudgeWork:
        made = await self._sample(leaving)
        shift = Shift(self._bench, client, leaving)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.settings.concurrency):
                    group.create_task(shift.work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        done = JudgeWork(sampled=made, pause_s=shift.pause_s, **shift.counts)
        logger.debug("judge %s: %s", self.settings.model, done)
        return done

    async def _sample(self, leaving: asyncio.Event) -> int:
        """Make judgements of what was answered since the last pass; return how many."""
        bench, now, made, more = self._bench, self._bench.clock(), 0, True
        if self._cursor is None:
            since = now - self.settings.lookback_s
            start = await self._read(lambda c: judging.outcome_before(c, bench.queue.router, since))
            self._cursor = Cursor(start, now)
        after = self._cursor.start(now)
        while more and not leaving.is_set():
            look = partial(judging.unjudged, queue=bench.queue, after=after, limit=PAGE)
            decisions, after, more = await self._read(look)
            made += await self._enqueue(decisions, now)
        if not more:
            self._cursor.reach(after, now)
        return made

    async def _enqueue(self, decisions: list[str], now: float) -> int:
        share, key = self.settings.share, self.settings.sampling_key
        chosen = [decision_id for decision_id in decisions if sampled(decision_id, share, key)]
        if not chosen:
            return 0
        make = partial(judging.enqueue, queue=self._bench.queue, decisions=chosen, probability=share)
        return await acommitted(self._bench.router.log.write(partial(make, now=now)))

    async def _read(self, query: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._bench.router.log.read, query)


def _check_router(router: Router) -> None:
    metric = router.settings.metrics["judge"]
    if (metric.kind, metric.low, metric.high) != ("number", 0.0, 1.0):
        raise SettingsError(f"judge: the metric 'judge' must be a number from 0 to 1, got {metric}")
    if router.settings.text != "full":
        logger.warning("router %s keeps no texts: there is nothing to grade", router.name)


async def _wait(leaving: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(leaving.wait(), seconds)


def _tagged(tag: str | None) -> Reference:
    return lambda story: None if tag is None else story.decision.tags.get(tag)


def find_api_key(settings: JudgeSettings, environ: Mapping[str, str]) -> str | None:
    """Return the key that a judge calls with; None where it needs none.

    Raises
    ------
    SettingsError
        The environment has none, or none that can be sent.
    """
    if settings.api_key_env is None:
        return None
    key = environ.get(settings.api_key_env, "").strip()
    if not key:
        raise SettingsError(f"judge: the environment has no {settings.api_key_env}")
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"judge: {settings.api_key_env}: expected printable ASCII characters")
    return key
