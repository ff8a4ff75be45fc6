"""What one decision and one feedback cost: time of the processor, bytes kept, questions asked of the log."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from bandit_router.config import Config
from bandit_router.events import Model, Outcome, new_id
from bandit_router.evidence import Delta, Observation
from bandit_router.log import EventLog
from bandit_router.log.checkpoints import drop_checkpoints
from bandit_router.log.writer import committed
from bandit_router.policies import Uniform
from bandit_router.router import Router
from bandit_router.store.frames import delta_to_bytes

MODELS = [Model(name, output_usd_per_mtok=usd) for name, usd in (("a", 1), ("b", 2), ("c", 4), ("d", 8))]
TOGETHER = 16  # requests under way at a time
IDLE_S = 3.0  # how long an idle worker is watched
_WORDS = "how do I sort a list of numbers that another program has written into a file of its own "
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was measured, on one log and store, with one worker and 16 requests at a time.

    Attributes
    ----------
    rounds, features : int
        Decisions, and the length of their feature vectors.
    decision_cpu_us, feedback_cpu_us, outcome_cpu_us : float
        Time of this process's processor for one [us].
    decisions_per_s, feedbacks_per_s : float
        Committed, by the clock on the wall.
    log_bytes : float
        That a decision adds to the log with its text of 500 characters, outcome and feedback.
    delta_bytes : int
        That one feedback sends to the store, and the store to each other worker.
    questions_per_s : float
        Statements that an idle worker asks of the log.
    fold_s, tail_s : float
        Until a worker is ready, from all rows of the router and from a checkpoint [s].
    rss_mb : float
        The most memory that this process has had.
    """

    rounds: int
    features: int
    decision_cpu_us: float
    feedback_cpu_us: float
    outcome_cpu_us: float
    decisions_per_s: float
    feedbacks_per_s: float
    log_bytes: float
    delta_bytes: int
    questions_per_s: float
    fold_s: float
    tail_s: float
    rss_mb: float

    def rows(self) -> dict[str, float]:
        """Return the numbers by their names."""
        return asdict(self)


def measure_costs(config: Config, rounds: int) -> Costs:
    """Measure, on a router of its own in the log that is given."""
    name = f"bench-{new_id()}"
    with _open(config, name) as router:
        before = _size(router.log)
        ids, wall, deciding = _timed(_decide(router, rounds))
        _, _, reporting = _timed(_report(router, ids))
        _, heard, hearing = _timed(_say(router, ids))
        router.beliefs()
        added = _size(router.log) - before
        questions = _questions(router.log)
        features = len(router.decision(ids[0]).decision.features)
    with EventLog.open(config.log) as log:
        committed(log.write(lambda c: drop_checkpoints(c, name)))
    fold_s, tail_s = _ready(config, name), _ready(config, name)
    return Costs(
        rounds=rounds,
        features=features,
        decision_cpu_us=1e6 * deciding / rounds,
        feedback_cpu_us=1e6 * hearing / rounds,
        outcome_cpu_us=1e6 * reporting / rounds,
        decisions_per_s=rounds / wall,
        feedbacks_per_s=rounds / heard,
        log_bytes=added / rounds,
        delta_bytes=_delta_bytes(features),
        questions_per_s=questions,
        fold_s=fold_s,
        tail_s=tail_s,
        rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _open(config: Config, name: str) -> Router:
    return Router.open(config.log, store=config.store, name=name, models=MODELS, policy=Uniform())


def _timed(doing: Awaitable[Answer]) -> tuple[Answer, float, float]:
    """What a coroutine returns, the time that it took, and that of this process's processor [s]."""

    async def run() -> Answer:
        return await doing

    wall, cpu = time.monotonic(), time.process_time()
    answer = asyncio.run(run())
    return answer, time.monotonic() - wall, time.process_time() - cpu


async def _decide(router: Router, rounds: int) -> list[str]:
    prompts = [f"{i}: {_WORDS * 6}"[:500] for i in range(rounds)]
    made = await _together(prompts, lambda prompt: router.achoose(prompt, user="user:1"))
    return [decision.id for decision in made]


async def _report(router: Router, ids: list[str]) -> None:
    outcome = Outcome(input_tokens=120, output_tokens=300, latency_s=1.5)
    await _together(ids, lambda decision: router.areport(decision, outcome))


async def _say(router: Router, ids: list[str]) -> None:
    await _together(ids, lambda decision: router.afeedback(decision, "rating", 0.5, source=decision))


async def _together(items: Iterable[str], doing: Callable[[str], Awaitable[Answer]]) -> list[Answer]:
    gate = asyncio.Semaphore(TOGETHER)

    async def one(item: str) -> Answer:
        async with gate:
            return await doing(item)

    return await asyncio.gather(*map(one, items))


def _size(log: EventLog) -> int:
    """The bytes that a log takes."""
    if log.engine.dialect.name == "postgresql":
        size = sa.text("SELECT pg_database_size(current_database())")
        return int(log.read(lambda c: c.execute(size).scalar()) or 0)
    with log.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return Path(str(log.engine.url.database)).stat().st_size


def _questions(log: EventLog) -> float:
    """Statements a second that an idle worker asks of its log."""
    asked: list[None] = []
    event.listen(log.engine, "before_cursor_execute", lambda *_: asked.append(None))
    time.sleep(IDLE_S)
    return len(asked) / IDLE_S


def _ready(config: Config, name: str) -> float:
    began = time.monotonic()
    with Router.open(config.log, name=name, create=False) as router:
        took = time.monotonic() - began
        router.beliefs()
    return took


def _delta_bytes(features: int) -> int:
    seen = Observation.of([1.0] * features, 0.5)
    return len(delta_to_bytes(Delta(key=1, model=MODELS[0].name, observation=seen)))
