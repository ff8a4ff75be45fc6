"""A run: servers, links, workers and clients, rounds of faults, and what was proved after each."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty
from threading import Thread
from typing import TypeVar

import httpx

from bandit_router.errors import BanditRouterError, StaleGenerationError
from bandit_router.evidence import Evidence
from bandit_router.log import EventLog
from bandit_router.log.engine import connect, upgrade
from bandit_router.log.registration import read_registration
from bandit_router.store import Snapshot, open_store
from simulations.chaos.clients import Caller, Client, Operator
from simulations.chaos.faults import World, inflict
from simulations.chaos.ledger import Ledger, merged
from simulations.chaos.programs import find_postgres, find_redis
from simulations.chaos.proof import Found, Proof, Told, prove, read_tables
from simulations.chaos.proxy import Link, linked
from simulations.chaos.schedule import Round, schedule
from simulations.chaos.servers import HOST, PostgresFiles, PostgresServer, RedisServer, running
from simulations.chaos.workers import Worker

ROUTER = "default"
QUIET_S = 60.0  # within which all must hold, once everything is healed
STILL_S = 15.0  # after which what does not hold and does not change is taken as final
LOOK_S = 0.5  # between two looks
JOIN_S = 40.0  # within which clients end
PROMPT = "What do you think of me by now?"
PROBE = {"chaos": "probe"}  # tags of decisions that no client asked for


@dataclass(slots=True, kw_only=True)
class Result:
    """What a run did, and what was proved.

    Attributes
    ----------
    rounds : list of (Round, list of Proof)
        Those that were played.
    troubles : list of str
        Faults that could not be done, and ends that did not come in time.
    quiet_s : list of float
        How long it took after each round until everything held [s].
    """

    seed: int
    minutes: float
    ledger: Ledger = field(default_factory=Ledger)
    rounds: list[tuple[Round, list[Proof]]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    quiet_s: list[float] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether all that was to be proved was proved."""
        proved = all(proof.holds for _, proofs in self.rounds for proof in proofs)
        return bool(self.rounds) and proved and not self.troubles


def run(
    *,
    seed: int,
    minutes: float,
    workers: int = 2,
    clients: int = 4,
    only: Collection[str] = (),
    logs: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Let clients play against workers while things go wrong; stop at the first round that fails.

    Parameters
    ----------
    only : collection of str
        As of `schedule`.
    logs : Path, optional
        A folder where the workers' own log files are kept.
    say : callable
        Hears what is being done.

    Raises
    ------
    NotObtainedError
        There is no Redis or no PostgreSQL to be started.
    """
    for find in (find_redis, find_postgres):
        find()  # says at once what is missing
    result = Result(seed=seed, minutes=minutes)
    rounds = schedule(seed, minutes, workers=workers, only=only)
    with _stage(seed, workers, clients) as stage:
        try:
            for round_ in rounds:
                say(
                    f"round {len(result.rounds) + 1}: {len(round_.faults)} faults in {round_.seconds:g} s"
                )
                _play(stage, round_, result)
                result.rounds.append((round_, _settle(stage, result)))
                if not result.holds:
                    break
        finally:
            result.ledger = stage.ledger()
            if logs is not None:
                _keep_logs(stage.world, logs)
    return result


@dataclass(slots=True, kw_only=True)
class _Stage:
    world: World
    clients: Sequence[Client]
    over: threading.Event  # set when a round is over: nobody tries anything again

    def ledger(self) -> Ledger:
        """All that clients and operator heard so far."""
        return merged([*(c.ledger for c in self.clients), self.world.operator.ledger])


@contextmanager
def _stage(seed: int, workers: int, clients: int) -> Iterator[_Stage]:
    """Start everything; it ends in the opposite order."""
    with ExitStack() as stack:
        files = PostgresFiles()
        stack.callback(files.remove)
        postgres = stack.enter_context(running(PostgresServer, files))
        store = stack.enter_context(running(RedisServer, "--appendonly", "yes"))
        engine = connect(postgres.url)
        upgrade(engine)
        engine.dispose()
        names = [f"worker {number}" for number in range(1, workers + 1)]
        links = {
            f"{name} - {server}": Link(port, seed=seed)
            for name in names
            for server, port in (("redis", store.port), ("postgres", postgres.port))
        }
        stack.enter_context(linked(*links.values()))
        staff = {name: _worker(name, links) for name in names}
        for worker in staff.values():
            stack.callback(worker.remove)
            worker.keep()
        for worker in staff.values():
            worker.start()
        urls = [worker.url for worker in staff.values()]
        over, decided = threading.Event(), deque[str](maxlen=2_000)
        players = [_client(stack, n, seed, urls, over, decided, Client) for n in range(clients)]
        operator = _client(stack, clients, seed, urls, over, decided, Operator)
        world = World(redis=store, postgres=postgres, links=links, workers=staff, operator=operator)
        yield _Stage(world=world, clients=players, over=over)


def _worker(name: str, links: dict[str, Link]) -> Worker:
    log = f"postgresql+psycopg://postgres@{HOST}:{links[f'{name} - postgres'].port}/postgres"
    return Worker(log, f"redis://{HOST}:{links[f'{name} - redis'].port}/0")


C = TypeVar("C", bound=Client)


def _client(
    stack: ExitStack,
    number: int,
    seed: int,
    urls: Sequence[str],
    over: threading.Event,
    decided: deque[str],
    kind: type[C],
) -> C:
    caller = Caller(urls, random.Random(f"calls {seed} {number}"), Ledger(), over)
    stack.callback(caller.close)
    return kind(number, caller, random.Random(f"client {seed} {number}"), decided)


def _play(stage: _Stage, round_: Round, result: Result) -> None:
    """Let a round pass: clients, the operator, and faults, each in a thread of its own."""
    stage.over.clear()
    began, world = time.monotonic(), stage.world
    acts: dict[str, Callable[[], None]] = {
        "faults": lambda: result.troubles.extend(inflict(world, round_, began, stage.over)),
        "operator": lambda: _operate(world, stage.over),
        **{client.name: partial(client.play, stage.over) for client in stage.clients},
    }
    threads = [Thread(target=_told, args=(name, act, result), daemon=True) for name, act in acts.items()]
    for thread in threads:
        thread.start()
    time.sleep(round_.seconds)
    stage.over.set()
    deadline = time.monotonic() + JOIN_S
    for name, thread in zip(acts, threads, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            result.troubles.append(f"{name}: no end within {JOIN_S:g} s")


def _told(name: str, act: Callable[[], None], result: Result) -> None:
    """Do something; what ends it before its time is a trouble of the run."""
    try:
        act()
    except Exception as error:
        result.troubles.append(f"{name}: {error!r}")


def _operate(world: World, over: threading.Event) -> None:
    while not over.is_set():
        with suppress(Empty):
            world.wishes.get(timeout=0.1)()
    while not world.wishes.empty():
        world.wishes.get()


def _settle(stage: _Stage, result: Result) -> list[Proof]:
    """Heal everything, and prove again and again until all holds, or nothing changes any more."""
    stage.world.heal()
    began = changed_at = time.monotonic()
    ledger, last = stage.ledger(), object()
    while True:
        for worker in stage.world.workers.values():
            worker.keep()
        try:
            proofs = prove(ledger, _look(stage.world))
        except (BanditRouterError, httpx.HTTPError) as error:
            proofs = [Proof(name="answers", what="all can be asked", checked=1, differing=(str(error),))]
        now, wrong = time.monotonic(), [proof.differing for proof in proofs]
        if wrong != last:
            changed_at, last = now, wrong
        good = all(proof.holds for proof in proofs)
        if good or now - changed_at > STILL_S or now - began > QUIET_S:
            result.quiet_s.append(now - began)
            return proofs
        time.sleep(LOOK_S)


def _look(world: World) -> Found:
    """Read what is there now."""
    with EventLog.open(world.postgres.url) as log:
        stored = _stored(world, log)
        tables = log.read(read_tables)
    return Found(
        tables=tables,
        stored=stored,
        told={name: _asked(worker) for name, worker in world.workers.items()},
        journals={name: worker.journal_bytes() for name, worker in world.workers.items()},
    )


def _stored(world: World, log: EventLog) -> Mapping[str, Evidence]:
    """The sums that workers share."""
    registration = log.read(lambda connection: read_registration(connection, ROUTER))
    assert registration is not None
    store = open_store(world.redis.url)
    try:
        held = store.read(registration.book, generation=registration.generation, after=None)
    finally:
        store.close()
    if not isinstance(held, Snapshot) or held.generation != registration.generation:
        raise StaleGenerationError("store: it holds another generation than the log")
    return held.evidence


def _asked(worker: Worker) -> Told:
    with httpx.Client(base_url=worker.url, timeout=10.0, trust_env=False, verify=False) as client:
        believed = client.get(f"/v1/routers/{ROUTER}/beliefs").raise_for_status().json()
        body = {"prompt": PROMPT, "tags": PROBE}
        decision = client.post("/v1/decisions", json=body).raise_for_status().json()
    promises = {c["model"]: (c["mean"], c["std"]) for c in decision["candidates"]}
    return Told(beliefs=believed["beliefs"], promises=promises)


def _keep_logs(world: World, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, server in (*world.workers.items(), ("redis", world.redis), ("postgres", world.postgres)):
        (folder / f"{name}.log").write_text(server.said)
