"""One pass over the judgements that are due: claim, pay, ask, record, settle."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx
from sqlalchemy import Connection

from bandit_router.errors import ConflictError, LogUnavailableError, UnknownDecisionError
from bandit_router.log import judging
from bandit_router.log.deciding import Story
from bandit_router.log.judging import Claim, Ending, JudgementState, Queue
from bandit_router.log.writer import acommitted
from bandit_router.router import Router
from bandit_router.values import clean_text
from feedback.grading import Attempt, ask, body_of, dearest_usd
from feedback.judge_settings import JudgeSettings

T = TypeVar("T")
Reference = Callable[[Story], str | None]
Messages = Sequence[Mapping[str, str]]

LEASE_S = 120.0  # how long a claim holds beyond the time limit of its call
BACKOFF_LIMIT_S = 600.0
PAUSE_S = 30.0  # when the API or the budget lets nothing through
SHORTEST_S = 0.1  # of a pause that an API asks for
BUSY_TRIES, BUSY_S = 500, 0.02  # how often, and after what pause, a worker asks to reserve money


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What grading needs.

    Attributes
    ----------
    reference : callable
        Given the story of a decision, returns an answer known to be good, or None.
    clock : callable
        Returns seconds since 1970.
    rng : random.Random
        Spreads retries.
    """

    router: Router
    settings: JudgeSettings
    queue: Queue
    reference: Reference
    clock: Callable[[], float]
    rng: random.Random


class Shift:
    """Works on what is due until nothing is, or nothing gets through.

    Parameters
    ----------
    bench : Bench
    client : AsyncClient
    leaving : Event
        When it is set, nothing more is claimed.

    Attributes
    ----------
    counts : Counter
        Judgements by how their claim ended: a state, or "put_back".
    pause_s : float
        Nothing gets through for so long [s].
    """

    def __init__(self, bench: Bench, client: httpx.AsyncClient, leaving: asyncio.Event) -> None:
        self.counts: Counter[str] = Counter()
        self.pause_s = 0.0
        self._bench, self._client, self._leaving = bench, client, leaving

    async def work(self) -> None:
        """Take one judgement after another; run as many of these as there may be calls at once.

        Raises
        ------
        LogUnavailableError
            What is claimed then is tried again when its claim has ended.
        """
        while not (self.pause_s or self._leaving.is_set()):
            claimed = await self._claim()
            if claimed is None:
                return
            try:
                await self._judge(claimed)
            except UnknownDecisionError:  # its user was forgotten
                await self._drop(claimed)
            except asyncio.CancelledError:  # what its call may have cost stays spent
                self._submit_ending(claimed, Ending(state="waiting", error="interrupted", counts=False))
                raise

    async def _claim(self) -> Claim | None:
        bench, settings = self._bench, self._bench.settings
        return await acommitted(
            bench.router.log.write(
                lambda c: judging.claim(
                    c,
                    bench.queue,
                    now=bench.clock(),
                    lease_s=settings.timeout_s + LEASE_S,
                    attempts=settings.attempts,
                )
            )
        )

    async def _judge(self, claimed: Claim) -> None:
        story = await self._story(claimed)
        told = _told(story, claimed)
        if told is not None:  # by a worker that died before it could say so here
            await self._settle(claimed, Ending(state="graded", grade=told))
        elif story.prompt is None or story.answer is None:
            await self._settle(claimed, Ending(state="failed", error="its text is not kept"))
        else:
            await self._grade(claimed, story, story.answer)

    async def _grade(self, claimed: Claim, story: Story, answer: str) -> None:
        settings = self._bench.settings
        try:
            messages = await asyncio.to_thread(self._messages, story, answer)
        except Exception as error:  # the reference comes from the host's own code
            attempt = Attempt(state="later", error=f"reference: {type(error).__name__}")
            await self._settle(claimed, self._again(claimed, attempt))
            return
        usd, budget = dearest_usd(settings, messages), settings.daily_budget_usd
        if budget is not None and usd > budget:
            dear = f"it may cost {usd:.2g} USD, more than a day's budget"
            await self._settle(claimed, Ending(state="failed", error=dear))
            return
        reserved = await self._reserve(claimed, usd)
        if reserved is None:
            self.pause_s = PAUSE_S
            waits = Ending(state="waiting", error="the day's budget is spent", counts=False)
            await self._settle(claimed, waits)
            return
        await self._ask(reserved, messages)

    def _messages(self, story: Story, answer: str) -> Messages:
        known = self._bench.reference(story)
        reference = None if known is None else clean_text("reference", known)
        mark = secrets.token_hex(8)
        return self._bench.settings.grading.messages(story.prompt, answer, reference, mark=mark)

    async def _reserve(self, claimed: Claim, usd: float) -> Claim | None:
        """Reserve what a call may cost; None where the budget cannot pay it today."""
        bench, budget = self._bench, self._bench.settings.daily_budget_usd
        for _ in range(BUSY_TRIES):
            job = partial(judging.reserve, queue=bench.queue, claimed=claimed, usd=usd)
            answer = await acommitted(
                self._submit(partial(job, budget_usd=budget, now=bench.clock()), of=claimed)
            )
            if answer != "busy":
                return None if answer == "spent" else answer
            await asyncio.sleep(BUSY_S * bench.rng.uniform(0.5, 1.5))
        raise LogUnavailableError("log: other workers reserve money all the time")

    async def _ask(self, claimed: Claim, messages: Messages) -> None:
        bench = self._bench
        body = body_of(bench.settings, messages)
        attempt = await ask(self._client, bench.settings, body, clock=bench.clock)
        await self._settle(claimed, await self._ending(claimed, attempt))

    async def _ending(self, claimed: Claim, attempt: Attempt) -> Ending:
        if attempt.state in ("later", "stuck"):
            return self._again(claimed, attempt)
        if attempt.state == "graded":
            assert attempt.grade is not None
            grade = await self._record(claimed, attempt.grade)
            return Ending(state="graded", grade=grade, cost_usd=attempt.cost_usd)
        state: JudgementState = "malformed" if attempt.state == "malformed" else "failed"
        return Ending(state=state, error=attempt.error, cost_usd=attempt.cost_usd)

    def _again(self, claimed: Claim, attempt: Attempt) -> Ending:
        """When to try again; what is stuck is stuck for all, and no fault of this answer's."""
        bench, cost = self._bench, attempt.cost_usd
        if attempt.state == "stuck":
            self.pause_s = PAUSE_S
            return Ending(
                state="waiting", error=attempt.error, cost_usd=cost, after_s=PAUSE_S, counts=False
            )
        if attempt.after_s is not None:
            self.pause_s = max(attempt.after_s, SHORTEST_S)
        if claimed.attempts >= bench.settings.attempts:
            return Ending(state="failed", error=attempt.error, cost_usd=cost)
        wait = backoff_s(bench.settings.backoff_s, claimed.attempts) * bench.rng.uniform(0.75, 1.25)
        if attempt.after_s is not None:
            wait = attempt.after_s * bench.rng.uniform(1.0, 1.1)
        return Ending(state="waiting", error=attempt.error, cost_usd=cost, after_s=wait)

    async def _record(self, claimed: Claim, grade: float) -> float:
        """Say the grade as ordinary feedback, once; return the one that counts."""
        router, source = self._bench.router, self._bench.settings.source
        await self._story(claimed)  # a decision that was erased meanwhile is not spoken of
        try:
            heard = await router.afeedback(
                claimed.decision_id, "judge", grade, source=source, key=_key(claimed)
            )
        except ConflictError:  # another worker was slow, and said another grade before
            told = _told(await self._story(claimed), claimed)
            assert told is not None
            return told
        if heard.pending:  # it was erased at this very moment
            await asyncio.to_thread(router.retract, heard.id)
            raise UnknownDecisionError(f"no decision {claimed.decision_id!r}")
        return grade

    async def _story(self, claimed: Claim) -> Story:
        return await asyncio.to_thread(self._bench.router.decision, claimed.decision_id)

    async def _settle(self, claimed: Claim, ending: Ending) -> None:
        await acommitted(self._submit_ending(claimed, ending))
        self.counts["put_back" if ending.state == "waiting" else ending.state] += 1

    def _submit_ending(self, claimed: Claim, ending: Ending) -> Future[None]:
        now = self._bench.clock()
        return self._submit(lambda c: judging.settle(c, claimed, ending, now=now), of=claimed)

    async def _drop(self, claimed: Claim) -> None:
        await acommitted(self._submit(lambda c: judging.drop(c, claimed), of=claimed))

    def _submit(self, job: Callable[[Connection], T], *, of: Claim) -> Future[T]:
        return self._bench.router.log.write(job, of=of.id)


def backoff_s(first: float, attempts: int) -> float:
    """Return how long to wait after so many attempts [s]: four times as long after each.

    Examples
    --------
    >>> [backoff_s(2.0, n) for n in (1, 2, 3, 100)]
    [2.0, 8.0, 32.0, 600.0]
    """
    return min(first * 4.0 ** min(attempts - 1, 20), BACKOFF_LIMIT_S)


def _key(claimed: Claim) -> str:
    return f"judgement:{claimed.id}"


def _told(story: Story, claimed: Claim) -> float | None:
    """The grade that was said of a judgement before."""
    for said in story.feedback:
        if said.feedback.key == _key(claimed) and isinstance(said.feedback.value, float | int):
            return float(said.feedback.value)
    return None
