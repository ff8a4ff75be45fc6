"""Who calls: keys and feedback tokens, looked at before anything else is read of a request."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends, Security
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bandit_router.answers import RefusedError, answer_to
from bandit_router.errors import BanditRouterError
from bandit_router.log.keys import SCOPES, find_key
from bandit_router.service.desk import Desk, Sight
from bandit_router.service.limits import Limiter
from feedback.api import Caller
from feedback.tokens import PREFIX as TOKEN_PREFIX
from feedback.tokens import TokenError, read_token

PUBLIC = ("/healthz", "/readyz")  # they tell nothing to those without a key
EVERYTHING = Caller(scopes=frozenset(SCOPES))
_bearer = HTTPBearer(auto_error=False, description="A key (br_...) or a feedback token (brt1....).")


class Guard:
    """Lets nobody in without a key or token; says who it is in ``request.state.caller``.

    Parameters
    ----------
    app : ASGI app
    desk : Desk
        Knows the keys and secrets.
    limiter : Limiter
        Counts the calls that do not count themselves, for they know whose they are.
    """

    def __init__(self, app: ASGIApp, desk: Desk, limiter: Limiter) -> None:
        self._app, self._desk, self._limiter = app, desk, limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._caller(HTTPConnection(scope))
            if caller is not None and not _counts_itself(scope):
                await self._limiter.check(caller, "other calls")
        except BanditRouterError as error:
            await answer_to(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    async def _caller(self, request: HTTPConnection) -> Caller | None:
        public = request.scope["path"] in PUBLIC
        if public and "authorization" not in request.headers:
            return None
        try:
            return await identify(self._desk, request)
        except BanditRouterError:
            if public:
                return None
            raise


def _counts_itself(scope: Scope) -> bool:
    path = scope["path"]
    decides = (scope["method"], path) == ("POST", "/v1/decisions")
    return decides or path in PUBLIC or path.startswith("/v1/feedback")


async def identify(desk: Desk, request: HTTPConnection) -> Caller:
    """Return who calls.

    Raises
    ------
    RefusedError
        No key where one is needed, or one that opens nothing.
    """
    given = request.headers.get("authorization")
    sight = await desk.sight()
    try:
        return _caller_of(sight, given, free=desk.loopback and is_local(request), now=desk.clock())
    except RefusedError:
        if given is None:
            raise
        sight = await desk.look_again()  # the key may have been made just now
        return _caller_of(sight, given, free=desk.loopback and is_local(request), now=desk.clock())


def _caller_of(sight: Sight, given: str | None, *, free: bool, now: float) -> Caller:
    if given is None:
        if free and not sight.keys:
            return EVERYTHING
        raise RefusedError("missing_key", "expected a header Authorization: Bearer <key>")
    scheme, _, credential = given.partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise RefusedError("invalid_key", "expected a header Authorization: Bearer <key>")
    if credential.startswith(f"{TOKEN_PREFIX}."):
        return _holder_of(sight, credential, now)
    return _owner_of(sight, credential, now)


def _holder_of(sight: Sight, credential: str, now: float) -> Caller:
    try:
        return Caller(token=read_token(credential, sight.secrets, now=now))
    except TokenError as error:
        raise RefusedError("invalid_key", str(error)) from error


def _owner_of(sight: Sight, credential: str, now: float) -> Caller:
    key = find_key(sight.keys, credential)
    if key is None:
        raise RefusedError("invalid_key", "no such key")
    if not key.valid(now):
        raise RefusedError("expired", "the key has expired or was revoked")
    return Caller(scopes=key.scopes, key_id=key.id, influence=key.influence)


def is_local(request: HTTPConnection) -> bool:
    """Whether a request was made on this machine, for this machine, by no proxy and no page of elsewhere."""
    if "forwarded" in request.headers or "x-forwarded-for" in request.headers:
        return False
    client = request.client
    return (client is None or _is_loopback(client.host)) and _is_loopback(request.url.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def who(request: Request, _: Annotated[object, Security(_bearer)]) -> Caller:
    """A dependency: who calls, as the guard found out."""
    caller: Caller = request.state.caller
    return caller


def needs(*scopes: str) -> Dependency:
    """Return a dependency that refuses whoever has none of these scopes."""

    async def allowed(caller: Annotated[Caller, Depends(who)]) -> None:
        if not caller.may(*scopes):
            raise RefusedError("not_allowed", f"expected a key with scope {' or '.join(scopes)}")

    return Dependency(allowed)
