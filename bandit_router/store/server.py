"""The server that RedisStore asks: one Redis, or a cluster of them; which, is found out when first asked.

A server that does not answer is not asked again for a moment: whoever asks hears so at once. One that answers
slowly is asked on, for work in the background has time; `Server.trouble` says that nobody should wait for it.
Connecting has the time limit of a call for each address of the host; looking up its name has the system's own.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError
from redis.retry import Retry

from bandit_router.breaker import Breaker
from bandit_router.errors import ClosedError, FormatError, SettingsError, StoreUnavailableError
from bandit_router.store.lua import Script

BLOCK_S = 0.5  # how long one call may block on purpose: after it, a closed server is noticed
REST_S = 0.2  # how long a server that did not answer is left alone
SLOW = 0.5  # the share of the time limit that an answer may take before it is slow
SLOW_CALLS = 3  # in a row, that make a slow server
_OPTIONS = ("timeout", "db", "client_name")  # in a URL, beside `slow` and those that begin with ssl_
Answer = TypeVar("Answer")
Client = Any  # redis.Redis or RedisCluster; their types say that any command may return a coroutine


class Server:
    """Runs commands and scripts, each within a time limit. Connects when first asked, and after a fork anew.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://``; ``?timeout=`` says how long to wait for an answer [s], and
        ``slow=`` from which share of that on an answer is slow (0.5; 1 for never).
    patient : bool
        Ask on where answers are slow; else nobody asks then, but for one call now and then.

    Raises
    ------
    SettingsError
        A URL that does not name a server.
    """

    def __init__(self, url: str, *, patient: bool = False) -> None:
        self._url, self.timeout_s, slow = _understood(url)
        self.address = _without_password(url)
        self._slow_s, self._patient = slow * self.timeout_s, patient
        self._cluster: bool | None = None
        self._closed = False
        self._begin()

    @property
    def trouble(self) -> str | None:
        """Why nobody should wait for it: it does not answer, or slowly; None where it is well."""
        return self._away.trouble or self._slow.trouble

    def run(self, script: Script, keys: Sequence[str], *args: str | bytes | int) -> list[Any]:
        """Run a script, as one atomic step; a server that does not know it yet is told."""

        def ask(client: Client) -> Any:  # Any: what the script answers
            try:
                return client.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return client.eval(script.source, len(keys), *keys, *args)

        answer: list[Any] = self.ask(ask)
        return answer

    def ask(self, question: Callable[[Client], Answer], *, blocking: bool = False) -> Answer:
        """Return the answer to a question that may take `BLOCK_S` on purpose, if it is a blocking one.

        Raises
        ------
        StoreUnavailableError
            The server does not answer, or cannot; or it did not a moment ago.
        FormatError
            Something else stands where ours should be.
        ClosedError
        """
        self._check()
        begun = time.monotonic()
        with self._answering():
            answer = question(self._client(BLOCK_S if blocking else 0.0))
        self._away.succeeded(took_s=0.0)
        if not blocking:  # how long it blocked on purpose is not known
            self._slow.succeeded(took_s=time.monotonic() - begun)
        return answer

    def skew_s(self, clock: Callable[[], float] = time.time) -> float:
        """Return how far a clock is ahead of the server's [s], to about half the time of an answer.

        Raises
        ------
        StoreUnavailableError
        """
        before = clock()
        told = self.ask(_time_of)
        return (before + clock()) / 2 - told

    def close(self) -> None:
        """Disconnect; whoever waits for an answer gets none."""
        self._closed = True
        for client in list(self._clients.values()):
            with suppress(RedisError, OSError):
                client.close()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._clients: dict[float, Client] = {}
        self._away = Breaker(slow_s=math.inf, failures=1, rest_s=REST_S)
        self._slow = Breaker(slow_s=self._slow_s, failures=SLOW_CALLS, rest_s=REST_S)

    def _check(self) -> None:
        if self._pid != os.getpid():
            self._begin()  # the parent's connections are left to it
        if self._closed:
            raise ClosedError(f"store: {self.address} was closed")
        if not self._away.allows() or not (self._patient or self._slow.allows()):
            raise StoreUnavailableError(f"store: {self.address}: {self.trouble}")

    def _client(self, block_s: float) -> Client:
        with self._lock:
            if self._closed:
                raise ClosedError(f"store: {self.address} was closed")
            if block_s not in self._clients:
                self._clients[block_s] = self._connect(self.timeout_s + block_s)
            return self._clients[block_s]

    def _connect(self, timeout_s: float) -> Client:
        limits: dict[str, Any] = {"socket_timeout": timeout_s, "protocol": 2}  # Any: of each its own
        if not self._url.startswith("unix"):
            limits |= {"socket_connect_timeout": self.timeout_s, "socket_keepalive": True}
        once = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        client = redis.Redis.from_url(self._url, retry=once, **limits)
        if self._cluster is None:
            self._cluster = bool(client.info("cluster").get("cluster_enabled"))
        if not self._cluster:
            return client
        client.close()
        return RedisCluster.from_url(self._url, retry=Retry(NoBackoff(), 1), **limits)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RedisClusterException as error:
            self._clients.clear()  # no node that it knew: begin again from the URL
            raise self._unavailable(error) from error
        except (RedisError, OSError) as error:
            if "WRONGTYPE" in str(error):
                self._away.succeeded(took_s=0.0)
                raise FormatError(f"store: {self.address}: not ours: {error}") from error
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        said = str(error) or type(error).__name__
        self._away.failed(said)
        return StoreUnavailableError(f"store: {self.address}: {said}")


def _time_of(client: Client) -> float:
    seconds, microseconds = client.time()
    return int(seconds) + int(microseconds) / 1e6


def _understood(url: str) -> tuple[str, float, float]:
    """The URL as the driver wants it, the time limit, and the share of it that is slow."""
    base, mark, query = url.partition("?")
    try:
        parts = urlsplit(base)
        options = dict(parse_qsl(query, strict_parsing=bool(mark)))
        timeout_s, slow = (
            float(options.pop(name, str(default)))
            for name, default in (("timeout", 1.0), ("slow", SLOW))
        )
        passed_on = f"{base}?{urlencode(options)}"
        known = all(name in _OPTIONS or name.startswith("ssl_") for name in options)
        pool = redis.ConnectionPool.from_url(passed_on)
        pool.make_connection()  # reads the options, does not connect
        path = parts.path if parts.scheme == "unix" else f"/{int(parts.path.strip('/') or '0')}"
    except (ValueError, TypeError, AttributeError):
        known, path = False, ""
    if not known or not path or "#" in url or not 0 < timeout_s < 3600 or not 0 < slow <= 1:
        # Without a cause, and without saying what came: a password may be in it.
        raise SettingsError(
            "store: expected redis://host:6379/0, rediss://... or unix:///path?timeout=1.0"
        )
    return passed_on, timeout_s, slow


def _without_password(url: str) -> str:
    base = url.partition("?")[0]
    user, at, _ = urlsplit(base).netloc.rpartition("@")
    return base.replace(f"{user}@", f"{user.partition(':')[0]}:***@", 1) if at else base
