"""The service beside a do-nothing one: throughput, latency, time of the processor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bandit_router.errors import PeerError
from simulations.benches.featuring import CHARACTERS, text_of
from simulations.benches.load import Body, Load, post
from simulations.benches.rows import Bar, Effort, Row

CONNECTIONS = 64
BATCH, BATCHES_TOGETHER = 1_000, 4
STARTS_S, ENDS_S = 60.0, 20.0
FLOOR = Path(__file__).with_name("floor.py")
SHARED = "the load generator shares the cores"
_MODELS = "".join(
    f'[[models]]\nname = "{name}"\noutput_usd_per_mtok = {usd}\n'
    for name, usd in (("a", 1.0), ("b", 2.0), ("c", 4.0), ("d", 8.0))
)


@dataclass(slots=True, kw_only=True)
class Server:
    """A server that runs, and what its rounds came to."""

    process: subprocess.Popen[bytes]
    port: int
    rounds: dict[str, list[Load]] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """Time of the processor, of all its processes until now [s]."""
        return sum(_cpu_s(pid) for pid in _family(self.process.pid))

    def post(self, path: str, bodies: Sequence[Body], *, connections: int = CONNECTIONS) -> Load:
        """Post all bodies, and keep what came of it."""
        load = post(self.port, path, bodies, connections=connections)
        self.rounds.setdefault(path, []).append(load)
        return load

    def median(self, path: str, what: str) -> float:
        """The median over rounds of one of the numbers of `Load`."""
        found: float = median(getattr(load, what) for load in self.rounds[path])
        return found


def http(effort: Effort) -> Iterator[Row]:
    """Decisions and feedback of one worker on SQLite, answered after the commit; two workers' time."""
    with tempfile.TemporaryDirectory() as folder, _floor() as floor:
        with _service(Path(folder), 1) as one:
            for _ in range(effort.rounds):
                _round(effort, one, floor)
            cpu = {1: _cpu_us(effort, one)}
            batch = _batches(effort, one)
            yield from _compared(one, floor)
        with _service(Path(folder), 2) as two:
            cpu[2] = _cpu_us(effort, two)
    yield Row(
        bench="http",
        what="CPU of a decision, two workers",
        unit="us",
        ours=cpu[2],
        against="one worker",
        theirs=cpu[1],
        bar=Bar(limit=1.15),
        note=SHARED,
    )
    yield Row(
        bench="http",
        what=f"feedback by batches of {_batch(effort):,}, SQLite",
        unit="/s",
        ours=batch,
        bar=Bar(limit=20_000, at_least=True, ratio=False),
        note="the bar is meant for Redis and PostgreSQL",
    )


def _round(effort: Effort, ours: Server, floor: Server) -> None:
    """Ours and the floor in turn, with the same bodies."""
    asked = _asked(effort)
    made = ours.post("/v1/decisions", asked)
    floor.post("/v1/decisions", asked)
    said = [{"decision_id": a["id"], "name": "thumb", "value": True} for a in made.answers]
    ours.post("/v1/feedback", said)
    floor.post("/v1/feedback", said)


def _asked(effort: Effort) -> list[dict[str, str]]:
    prompt = text_of(CHARACTERS)
    return [{"prompt": f"{i}: {prompt}"[:CHARACTERS], "user": "user:1"} for i in range(effort.calls)]


def _compared(ours: Server, floor: Server) -> Iterator[Row]:
    bars = {"per_s": Bar(limit=1.0, at_least=True), "p99_ms": Bar(limit=2.0)}
    for path in ("/v1/decisions", "/v1/feedback"):
        for what, unit in (("per_s", "/s"), ("p99_ms", "ms")):
            yield Row(
                bench="http",
                what=f"POST {path}, {'throughput' if unit == '/s' else 'p99'}",
                unit=unit,
                ours=ours.median(path, what),
                against="do-nothing FastAPI and pydantic, same bodies",
                theirs=floor.median(path, what),
                bar=bars[what],
                note=f"{CONNECTIONS} connections, one worker, after the commit; {SHARED}",
            )


def _cpu_us(effort: Effort, server: Server) -> float:
    """The median time of the processor for one decision [us], after a round that warms."""
    found = []
    for _ in range(effort.rounds + 1):
        before = server.cpu_s
        server.post("/v1/decisions", _asked(effort))
        found.append(1e6 * (server.cpu_s - before) / effort.calls)
    return median(found[1:])


def _batch(effort: Effort) -> int:
    return min(BATCH, effort.calls)


def _batches(effort: Effort, server: Server) -> float:
    """Words of feedback a second, four batches under way at a time."""
    ids = [a["id"] for a in server.post("/v1/decisions", _asked(effort)).answers]
    words = [
        {"decision_id": ids[i % len(ids)], "name": "rating", "value": 0.5, "source": f"user:{i}"}
        for i in range(BATCHES_TOGETHER * _batch(effort))
    ]
    size = _batch(effort)
    batches = [{"items": words[at : at + size]} for at in range(0, len(words), size)]
    load = server.post("/v1/feedback/batch", batches, connections=BATCHES_TOGETHER)
    return load.per_s * size


@contextmanager
def _service(folder: Path, workers: int) -> Iterator[Server]:
    home = folder / f"workers-{workers}"
    home.mkdir()
    config = home / "router.toml"
    config.write_text(f'log = "sqlite:///{home}/log.db"\n[service]\naccess_log = false\n{_MODELS}')
    command = ("-m", "bandit_router", "serve", "--config", str(config), "--workers", str(workers))
    port = _free_port()
    with _started(port, *command, "--port", str(port)) as server:
        yield server


@contextmanager
def _floor() -> Iterator[Server]:
    port = _free_port()
    with _started(port, str(FLOOR), str(port)) as server:
        yield server


@contextmanager
def _started(port: int, *command: str) -> Iterator[Server]:
    threads: Mapping[str, str] = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=words, stderr=words, env={**os.environ, **threads}
        )
        try:
            _wait(process, port)
            yield Server(process=process, port=port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTS_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            post(port, "/v1/decisions", [{"prompt": "Are you there?"}], connections=1)
        except PeerError:
            time.sleep(0.1)
        else:
            return
    raise PeerError("a server of the bench did not start")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _family(pid: int) -> list[int]:
    """A process and all that it has started, by Linux's ``/proc``."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return [pid, *(member for child in children for member in _family(child))]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
