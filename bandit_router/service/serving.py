"""One worker: uvicorn around the app, which ends without losing a request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection as Link
from types import FrameType
from typing import Any

import uvicorn

from bandit_router.config import Config, Service
from bandit_router.errors import SettingsError
from bandit_router.service.connections import CLOSE, connection_type
from bandit_router.service.logs import log_to_stderr

logger = logging.getLogger(__name__)

LINGER_S = 1.0  # for the last request of connections that stay open, when the worker ends
FLUSH_S = 2.0  # kept back from the drain for writing and closing
BACKLOG = 2048
# Of every answer: stories hold prompts, which no proxy shall keep, and nothing here is a page to be guessed at.
GUARDED = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))


class Server(uvicorn.Server):
    """A uvicorn server that ends at SIGTERM, and lets clients go gently.

    Connections that are open when it ends have a moment for one more request, which is answered with
    ``connection: close``: a client that has just connected, or that sends one request after another, sees
    no error.

    Parameters
    ----------
    config : uvicorn.Config
    ready : callable
        Called once it accepts connections.
    linger_s : float
        That moment [s].
    """

    def __init__(
        self, config: uvicorn.Config, *, ready: Callable[[], None], linger_s: float = LINGER_S
    ) -> None:
        super().__init__(config)
        self._ready, self._linger_s = ready, linger_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again at the end, and count a second SIGINT as an order to hurry.
        if sig == signal.SIGTERM:
            self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("worker ends: %d connections are open", len(self.server_state.connections))
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await self._linger()
        await super().shutdown(sockets)

    async def _linger(self) -> None:
        state = self.server_state
        state.default_headers = [*state.default_headers, CLOSE]
        connections: set[Any] = {*state.connections}  # Any: as in `Connection`
        for connection in connections:
            if connection.cycle is not None:
                connection.cycle.default_headers = state.default_headers
        deadline = time.monotonic() + self._linger_s
        while state.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.02)


def uvicorn_config(app: object, service: Service) -> uvicorn.Config:
    """Return how uvicorn serves the app: quietly, behind no proxy, and within the limits of `service`."""
    linger_s = min(LINGER_S, service.drain_s / 4)
    flush_s = min(FLUSH_S, service.drain_s / 4)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI app; its types are uvicorn's own
        http=connection_type(service.receive_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=list(GUARDED),
        limit_concurrency=service.connections,
        timeout_keep_alive=service.keep_alive_s,
        timeout_graceful_shutdown=max(1, int(service.drain_s - linger_s - flush_s)),
        backlog=BACKLOG,
    )


def listen(service: Service) -> socket.socket:
    """Return a socket that all workers accept from; what waits there outlives each of them.

    Raises
    ------
    SettingsError
        The address is not this machine's, or is taken.
    """
    where = f"{service.host}:{service.port}"
    try:
        found = socket.getaddrinfo(service.host, service.port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        # TCP is said by its name: only there asyncio turns off the wait for more to send.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    except OSError as error:
        raise SettingsError(f"host: cannot listen on {where}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # clients that are gone, or do not read, are given up
            patience_ms = int(1000 * min(service.receive_s, 1e6))
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"port: cannot listen on {where}: {error.strerror or error}") from error
    return listener


def work(config: Config, loopback: bool, listener: socket.socket, ready: Link) -> None:
    """Serve until SIGTERM: what a worker process does.

    Parameters
    ----------
    config : Config
    loopback : bool
        Whether only this machine can reach the listener.
    listener : socket
        Shared by all workers.
    ready : Connection
        Closed at the parent's other end, where this process ends; told once when this worker serves.
    """
    from bandit_router.service.app import create_app  # after the supervisor has said where metrics go

    log_to_stderr(config.service.log_format)
    threading.Thread(target=_follow_parent, args=(config.service.drain_s,), daemon=True).start()
    app = create_app(config, loopback=loopback)
    service = config.service
    server = Server(
        uvicorn_config(app, service),
        ready=lambda: ready.send_bytes(b"ready"),
        linger_s=min(LINGER_S, service.drain_s / 4),
    )
    server.run(sockets=[listener])
    logger.info("worker ended")


def _follow_parent(drain_s: float) -> None:
    """End with the supervisor, however that died: nobody else would."""
    parent = parent_process()
    if parent is None:
        return
    parent.join()
    logger.warning("the supervisor has died: worker ends")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_s)
    os._exit(1)
