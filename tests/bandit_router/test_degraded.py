"""While the log is slow or away: decisions go on and come into it once, the rest is refused in time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from bandit_router import (
    ConflictError,
    Decision,
    LogUnavailableError,
    Model,
    Outcome,
    Router,
    UnknownDecisionError,
)
from bandit_router.log import tables as t
from simulations.chaos.proxy import CLEAR, DEAF, Link, Weather, linked
from simulations.chaos.servers import HOST, PostgresServer

Open = Callable[..., Router]
MODELS = [Model("small"), Model("large")]
SLACK_S = 2.0  # for a machine that is busy


class Embedded:
    """A log in a file, which can be taken away as a whole, and its journal elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.gone, self.journal = folder / "log", folder / "gone", folder / "journal"
        self.folder.mkdir()
        self.url = f"sqlite:///{self.folder / 'chat.db'}"

    @contextmanager
    def away(self) -> Iterator[None]:
        self.folder.rename(self.gone)
        yield
        self.gone.rename(self.folder)


@pytest.fixture
def log(tmp_path: Path) -> Embedded:
    return Embedded(tmp_path)


@pytest.fixture
def open_router(log: Embedded) -> Iterator[Open]:
    opened: list[Router] = []

    def open_(url: str = log.url, **arguments: Any) -> Router:
        arguments = {"models": MODELS, "journal": log.journal, "log_timeout_s": 1.0} | arguments
        opened.append(Router.open(url, **arguments))
        return opened[-1]

    yield open_
    for router in opened:
        router.close()


def returned(router: Router) -> None:
    """Wait until all that was kept is in the log."""
    deadline = time.monotonic() + 60
    while router.log.trouble is not None or router.log.journal.waiting[0]:
        assert time.monotonic() < deadline, (router.log.trouble, router.log.journal.waiting)
        time.sleep(0.02)


def recorded(router: Router) -> dict[str, Mapping[str, Any]]:
    """The rows of all decisions in the log; each is there once."""
    rows = router.log.read(lambda c: c.execute(sa.select(t.decisions)).mappings().all())
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def check(router: Router, decisions: list[Decision]) -> None:
    """See that decisions are in the log as they were told, and no others."""
    rows = recorded(router)
    assert rows.keys() == {decision.id for decision in decisions}
    for decision in decisions:
        row = rows[decision.id]
        assert (row["reason"], row["model"]) == (decision.reason, decision.model)
        assert row["probability"] == decision.probability
        assert row["features"] == decision.features.tobytes()
    texts = router.log.read(lambda c: c.execute(sa.select(t.texts.c.decision_id)).scalars().all())
    assert set(texts) == rows.keys()
    folder = Path(str(router.log.patience.journal))
    assert not folder.exists() or not list(folder.iterdir())  # nothing waits, nothing was set aside


# -- an embedded log ----------------------------------------------------------------------------------


def test_under_steady_load_the_log_is_taken_up_again(open_router: Open, log: Embedded) -> None:
    router = open_router()
    made: list[Decision] = []
    ends = threading.Event()

    def chooses() -> None:
        while not ends.is_set():
            made.append(router.choose("x"))

    with log.away():
        while router.log.trouble is None:
            made.append(router.choose("x"))
    threads = [threading.Thread(target=chooses) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while router.log.trouble is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    taken_up = router.log.trouble is None
    ends.set()
    for thread in threads:
        thread.join()
    assert taken_up, "as long as decisions came, none was written"
    returned(router)
    check(router, made)


def test_without_the_log_decisions_go_on_and_come_into_it_once(open_router: Open, log: Embedded) -> None:
    router = open_router()
    made = [router.choose("before")]
    with log.away():
        made += [router.choose(f"question {i}") for i in range(20)]
        made += asyncio.run(several(router, 20))
        assert {decision.reason for decision in made[1:]} == {"degraded"}
        assert all(sum(d.probabilities.values()) == pytest.approx(1) for d in made)
        with pytest.raises(LogUnavailableError, match="away"):
            router.feedback(made[0].id, "thumb", True)
        with pytest.raises(LogUnavailableError, match="away"):
            router.report(made[-1].id, Outcome(output_tokens=1))
        assert router.log.trouble is not None
        assert router.log.journal.waiting[0] == 40
    returned(router)
    assert router.feedback(made[-1].id, "thumb", True).applied  # it is there before anything else
    made.append(router.choose("after"))
    assert made[-1].reason != "degraded"
    check(router, made)
    assert list(log.journal.iterdir()) == []


async def several(router: Router, n: int) -> list[Decision]:
    return list(await asyncio.gather(*(router.achoose(f"more {i}") for i in range(n))))


def test_a_key_is_answered_alike_while_the_log_is_away_and_after(
    open_router: Open, log: Embedded
) -> None:
    router = open_router()
    other = open_router()
    with log.away():
        first = router.choose("x", key="k")
        again = router.choose("x", key="k")
        assert (again.id, again.duplicate, first.duplicate) == (first.id, True, False)
        assert again.probabilities == first.probabilities
        with pytest.raises(ConflictError):
            router.choose("y", key="k")
        second = other.choose("x", key="k")  # another worker cannot know
        assert second.id != first.id
    returned(router)
    returned(other)
    rows = recorded(router)
    assert sorted(str(rows[d.id]["key"]) for d in (first, second)) == ["None", "k"]
    held = next(d for d in (first, second) if rows[d.id]["key"])
    for worker in (router, other):
        kept = worker.choose("x", key="k")
        assert (kept.id, kept.duplicate) == (held.id, True)
    with pytest.raises(ConflictError):
        other.choose("y", key="k")


def test_conversations_hold_as_far_as_they_are_known(open_router: Open, log: Embedded) -> None:
    router, other = open_router(), open_router()
    known, unknown = router.choose("a", conversation="known"), other.choose("a", conversation="other")
    with log.away():
        later = router.choose("b", conversation="known")
        assert (later.model, later.probability, later.reason) == (known.model, 1.0, "degraded")
        assert later.conversation_head == known.id
        fresh = router.choose("b", conversation="other")
        assert (fresh.reason, fresh.conversation_head) == ("degraded", None)
        assert fresh.probability < 1.0
        held = asyncio.run(router.achoose("c", conversation="other"))
        assert (held.model, held.conversation_head) == (fresh.model, fresh.id)
    returned(router)
    check(router, [known, unknown, later, fresh, held])
    assert router.choose("d", conversation="known").conversation_head == known.id


def test_what_was_handed_over_and_not_committed_is_kept(open_router: Open, log: Embedded) -> None:
    router = open_router(durable=False)
    with log.away():
        made = [router.choose(f"question {i}") for i in range(30)]
        assert made[0].reason != "degraded"  # it was told before anybody knew
    returned(router)
    check(router, made)


def test_a_disk_that_is_full(open_router: Open, log: Embedded) -> None:
    router, pages = open_router(), [1_000_000]

    @sa.event.listens_for(router.log.engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages[0]}")

    made = [router.choose("before")]
    pages[0] = router.log.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar()) + 3
    made += [router.choose("question " * 200) for _ in range(40)]
    assert made[-1].reason == "degraded"
    assert "full" in str(router.log.trouble)
    pages[0] = 1_000_000
    returned(router)
    check(router, made)


def test_a_log_that_others_lock_holds_nobody_for_long(open_router: Open, log: Embedded) -> None:
    router = open_router(log_timeout_s=0.3)
    with sqlite_lock(log):
        for _ in range(4):
            began = time.monotonic()
            made = router.choose("x", key="k")
            assert time.monotonic() - began < 0.3 + SLACK_S
            assert made.reason == "degraded"
        with pytest.raises(LogUnavailableError):
            router.feedback(made.id, "thumb", True)
    returned(router)
    check(router, [made])  # also where the write that was given up came nevertheless
    assert router.choose("x", key="k").id == made.id


@contextmanager
def sqlite_lock(log: Embedded) -> Iterator[None]:
    import sqlite3

    connection = sqlite3.connect(log.folder / "chat.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")
    connection.close()


def test_a_full_journal_refuses_and_loses_nothing(open_router: Open, log: Embedded) -> None:
    router = open_router(journal_bytes=20_000)
    made: list[Decision] = []
    with log.away(), pytest.raises(LogUnavailableError, match="20000 are taken"):
        made += iter(lambda: router.choose("x"), None)
    returned(router)
    made_there = recorded(router)
    assert 3 < len(made_there) < 20
    assert {row["reason"] for row in made_there.values()} == {"degraded"}
    assert router.choose("x").reason != "degraded"


def test_a_journal_that_cannot_be_written_refuses(open_router: Open, log: Embedded) -> None:
    log.journal.write_text("in the way")
    router = open_router()
    with log.away(), pytest.raises(LogUnavailableError, match="journal"):
        router.choose("x")
    assert router.log.journal.trouble is not None


CHOOSING = """
import os, signal, sys
from pathlib import Path
from bandit_router import Model, Router
url, journal, folder = sys.argv[1:4]
router = Router.open(url, models=[Model("small"), Model("large")], journal=journal, log_timeout_s=1.0)
print("open", flush=True)
sys.stdin.readline()
for i in range(25):
    print(router.choose(f"question {i}").id, flush=True)
os.kill(os.getpid(), signal.SIGKILL) if sys.argv[4] == "kill" else router.close()
"""


@pytest.mark.parametrize("end", ["kill", "close"])
def test_what_two_dead_processes_have_kept_the_next_one_records(
    open_router: Open, log: Embedded, end: str
) -> None:
    open_router().close()
    command = [sys.executable, "-c", CHOOSING, log.url, str(log.journal), str(log.folder), end]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
    with log.away():
        told = [line for child in children for line in child.communicate("go\n")[0].split()]
    assert len(told) == 50
    router = open_router()
    deadline = time.monotonic() + 30
    while len(recorded(router)) < 50:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert recorded(router).keys() == set(told)
    returned(router)
    assert list(log.journal.iterdir()) == []


def test_the_erased_do_not_come_back(open_router: Open, log: Embedded) -> None:
    router, other = open_router(), open_router()
    with log.away():
        gone, stays = (other.choose("x", user=user) for user in ("ann", "bob"))
        other.log._drain._closing.set()  # as if it were not there when the log is
    router.forget_user("ann")
    other.close()
    again = open_router()
    deadline = time.monotonic() + 30
    while not recorded(again):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    returned(again)
    assert recorded(again).keys() == {stays.id}
    with pytest.raises(UnknownDecisionError):
        again.decision(gone.id)


# -- PostgreSQL ---------------------------------------------------------------------------------------


class Clients:
    """Threads that choose and give feedback, and remember what they were told and how long it took."""

    def __init__(self, router: Router, n: int = 3) -> None:
        self.router = router
        self.made: list[Decision] = []
        self.heard: list[str] = []
        self.refused: Counter[str] = Counter()
        self.slowest = 0.0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(n)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, decisions: int, *, reason: str | None = None) -> None:
        """Wait until so many were made, for a reason or at all."""
        deadline = time.monotonic() + 60
        while sum(reason in (None, decision.reason) for decision in self.made) < decisions:
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        try:
            for i in range(1_000_000):
                if self._stop.wait(0.01):
                    return
                self._ask(f"{number}-{i}")
        except BaseException as error:
            self.errors.append(error)

    def _ask(self, name: str) -> None:
        decision = self._timed("choose", lambda: self.router.choose("x", conversation=name))
        assert isinstance(decision, Decision)
        self.made.append(decision)
        if self._timed("feedback", lambda: self.router.feedback(decision.id, "thumb", True, key="k")):
            self.heard.append(decision.id)
        self._timed("report", lambda: self.router.report(decision.id, Outcome(output_tokens=3)))
        self._timed("decision", lambda: self.router.decision(decision.id))

    def _timed(self, what: str, call: Callable[[], object]) -> object:
        began = time.monotonic()
        try:
            return call()
        except (LogUnavailableError, UnknownDecisionError) as error:
            self.refused[f"{what} {type(error).__name__}"] += 1
            return None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)


def check_feedback(router: Router, clients: Clients) -> None:
    """See that each word that was acknowledged is in the log once, and counts."""
    f = t.feedback.c
    said = router.log.read(lambda c: c.execute(sa.select(f.decision_id)).scalars().all())
    assert len(said) == len(set(said))
    assert set(clients.heard) <= set(said)


def migrated(server: PostgresServer) -> str:
    Router.open(server.url, models=MODELS, migrate=True).close()
    return server.url


def test_a_postgresql_that_dies_and_comes_back(open_router: Open, own_postgres: PostgresServer) -> None:
    router = open_router(migrated(own_postgres), store="memory://")
    with Clients(router) as clients:
        clients.wait_for(15)
        own_postgres.kill()
        time.sleep(1.5)
        clients.wait_for(11, reason="degraded")
        own_postgres.start()
        returned(router)
        time.sleep(0.3)
    assert not clients.errors
    assert clients.refused["choose LogUnavailableError"] == 0
    assert clients.refused["feedback LogUnavailableError"] > 0
    assert sum(decision.reason == "degraded" for decision in clients.made) > 10
    assert clients.slowest < 1.0 + SLACK_S
    returned(router)
    check(router, clients.made)
    check_feedback(router, clients)


@pytest.mark.parametrize("fault", ["stopped", "deaf", "slow"])
def test_a_postgresql_that_does_not_answer_holds_nobody(
    open_router: Open, own_postgres: PostgresServer, fault: str
) -> None:
    link = Link(own_postgres.port, seed=1)
    url = migrated(own_postgres).replace(f":{own_postgres.port}", ":{}")
    with linked(link), Clients(open_router(url.format(link.port))) as clients:
        router = clients.router
        clients.wait_for(15)
        with standing_still(own_postgres) if fault == "stopped" else bad_weather(link, fault):
            time.sleep(1.0 + SLACK_S + 1.0)
            clients.wait_for(11, reason="degraded")
        returned(router)
        time.sleep(0.3)
        assert not clients.errors
        assert clients.refused["choose LogUnavailableError"] == 0
        assert sum(decision.reason == "degraded" for decision in clients.made) > 10
        assert clients.slowest < 1.0 + SLACK_S
        clients.stop()
        returned(router)
        check(router, clients.made)
        check_feedback(router, clients)
        router.close()


@contextmanager
def bad_weather(link: Link, fault: str) -> Iterator[None]:
    link.turn(DEAF if fault == "deaf" else Weather(delay_s=4.0))
    yield
    link.turn(CLEAR)


@contextmanager
def standing_still(server: PostgresServer) -> Iterator[None]:
    main = psutil.Process(server.process.pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    yield
    for process in processes:
        os.kill(process.pid, signal.SIGCONT)


@pytest.fixture
def weak_url(postgres_server: PostgresServer) -> Iterator[tuple[str, Callable[[str], None]]]:
    """A log whose role has no privileges, and a way to change that role and end its connections."""
    name = f"weak{os.getpid()}_{time.time_ns()}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN")
    postgres_server.execute(f"CREATE DATABASE {name} OWNER {name}")

    def change(what: str) -> None:
        postgres_server.execute(f"ALTER ROLE {name} {what}")
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
        postgres_server.execute(ended)

    yield f"postgresql+psycopg://{name}@{HOST}:{postgres_server.port}/{name}", change
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgres_server.execute(f"DROP ROLE {name}")


def test_a_postgresql_that_is_read_only_or_out_of_connections(
    open_router: Open, weak_url: tuple[str, Callable[[str], None]]
) -> None:
    url, change = weak_url
    router, made = open_router(url, migrate=True), []
    for fault, mend, said in (
        ("SET default_transaction_read_only = on", "RESET ALL", "read-only"),
        ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1", "too many connections"),
    ):
        made.append(router.choose("before"))
        change(fault)
        made += [router.choose(f"question {i}") for i in range(10)]
        assert [decision.reason for decision in made[-5:]] == ["degraded"] * 5
        assert said in str(router.log.trouble)
        with pytest.raises(LogUnavailableError):
            router.feedback(made[0].id, "thumb", True)
        change(mend)
        returned(router)
        assert router.feedback(made[-1].id, "thumb", True).applied
    check(router, made)
