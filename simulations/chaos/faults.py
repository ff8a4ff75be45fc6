"""What each kind of fault does, and how it is undone."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush

import psycopg
import redis

from simulations.chaos import proxy
from simulations.chaos.clients import Operator
from simulations.chaos.proxy import Link
from simulations.chaos.schedule import Fault, Round
from simulations.chaos.servers import NotStartedError, PostgresServer, RedisServer, Server
from simulations.chaos.workers import Worker

TICK_S = 0.05
COMMAND_S = 30.0  # how long `bandit-router rebuild` may take
FULL = "2mb"  # memory that a Redis has at most while it is full; what it holds already is more or nearly
Undo = Callable[[], None]


@dataclass(slots=True, kw_only=True)
class World:
    """All that can be harmed.

    Attributes
    ----------
    links : dict of str to Link
        By name: ``worker 1 - redis``.
    """

    redis: RedisServer
    postgres: PostgresServer
    links: Mapping[str, Link]
    workers: Mapping[str, Worker]
    operator: Operator
    wishes: queue.Queue[Callable[[], None]] = field(default_factory=queue.Queue)  # of the operator
    commands: list[subprocess.Popen[bytes]] = field(default_factory=list)
    counted: int = 0

    def count(self) -> int:
        """Return a new number, for names."""
        self.counted += 1
        return self.counted

    def server(self, target: str) -> Server:
        """Return a server or worker by its name."""
        servers: dict[str, Server] = {"redis": self.redis, "postgres": self.postgres, **self.workers}
        return servers[target]

    def heal(self) -> None:
        """Undo whatever may still be wrong."""
        for link in self.links.values():
            link.turn(proxy.CLEAR)
        for server in (self.redis, self.postgres):
            server.resume()
            server.start()
        for worker in self.workers.values():
            worker.resume()
            worker.want(True)
        with self.redis.client() as client:
            client.config_set("maxmemory", 0)
        _alter(self.postgres, "RESET default_transaction_read_only")
        for command in self.commands:
            with suppress(subprocess.TimeoutExpired):
                command.wait(COMMAND_S)
            command.kill()
            command.wait()
        self.commands.clear()


def inflict(world: World, round_: Round, began: float, over: threading.Event) -> list[str]:
    """Let a round's faults happen at their moments, and keep workers running, until it is over.

    Returns
    -------
    list of str
        What could not be done, for instance because a server did not start again in time.
    """
    troubles: list[str] = []
    coming: list[tuple[float, int, Callable[[], Undo | None]]] = []
    for number, fault in enumerate(round_.faults):
        heappush(coming, (fault.at_s, number, _begin(world, fault, coming)))
    while not over.is_set():
        while coming and coming[0][0] <= time.monotonic() - began:
            _, _, act = heappop(coming)
            try:
                act()
            except (NotStartedError, psycopg.Error, redis.RedisError, OSError) as error:
                troubles.append(f"{type(error).__name__}: {error}")
        for worker in world.workers.values():
            worker.keep()
        over.wait(TICK_S)
    return troubles


def _begin(
    world: World, fault: Fault, coming: list[tuple[float, int, Callable[[], Undo | None]]]
) -> Callable[[], None]:
    def act() -> None:
        undo = DEEDS[fault.kind.part, fault.kind.name](world, fault)
        if undo is not None:
            heappush(coming, (fault.at_s + fault.seconds, id(undo), undo))

    return act


Deed = Callable[[World, Fault], Undo | None]


def _kill(world: World, fault: Fault) -> Undo:
    server = world.server(fault.target)
    server.kill()
    return server.start


def _kill_serving(world: World, fault: Fault) -> None:
    world.workers[fault.target].kill_serving()


def _kill_all(world: World, fault: Fault) -> Undo:
    worker = world.workers[fault.target]
    worker.want(False)
    worker.kill()
    return lambda: worker.want(True)


def _end(world: World, fault: Fault) -> Undo:
    worker = world.workers[fault.target]
    worker.want(False)
    worker.end()
    return lambda: worker.want(True)


def _pause(world: World, fault: Fault) -> Undo:
    server = world.server(fault.target)
    server.pause()
    return server.resume


def _older(world: World, fault: Fault) -> Undo:
    copy = world.redis.copy_data()

    def put_back() -> None:
        world.redis.kill()
        world.redis.put_back(copy)
        world.redis.start()

    return put_back


def _flush(world: World, fault: Fault) -> None:
    with world.redis.client() as client:
        client.flushall()


def _fill(world: World, fault: Fault) -> Undo:
    def limit(memory: str) -> None:
        with world.redis.client() as client:
            client.config_set("maxmemory", memory)

    limit(FULL)
    return lambda: limit("0")


def _restart(world: World, fault: Fault) -> None:
    world.postgres.stop()
    world.postgres.start()


def _read_only(world: World, fault: Fault) -> Undo:
    _alter(world.postgres, "SET default_transaction_read_only = on")
    return lambda: _alter(world.postgres, "RESET default_transaction_read_only")


def _alter(postgres: PostgresServer, change: str) -> None:
    postgres.execute(f"ALTER SYSTEM {change}")
    postgres.execute("SELECT pg_reload_conf()")


def _terminate(world: World, fault: Fault) -> None:
    """Again and again, so that some of them are at work."""
    deadline = time.monotonic() + fault.seconds
    while time.monotonic() < deadline:
        world.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bandit_router'"
        )
        time.sleep(TICK_S)


def _turning(weather: proxy.Weather) -> Deed:
    def turn(world: World, fault: Fault) -> Undo:
        link = world.links[fault.target]
        link.turn(weather)
        return lambda: link.turn(proxy.CLEAR)

    return turn


def _delay_then_cut(world: World, fault: Fault) -> Undo:
    link = world.links[fault.target]
    link.turn(proxy.DELAYED)

    def cut() -> None:
        link.turn(proxy.CUT)  # whatever is on its way is lost
        link.turn(proxy.CLEAR)

    return cut


def _rebuild(world: World, fault: Fault) -> None:
    command = [sys.executable, "-m", "bandit_router", "rebuild", "--log", world.postgres.url]
    world.commands.append(
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )


def _erase(world: World, fault: Fault) -> None:
    number = world.count()
    world.wishes.put(lambda: world.operator.erase(number))


def _add_model(world: World, fault: Fault) -> None:
    name = f"extra-{world.count()}"
    world.wishes.put(lambda: world.operator.put_model(name))


def _retire_model(world: World, fault: Fault) -> None:
    def retire() -> None:
        there = [name for name, kept in world.operator.ledger.models.items() if kept]
        world.operator.retire_model(there[-1] if there else "large")

    world.wishes.put(retire)


DEEDS: Mapping[tuple[str, str], Deed] = {
    ("worker", "kill"): _kill_serving,
    ("worker", "kill all"): _kill_all,
    ("worker", "end"): _end,
    ("worker", "pause"): _pause,
    ("redis", "kill"): _kill,
    ("redis", "older dump"): _older,
    ("redis", "flush"): _flush,
    ("redis", "pause"): _pause,
    ("redis", "memory full"): _fill,
    ("postgres", "kill"): _kill,
    ("postgres", "restart"): _restart,
    ("postgres", "pause"): _pause,
    ("postgres", "read-only"): _read_only,
    ("postgres", "terminate backends"): _terminate,
    **{
        (f"{server} link", name): _turning(weather)
        for server in ("redis", "postgres")
        for name, weather in (
            ("delay", proxy.DELAYED),
            ("slow", proxy.SLOW),
            ("cut", proxy.CUT),
            ("half-open", proxy.HALF_OPEN),
            ("deaf", proxy.DEAF),
        )
    },
    ("redis link", "delay, then cut"): _delay_then_cut,
    ("postgres link", "delay, then cut"): _delay_then_cut,
    ("router", "rebuild"): _rebuild,
    ("router", "erase a user"): _erase,
    ("router", "add a model"): _add_model,
    ("router", "retire a model"): _retire_model,
}
