"""The service in this process: on a file with beliefs in memory, and on PostgreSQL with Redis."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from bandit_router import EventLog, Model
from bandit_router.config import Config, Service
from bandit_router.log.keys import add_key, new_key
from bandit_router.log.writer import committed
from bandit_router.service.app import create_app

SMALL = Model("small", input_usd_per_mtok=0.15, output_usd_per_mtok=0.60, context_tokens=128_000)
LARGE = Model("large", input_usd_per_mtok=2.50, output_usd_per_mtok=10.0, context_tokens=128_000)
Key = Callable[..., dict[str, str]]


class Client:
    """A service that runs in a thread, and is asked without sockets."""

    def __init__(self, app: FastAPI, *, host: str = "127.0.0.1", peer: str = "127.0.0.1") -> None:
        self.app, self.loop = app, asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._life = app.router.lifespan_context(app)
        self.wait(self._life.__aenter__())
        transport = httpx.ASGITransport(app, client=(peer, 50_000))
        self.http = httpx.AsyncClient(transport=transport, base_url=f"http://{host}:8080")

    def wait(self, doing: Any) -> Any:
        """What a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(60)

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Ask the service."""
        answer: httpx.Response = self.wait(self.http.request(method, url, **options))
        return answer

    get, post = partialmethod(request, "GET"), partialmethod(request, "POST")
    put, delete = partialmethod(request, "PUT"), partialmethod(request, "DELETE")

    def close(self) -> None:
        """End the service gently."""
        self.wait(self._life.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(params=["embedded", "servers"])
def config(request: pytest.FixtureRequest) -> Config:
    """A log and a store, each kind that there is."""
    find, service = request.getfixturevalue, Service(body_bytes=100_000, cors=("https://chat.example",))
    places = {"log": find("sqlite_url")}
    if request.param == "servers":
        places = {"log": find("postgres_url"), "store": find("redis_url")}
    return Config(**places, models=(SMALL, LARGE), service=service)


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    """Start services; whatever runs is ended with the test."""
    started: list[Client] = []

    def start(config: Config, *, loopback: bool = True, **options: str) -> Client:
        client = Client(create_app(config, loopback=loopback), **options)
        started.append(client)
        return client

    yield start
    for client in started:
        client.close()


@pytest.fixture
def client(serve: Callable[..., Client], config: Config) -> Client:
    """A service on loopback without keys: its caller may all."""
    return serve(config)


@pytest.fixture
def add(config: Config) -> Key:
    """Make keys, and return the header that shows one."""

    def add_(*scopes: str, expires: float | None = None) -> dict[str, str]:
        key, now = new_key(), time.time()
        with EventLog.open(config.log) as log:
            committed(
                log.write(
                    lambda c: add_key(c, key, name="test", scopes=scopes, now=now, expires=expires)
                )
            )
        return {"Authorization": f"Bearer {key}"}

    return add_


@pytest.fixture
def decide(client: Client) -> Callable[..., dict[str, Any]]:
    """Ask the service for a decision."""

    def decide_(**body: Any) -> dict[str, Any]:
        answer = client.post("/v1/decisions", json={"prompt": "Explain quantum computing"} | body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return decide_
