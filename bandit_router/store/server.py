"""The server that RedisStore asks: one Redis, or a cluster of them; which, is found out when first asked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError
from redis.retry import Retry

from bandit_router.errors import ClosedError, FormatError, SettingsError, StoreUnavailableError
from bandit_router.store.lua import Script

BLOCK_S = 0.5  # how long one call may block on purpose: after it, a closed server is noticed
_OPTIONS = ("timeout", "db", "client_name")  # in a URL, beside those that begin with ssl_
Answer = TypeVar("Answer")
Client = Any  # redis.Redis or RedisCluster; their types say that any command may return a coroutine


class Server:
    """Runs commands and scripts, each within a time limit. Connects when first asked, and after a fork anew.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://``; ``?timeout=`` says how long to wait for an answer [s].

    Raises
    ------
    SettingsError
        A URL that does not name a server.
    """

    def __init__(self, url: str) -> None:
        self._url, self.timeout_s = _understood(url)
        self.address = _without_password(url)
        self._cluster: bool | None = None
        self._closed = False
        self._begin()

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
            The server does not answer, or cannot.
        FormatError
            Something else stands where ours should be.
        ClosedError
        """
        with self._answering():
            return question(self._client(BLOCK_S if blocking else 0.0))

    def close(self) -> None:
        """Disconnect; whoever waits for an answer gets none."""
        self._closed = True
        for client in self._clients.values():
            with suppress(RedisError, OSError):
                client.close()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._clients: dict[float, Client] = {}

    def _client(self, block_s: float) -> Client:
        if self._pid != os.getpid():
            self._begin()  # the parent's connections are left to it
        with self._lock:
            if self._closed:
                raise ClosedError(f"store: {self.address} was closed")
            if block_s not in self._clients:
                self._clients[block_s] = self._connect(self.timeout_s + block_s)
            return self._clients[block_s]

    def _connect(self, timeout_s: float) -> Client:
        limits: dict[str, Any] = {"socket_timeout": timeout_s, "protocol": 2}  # Any: of each its own
        if not self._url.startswith("unix"):
            limits |= {"socket_connect_timeout": timeout_s, "socket_keepalive": True}
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
            raise StoreUnavailableError(f"store: {self.address}: {error}") from error
        except (RedisError, OSError) as error:
            if "WRONGTYPE" in str(error):
                raise FormatError(f"store: {self.address}: not ours: {error}") from error
            raise StoreUnavailableError(f"store: {self.address}: {error}") from error


def _understood(url: str) -> tuple[str, float]:
    """The URL as the driver wants it, and the time limit."""
    base, mark, query = url.partition("?")
    try:
        parts = urlsplit(base)
        options = dict(parse_qsl(query, strict_parsing=bool(mark)))
        timeout_s = float(options.pop("timeout", "1.0"))
        passed_on = f"{base}?{urlencode(options)}"
        known = all(name in _OPTIONS or name.startswith("ssl_") for name in options)
        pool = redis.ConnectionPool.from_url(passed_on)
        pool.make_connection()  # reads the options, does not connect
        path = parts.path if parts.scheme == "unix" else f"/{int(parts.path.strip('/') or '0')}"
    except (ValueError, TypeError, AttributeError):
        known, path = False, ""
    if not known or not path or "#" in url or not 0 < timeout_s < 3600:
        # Without a cause, and without saying what came: a password may be in it.
        raise SettingsError(
            "store: expected redis://host:6379/0, rediss://... or unix:///path?timeout=1.0"
        )
    return passed_on, timeout_s


def _without_password(url: str) -> str:
    base = url.partition("?")[0]
    user, at, _ = urlsplit(base).netloc.rpartition("@")
    return base.replace(f"{user}@", f"{user.partition(':')[0]}:***@", 1) if at else base
