"""``/healthz`` and ``/readyz``: is this worker alive, can it serve, and what does it wait for."""

# No late annotations here: FastAPI must see dependencies that are arguments of the enclosing function.

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from bandit_router.errors import BanditRouterError
from bandit_router.learner import Health
from bandit_router.log.engine import schema_fits
from bandit_router.service.auth import is_local
from bandit_router.service.desk import Desk
from feedback.api import Caller
from feedback.health import Alarm

CHECK_S = 1.0  # how long a check may take
FRESH_S = 1.0  # how old the answer to a probe may be
LATE_S = 5.0  # beliefs that have not caught up for so long are said to wait


class AliveAnswer(BaseModel):
    """That the process lives."""

    status: str


class PartAnswer(BaseModel):
    """One thing that the service needs, and what is wrong with it."""

    ok: bool
    trouble: str | None


class LearningAnswer(PartAnswer):
    """How one router's learning is, and since when its beliefs have not caught up with the log [s]."""

    behind_s: float


class JournalAnswer(PartAnswer):
    """Decisions of this worker that wait for a log that is away."""

    decisions: int
    bytes: int


class AlarmAnswer(BaseModel):
    """Something that somebody should look at."""

    code: str
    severity: str
    message: str
    router: str | None


class ReadyAnswer(BaseModel):
    """Whether requests can be served; the rest is told to those who may know."""

    status: str
    log: PartAnswer | None = None
    journal: JournalAnswer | None = None
    store: PartAnswer | None = None
    routers: dict[str, LearningAnswer] | None = None
    alarms: list[AlarmAnswer] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """How the log is; `fatal`: it is there, but another program's."""

    trouble: str | None = None
    fatal: bool = False


class Checkup:
    """Looks whether a worker can serve, never longer than a second and at most once a second.

    ``unavailable``: no decision can be made durable, neither in the log nor in the journal, or the log is of
    another version. ``degraded``: decisions are served, while the log or the store is away or learning waits;
    what else needs the log gets 503. Else ``ok``.

    Parameters
    ----------
    desk : Desk
    alarms : callable
        Returns those that are raised; asks nobody.
    clock : callable
        Returns seconds, monotonic.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        alarms: Callable[[], Collection[Alarm]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk, self._alarms, self._clock = desk, alarms, clock
        self._looking: asyncio.Task[_Log] | None = None
        self._last: ReadyAnswer | None = None
        self._at = 0.0

    async def ready(self) -> ReadyAnswer:
        """Return how the worker is."""
        if self._last is None or self._clock() - self._at > FRESH_S:
            log = await self._log()
            found = _judged(log, _journal(self._desk), _healths(self._desk), self._alarms())
            self._last, self._at = found, self._clock()
        return self._last

    async def _log(self) -> _Log:
        """What is wrong with the log; one that does not answer is asked once, by however many probes."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(_log_trouble(self._desk))
        done, _ = await asyncio.wait({self._looking}, timeout=CHECK_S)
        if not done:
            return _Log(trouble=f"log: it does not answer within {CHECK_S:g} s")
        return self._looking.result()


async def _log_trouble(desk: Desk) -> _Log:
    try:
        trouble = await desk.read(lambda c: schema_fits(c.engine))
    except BanditRouterError as error:
        return _Log(trouble=str(error))
    writing = (router.log.trouble for router in desk.routers.values())
    return _Log(trouble=trouble or next(filter(None, writing), None), fatal=trouble is not None)


def _journal(desk: Desk) -> JournalAnswer:
    journals = [router.log.journal for router in desk.routers.values()]
    trouble = next((journal.trouble for journal in journals if journal.trouble), None)
    waiting = [journal.waiting for journal in journals]
    return JournalAnswer(
        ok=trouble is None,
        trouble=trouble,
        decisions=sum(decisions for decisions, _ in waiting),
        bytes=sum(size for _, size in waiting),
    )


def _healths(desk: Desk) -> dict[str, Health]:
    return {name: router.health() for name, router in desk.routers.items()}


def _judged(
    log: _Log, journal: JournalAnswer, healths: dict[str, Health], alarms: Collection[Alarm]
) -> ReadyAnswer:
    store = next((health.store for health in healths.values() if health.store), None)
    routers = {name: _learning(health) for name, health in healths.items()}
    unavailable = log.fatal or not routers or (log.trouble is not None and not journal.ok)
    well = not (log.trouble or store) and all(learning.ok for learning in routers.values())
    return ReadyAnswer(
        status="unavailable" if unavailable else "ok" if well else "degraded",
        log=PartAnswer(ok=log.trouble is None, trouble=log.trouble),
        journal=journal,
        store=PartAnswer(ok=store is None, trouble=store),
        routers=routers,
        alarms=[AlarmAnswer(**asdict(alarm)) for alarm in alarms],
    )


def _learning(health: Health) -> LearningAnswer:
    trouble = health.learning or health.store or health.log
    if trouble is None and health.behind_s > LATE_S:
        trouble = f"the beliefs have not caught up for {health.behind_s:.0f} s"
    behind_s = round(health.behind_s, 3)
    return LearningAnswer(ok=trouble is None, trouble=trouble, behind_s=behind_s)


def health_routes(desk: Desk, checkup: Checkup) -> APIRouter:
    """Return the routes that probes ask; they need no key, and tell details only to those who have one."""
    api = APIRouter(tags=["health"])

    @api.get("/healthz")
    async def healthz() -> AliveAnswer:
        """Say that the process lives."""
        return AliveAnswer(status="ok")

    @api.get(
        "/readyz",
        response_model_exclude_unset=True,
        responses={503: {"model": ReadyAnswer, "description": "Requests cannot be served."}},
    )
    async def readyz(request: Request, response: Response) -> ReadyAnswer:
        """Say whether requests can be served; with a key, or on loopback without keys, also what is wrong."""
        ready = await checkup.ready()
        response.status_code = 503 if ready.status == "unavailable" else 200
        known = await _may_know(desk, request, away=ready.log is None or not ready.log.ok)
        return ready if known else ReadyAnswer(status=ready.status)

    return api


async def _may_know(desk: Desk, request: Request, *, away: bool) -> bool:
    caller: Caller | None = request.state.caller
    if caller is not None:
        return caller.token is None
    if not (desk.loopback and is_local(request)):
        return False
    sight = desk.seen if away else await desk.sight()
    return sight is not None and not sight.keys
