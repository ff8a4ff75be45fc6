"""Desk: what one worker of the service keeps open, and what it must know of the log within a second."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from bandit_router.config import Config
from bandit_router.errors import BanditRouterError, ClosedError, LogUnavailableError, UnknownRouterError
from bandit_router.events import id_time
from bandit_router.log import EventLog, finding
from bandit_router.log.keys import Key, ensure_secret, read_keys, read_secrets
from bandit_router.log.patience import Patience
from bandit_router.log.registration import router_names
from bandit_router.log.writer import acommitted
from bandit_router.router import Router
from bandit_router.store import PosteriorStore, open_store

logger = logging.getLogger(__name__)
FRESH_S = 1.0  # how old what is known of keys, secrets and routers may be
DOUBT_S = 0.1  # how long lies between two looks for what was not known
PATIENCE_S = 2.0  # how long a request waits for it to be looked up, at most
SKEW_S = 5.0  # how far apart the clocks of workers may be
REMEMBERED = 50_000  # decisions of which a worker remembers the router


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a worker knows of the log: who may call, what signs tokens, which routers there are.

    Attributes
    ----------
    keys : tuple of Key
        Revoked and expired ones too.
    secrets : tuple of bytes
        The newest first, which signs.
    routers : tuple of str
    at : float
        When it was looked up [s since 1970].
    """

    keys: tuple[Key, ...]
    secrets: tuple[bytes, ...] = field(repr=False)
    routers: tuple[str, ...]
    at: float


class Desk:
    """The routers of one log, opened when they are first asked for.

    Parameters
    ----------
    config : Config
        Which log, store and router; models and settings are the router's if the log has none of its name.
    loopback : bool
        Only this machine can reach the service, so that it needs no key while the log has none.
    open_router : callable
        As `Router.open`.
    clock : callable
        Returns seconds since 1970.
    """

    def __init__(
        self,
        config: Config,
        *,
        loopback: bool = False,
        open_router: Callable[..., Router] = Router.open,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.loopback, self.clock = config, loopback, clock
        self._open = open_router
        self._log: EventLog | None = None
        self._store: PosteriorStore | None = None
        self._routers: dict[str, Router] = {}
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._opening = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._seen: Sight | None = None
        self._tried, self._trouble, self._began = -math.inf, "", -math.inf

    def __repr__(self) -> str:
        return f"<Desk of {self._log!r}>"

    async def open(self) -> None:
        """Connect, bring an embedded log's schema up to date, and open the configured router.

        Raises
        ------
        SettingsError, LogUnavailableError, LogVersionError, StoreUnavailableError
        """
        try:
            patience = Patience(timeout_s=self.config.log_timeout_s)
            self._log = await asyncio.to_thread(EventLog.open, self.config.log, patience=patience)
            self._store = await asyncio.to_thread(open_store, self.config.store)
            await acommitted(self._log.write(lambda c: ensure_secret(c, self.clock())))
            await self._open_router(self.config.router, **self._arguments())
            await self.sight()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Drain and close all routers, then the store and the log."""
        async with self._opening:
            routers, self._routers = list(self._routers.values()), {}
            log, store, self._log, self._store = self._log, self._store, None, None
        closed = await asyncio.gather(*(router.aclose() for router in routers), return_exceptions=True)
        for error in closed:
            if error is not None:
                logger.error("a router did not close: %s", error)
        for opened in (store, log):
            if opened is not None:
                await asyncio.to_thread(opened.close)

    @property
    def routers(self) -> Mapping[str, Router]:
        """The routers that are open in this worker."""
        return dict(self._routers)

    @property
    def log(self) -> EventLog:
        """The log that all routers share.

        Raises
        ------
        ClosedError
            It was not opened yet, or was closed.
        """
        if self._log is None:
            raise ClosedError("the service is not open")
        return self._log

    @property
    def store(self) -> PosteriorStore | None:
        """Where all routers share their beliefs; None while nothing is open."""
        return self._store

    async def read(self, query: Callable[[Connection], Any]) -> Any:  # Any: what the query returns
        """Return what a query of the log finds, without blocking the event loop, and in the time of a request.

        Raises
        ------
        LogUnavailableError
            The log does not answer, or not in time.
        """
        return await self.log.aask(query)

    # -- what is known of the log -----------------------------------------------------------------

    @property
    def sight_s(self) -> float:
        """How long a request waits for it to be looked up: a part of the time that it has for the log [s]."""
        return min(PATIENCE_S, self.config.log_timeout_s / 4)

    @property
    def seen(self) -> Sight | None:
        """What was last known of the log, however old."""
        return self._seen

    async def sight(self) -> Sight:
        """Return what is known of the log, looked up again if that is too old.

        While the log is away the last sight stays, and is not waited for.

        Raises
        ------
        LogUnavailableError
            The log is away, and was never seen.
        """
        if self._trouble and self._seen is not None:
            self._begin_to_look(self.clock() - FRESH_S)
            return self._seen
        return await self._seen_since(self.clock() - FRESH_S)

    async def look_again(self) -> Sight:
        """As `sight`, for what is not known but may have been made just now; ten times a second at most."""
        asked = self.clock()
        await asyncio.sleep(min(max(self._tried + DOUBT_S - asked, 0.0), DOUBT_S))
        return await self._seen_since(asked)

    async def _seen_since(self, moment: float) -> Sight:
        for _ in range(2):  # a look that is under way may have begun too early
            looking = self._begin_to_look(moment)
            limit = 2 * PATIENCE_S if self._seen is None else self.sight_s
            patience = limit - (time.monotonic() - self._began)
            if looking is not None and patience > 0:
                await asyncio.wait({looking}, timeout=patience)
        if self._seen is None:
            raise LogUnavailableError(self._trouble or f"log: no answer within {self.sight_s:g} s")
        return self._seen

    def _begin_to_look(self, moment: float) -> asyncio.Task[None] | None:
        """Look, if nobody does, and if what is known is of before a moment; return what is to be waited for."""
        if self._seen is not None and moment <= self._tried <= self.clock():
            return None
        if self._looking is None or self._looking.done():
            self._looking, self._began = asyncio.create_task(self._look()), time.monotonic()
        return self._looking

    async def _look(self) -> None:
        now = self.clock()
        try:
            self._seen, self._trouble = await self.read(lambda c: _look(c, now)), ""
        except BanditRouterError as error:
            self._trouble = str(error)
            logger.warning("keys and routers could not be looked up: %s", error)
        self._tried = now

    # -- routers ----------------------------------------------------------------------------------

    async def router(self, name: str | None = None) -> Router:
        """Return a router by its name; by default the configured one.

        Raises
        ------
        UnknownRouterError
            The log has none of that name.
        """
        wanted = self.config.router if name is None else name
        if wanted not in self._routers:
            if wanted not in await self.names(wanted):
                raise UnknownRouterError(f"no router {wanted!r}")
            await self._open_router(wanted, create=False)
        return self._routers[wanted]

    async def names(self, wanted: str | None = None) -> tuple[str, ...]:
        """Return the names of the log's routers; they are looked up again where `wanted` is not among them."""
        sight = await self.sight()
        if wanted is not None and wanted not in sight.routers:
            sight = await self.look_again()
        return sight.routers

    async def make_router(self, name: str, settings: Mapping[str, Any]) -> Router:
        """Return a router of that name, made with these settings if the log has none."""
        await self._open_router(name, **settings)
        await self._seen_since(self.clock())
        return self._routers[name]

    async def _open_router(self, name: str, **arguments: Any) -> None:  # Any: of `Router.open`
        async with self._opening:
            log, store = self.log, self._store
            if name not in self._routers and store is not None:
                self._routers[name] = await asyncio.to_thread(
                    lambda: self._open(
                        log.url,
                        store=store,
                        name=name,
                        user_key=self.config.user_key,
                        **self.config.patience(),
                        **arguments,
                    )
                )

    def _arguments(self) -> dict[str, Any]:  # Any: of `Router.open`
        return {"models": self.config.models, **self.config.settings}

    # -- where feedback finds its router ----------------------------------------------------------

    async def of_decisions(self, decision_ids: Collection[str]) -> Mapping[str, Router]:
        """Return the router of each decision; those that nobody has are the configured one's to judge."""
        names = {decision: self._homes.get(decision) for decision in decision_ids}
        unknown = [decision for decision, name in names.items() if name is None]
        if unknown and not await self._alone(unknown):
            found = await self.read(lambda c: finding.routers_of(c, unknown))
            for decision, name in found.items():
                self.remember(decision, name)
            names |= found
        return {decision: await self.router(name) for decision, name in names.items()}

    async def of_conversation(self, conversation: str) -> Router:
        """Return the router that had the latest turn of a conversation."""
        names = await self.names()
        if len(names) == 1:
            return await self.router()
        find = finding.router_of_conversation
        return await self.router(await self.read(lambda c: find(c, conversation, names)))

    async def of_feedback(self, feedback_id: str) -> Router:
        """Return the router that took a word in."""
        if await self._alone([feedback_id]):
            return await self.router()
        return await self.router(await self.read(lambda c: finding.router_of_feedback(c, feedback_id)))

    def remember(self, decision_id: str, router: str) -> None:
        """Keep in mind whose a decision is, so that its feedback need not ask the log."""
        self._homes[decision_id] = router
        while len(self._homes) > REMEMBERED:
            self._homes.popitem(last=False)

    async def _alone(self, ids: Collection[str]) -> bool:
        """Whether there was only one router when the youngest of these ids was made."""
        sight = await self.sight()
        youngest = max((id_time(identifier) or 0.0 for identifier in ids), default=0.0)
        return len(sight.routers) == 1 and youngest < sight.at - SKEW_S


def _look(connection: Connection, now: float) -> Sight:
    return Sight(
        keys=read_keys(connection),
        secrets=read_secrets(connection, now),
        routers=tuple(router_names(connection)),
        at=now,
    )
