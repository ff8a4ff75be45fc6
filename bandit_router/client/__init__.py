"""A router behind HTTP, for backends that do not embed one: `Client`, and `AsyncClient` alike.

::

    from bandit_router import Outcome
    from bandit_router.client import Client

    with Client("http://127.0.0.1:8080", key="br_...") as client:
        decision = client.choose("Explain quantum computing", user="user:42")
        client.report(decision.id, Outcome(input_tokens=812, output_tokens=240, latency_s=1.9))
        client.feedback(decision.id, "thumb", True)

What fails on the way is tried again: a connection that breaks, an answer that does not come in time, a
service that is away or overrun. Every call counts once, however often it is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar

try:
    import httpx
except ImportError as error:
    raise ImportError("the client needs httpx: pip install 'bandit-router[http]'") from error

from bandit_router.client.answers import Belief, Chosen, Drawn, Heard, Told
from bandit_router.client.calls import Calls, Word
from bandit_router.client.trying import Call, Came, Patience
from bandit_router.errors import ClosedError
from bandit_router.values import check_amount, check_count

__all__ = ["AsyncClient", "Belief", "Chosen", "Client", "Drawn", "Heard", "Told", "Word"]

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
KEPT_S = 4.0  # an idle connection: the service closes its end after five


class Face(Generic[Http]):
    """What both clients are: how they are made, and how patient they are."""

    _http_type: Callable[..., Http]

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        router: str = "default",
        timeout_s: float = 10.0,
        retries: int = 3,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url, self.router = _checked(base_url), router
        self._calls = Calls(router)
        self._patience = Patience(retries=check_count("retries", retries))
        self._http: Http = type(self)._http_type(
            base_url=self.base_url,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=check_amount("timeout_s", timeout_s),
            limits=httpx.Limits(keepalive_expiry=KEPT_S),
            follow_redirects=False,  # the key goes to nobody else
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, router={self.router!r})"

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise ClosedError("the client was closed")

    def _wait_s(self, call: Call[T], came: Came, attempt: int) -> float | None:
        wait_s = self._patience.wait_s(came, attempt)
        if wait_s is not None:
            why = came.status_code if isinstance(came, httpx.Response) else type(came).__name__
            logger.info("%s %s: %s; again in %.2f s", call.method, call.path, why, wait_s)
        return wait_s


def _checked(base_url: str) -> str:
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base_url: expected http://... or https://..., got {base_url!r:.60}")
    return base_url.rstrip("/")


def _at_once(
    say: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[Concatenate[Client, P], T]:
    """A method that makes a call and returns its answer."""

    @wraps(say)
    def made(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client._make(say(client._calls, *args, **kwargs))

    return made


def _awaited(
    say: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """A method that makes a call and returns its answer, to be awaited."""

    @wraps(say)
    async def made(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client._make(say(client._calls, *args, **kwargs))

    return made


class Client(Face[httpx.Client]):
    """A named router of a service. Safe from many threads; a forked child makes its own.

    Parameters
    ----------
    base_url : str
        Of the service, such as ``https://router.example``.
    key : str, optional
        With the scopes that the calls need: ``route``, ``feedback``, ``admin``.
    router : str
        The router's name.
    timeout_s : float
        How long the service may say nothing [s], in each attempt.
    retries : int
        How often a call is tried again.
    transport : httpx transport, optional
        Carries the requests: for certificates and proxies of your own.

    Raises
    ------
    ServiceUnavailableError
        By every call: the service cannot be reached, or does not serve, in spite of all retries.
    AccessError
        The key does not open this.
    UnknownRouterError
        The service has no router of that name.
    FormatError
        What answers is no router.
    """

    _http_type = httpx.Client

    choose = _at_once(Calls.choose)
    report = _at_once(Calls.report)
    feedback = _at_once(Calls.feedback)
    feedback_batch = _at_once(Calls.feedback_batch)
    retract = _at_once(Calls.retract)
    decision = _at_once(Calls.decision)
    forget_user = _at_once(Calls.forget_user)
    beliefs = _at_once(Calls.beliefs)
    put_model = _at_once(Calls.put_model)
    retire_model = _at_once(Calls.retire_model)
    configure = _at_once(Calls.configure)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. A closed client refuses everything else."""
        self._http.close()

    def _make(self, call: Call[T]) -> T:
        self._check_open()
        came, attempt = self._try(call), 0
        while (wait_s := self._wait_s(call, came, attempt)) is not None:
            time.sleep(wait_s)
            came, attempt = self._try(call), attempt + 1
        return call.answer(came)

    def _try(self, call: Call[T]) -> Came:
        try:
            return self._http.request(**call.arguments())
        except httpx.RequestError as error:
            return error


class AsyncClient(Face[httpx.AsyncClient]):
    """As `Client`, for one event loop: its methods are awaited."""

    _http_type = httpx.AsyncClient

    choose = _awaited(Calls.choose)
    report = _awaited(Calls.report)
    feedback = _awaited(Calls.feedback)
    feedback_batch = _awaited(Calls.feedback_batch)
    retract = _awaited(Calls.retract)
    decision = _awaited(Calls.decision)
    forget_user = _awaited(Calls.forget_user)
    beliefs = _awaited(Calls.beliefs)
    put_model = _awaited(Calls.put_model)
    retire_model = _awaited(Calls.retire_model)
    configure = _awaited(Calls.configure)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """As `Client.close`."""
        await self._http.aclose()

    async def _make(self, call: Call[T]) -> T:
        self._check_open()
        came, attempt = await self._try(call), 0
        while (wait_s := self._wait_s(call, came, attempt)) is not None:
            await asyncio.sleep(wait_s)
            came, attempt = await self._try(call), attempt + 1
        return call.answer(came)

    async def _try(self, call: Call[T]) -> Came:
        try:
            return await self._http.request(**call.arguments())
        except httpx.RequestError as error:
            return error
