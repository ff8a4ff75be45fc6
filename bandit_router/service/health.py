"""``/healthz`` and ``/readyz``: is this worker alive, can it serve, and what does it wait for."""

# No late annotations here: FastAPI must see dependencies that are arguments of the enclosing function.

import asyncio
import time
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from bandit_router.errors import BanditRouterError
from bandit_router.learner import Health
from bandit_router.log.engine import schema_version
from bandit_router.log.tables import HEAD
from bandit_router.service.auth import is_local
from bandit_router.service.desk import Desk
from feedback.api import Caller

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


class ReadyAnswer(BaseModel):
    """Whether requests can be served; the rest is told to those who may know."""

    status: str
    log: PartAnswer | None = None
    store: PartAnswer | None = None
    routers: dict[str, LearningAnswer] | None = None


class Checkup:
    """Looks whether a worker can serve, never longer than a second and at most once a second.

    ``unavailable``: the log does not answer, so that nothing can be made durable. ``degraded``: requests are
    served, while the store is away or learning waits. Else ``ok``.

    Parameters
    ----------
    desk : Desk
    clock : callable
        Returns seconds, monotonic.
    """

    def __init__(self, desk: Desk, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._desk, self._clock = desk, clock
        self._looking: asyncio.Task[str | None] | None = None
        self._last: ReadyAnswer | None = None
        self._at = 0.0

    async def ready(self) -> ReadyAnswer:
        """Return how the worker is."""
        if self._last is None or self._clock() - self._at > FRESH_S:
            log = await self._log()
            self._last, self._at = _judged(log, _healths(self._desk)), self._clock()
        return self._last

    async def _log(self) -> str | None:
        """What is wrong with the log; one that does not answer is asked once, by however many probes."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(_log_trouble(self._desk))
        done, _ = await asyncio.wait({self._looking}, timeout=CHECK_S)
        if not done:
            return f"log: it does not answer within {CHECK_S:g} s"
        return self._looking.result()


async def _log_trouble(desk: Desk) -> str | None:
    try:
        found = await desk.read(lambda c: schema_version(c.engine))
    except BanditRouterError as error:
        return str(error)
    return None if found == HEAD else f"log: its schema is {found}, this program needs {HEAD}"


def _healths(desk: Desk) -> dict[str, Health]:
    return {name: router.health() for name, router in desk.routers.items()}


def _judged(log: str | None, healths: dict[str, Health]) -> ReadyAnswer:
    store = next((health.store for health in healths.values() if health.store), None)
    routers = {name: _learning(health) for name, health in healths.items()}
    well = store is None and all(learning.ok for learning in routers.values())
    return ReadyAnswer(
        status="unavailable" if log else "ok" if well else "degraded",
        log=PartAnswer(ok=log is None, trouble=log),
        store=PartAnswer(ok=store is None, trouble=store),
        routers=routers,
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
        known = await _may_know(desk, request, away=ready.status == "unavailable")
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
