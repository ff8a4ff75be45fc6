"""Supervisor: keeps so many worker processes serving one socket, and ends them all."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

logger = logging.getLogger(__name__)

ECHO_S = 0.5  # a signal to the process and to its group is one signal
PAUSE_S = 1.0  # before a worker is started in place of one that could not begin to serve
_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
_ENDING = {signal.SIGTERM, signal.SIGINT}
_RELOADING = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()


@dataclass(slots=True, kw_only=True)
class _Worker:
    process: SpawnProcess
    link: Connection
    serving: bool = False
    kill_at: float | None = None  # set when it was told to end

    @property
    def ending(self) -> bool:
        return self.kill_at is not None


class Supervisor:
    """Starts workers, replaces those that die, and passes on signals.

    SIGTERM and SIGINT end all workers: gently, until `drain_s` is over or the signal comes again later. SIGHUP
    replaces them one after another, each when its successor serves. All of them accept from one socket, so
    that what waits there is not lost with a worker. Workers end by themselves when the supervisor is killed.

    Parameters
    ----------
    work : callable
        What a worker does: called in a new process with `arguments` and a connection, on which it says
        once that it serves. It ends at SIGTERM.
    arguments : tuple
    workers : int
    drain_s : float
        How long a worker may take to end [s].
    ready : callable
        Called when all workers serve for the first time.
    stopping : callable
        Called when all are about to end.
    buried : callable
        Called with the id of every process that has ended.
    """

    def __init__(
        self,
        work: Callable[..., None],
        arguments: tuple[object, ...],
        *,
        workers: int,
        drain_s: float,
        ready: Callable[[], None] = lambda: None,
        stopping: Callable[[], None] = lambda: None,
        buried: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._work, self._arguments, self._wanted, self._drain_s = work, arguments, workers, drain_s
        self._ready, self._stopping, self._buried = ready, stopping, buried
        self._workers: list[_Worker] = []
        self._outdated: list[_Worker] = []  # to be replaced, one after another
        self._successor: _Worker | None = None  # starting, in place of the first of them
        self._stopped = self._told_ready = self._clean = False
        self._start_at = self._stopped_at = 0.0

    def run(self) -> int:
        """Supervise until told to end.

        Returns
        -------
        int
            Exit code: 0 when all ended in time, else 1.
        """
        self._clean = True
        try:
            with _signals() as signals:
                while self._workers or not self._stopped:
                    self._fill()
                    self._reload()
                    self._listen(signals)
                    self._kill_late()
        finally:
            self._kill_all()
        return 0 if self._clean else 1

    def _fill(self) -> None:
        """Start what is missing."""
        if self._stopped or time.monotonic() < self._start_at:
            return
        there = sum(not worker.ending for worker in self._workers if worker is not self._successor)
        for _ in range(self._wanted - there):
            self._start()

    def _start(self) -> _Worker:
        link, other = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(target=self._work, args=(*self._arguments, other), daemon=True)
        # A terminal sends these to all; workers listen to the supervisor alone.
        with _blocked({signal.SIGINT} | _RELOADING):
            process.start()
        other.close()
        worker = _Worker(process=process, link=link)
        self._workers.append(worker)
        return worker

    def _reload(self) -> None:
        """Go on replacing: the next one begins when the last one has gone."""
        self._outdated = [worker for worker in self._outdated if worker in self._workers]
        if self._stopped or not self._outdated or any(worker.ending for worker in self._workers):
            return
        if self._successor is None:
            self._successor = self._start()
        elif self._successor.serving:
            self._successor = None
            self._end(self._outdated[0])

    def _listen(self, signals: socket.socket) -> None:
        """Wait for signals, for workers that serve, and for workers that have ended."""
        starting = {w.link: w for w in self._workers if not w.serving}
        living = {w.process.sentinel: w for w in self._workers}
        for happened in wait([signals, *starting, *living], self._patience()):
            if happened is signals:
                for number in signals.recv(64):
                    self._hear(signal.Signals(number))
            elif isinstance(happened, Connection):
                self._welcome(starting[happened])
            elif isinstance(happened, int) and living[happened] in self._workers:
                self._bury(living[happened])

    def _patience(self) -> float | None:
        moments = [worker.kill_at for worker in self._workers if worker.kill_at is not None]
        if not self._stopped and self._start_at > time.monotonic():
            moments.append(self._start_at)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _hear(self, number: signal.Signals) -> None:
        if number in _RELOADING and not self._stopped:
            logger.info("%s: workers are replaced one after another", number.name)
            self._outdated = [w for w in self._workers if not w.ending and w is not self._successor]
        elif number in _ENDING and not self._stopped:
            logger.info("%s: workers end within %g seconds", number.name, self._drain_s)
            self._stop()
        elif number in _ENDING and time.monotonic() - self._stopped_at > ECHO_S:
            logger.warning("%s again: workers are killed", number.name)
            self._clean = False
            self._kill_all()

    def _stop(self) -> None:
        self._stopped, self._stopped_at = True, time.monotonic()
        self._stopping()
        for worker in self._workers:
            self._end(worker)

    def _end(self, worker: _Worker) -> None:
        if worker.ending:
            return
        worker.kill_at = time.monotonic() + self._drain_s
        if worker.serving:
            worker.process.terminate()
        else:
            worker.process.kill()  # it has nothing to drain

    def _welcome(self, worker: _Worker) -> None:
        """A worker serves; or it is about to be buried."""
        try:
            worker.link.recv_bytes()
        except (EOFError, OSError):
            return
        worker.serving = True
        logger.info("worker %d serves", worker.process.pid)
        if not self._told_ready and sum(w.serving for w in self._workers) == self._wanted:
            self._told_ready = True
            self._ready()

    def _bury(self, worker: _Worker) -> None:
        process = worker.process
        process.join()
        self._workers.remove(worker)
        worker.link.close()
        pid, code = process.pid, process.exitcode
        process.close()
        assert pid is not None
        self._buried(pid)
        if worker.ending:
            self._clean &= code == 0 or not worker.serving or not self._stopped
        else:
            self._replace(worker, pid, code)

    def _replace(self, worker: _Worker, pid: int, code: int | None) -> None:
        """What follows from a death that nobody asked for; `_fill` starts another."""
        if worker.serving:
            logger.error("worker %d died (exit code %s): another one is started", pid, code)
            if worker in self._outdated:
                self._successor = None  # it was meant for such a place
            return
        if worker is self._successor:
            logger.error("worker %d could not begin: the reload is given up", pid)
            self._successor, self._outdated = None, []
        elif self._told_ready:
            logger.error("worker %d could not begin: it is tried again", pid)
            self._start_at = time.monotonic() + PAUSE_S
        else:
            logger.error("worker %d could not begin", pid)
            self._clean = False
            self._stop()

    def _kill_late(self) -> None:
        for worker in self._workers:
            if worker.kill_at is not None and worker.kill_at <= time.monotonic():
                logger.error("worker %d did not end in time: it is killed", worker.process.pid)
                worker.process.kill()
                worker.process.join()

    def _kill_all(self) -> None:
        for worker in list(self._workers):
            worker.process.kill()
            worker.kill_at = time.monotonic()
            self._bury(worker)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that tells the numbers of signals, which do nothing else meanwhile."""
    told, teller = socket.socketpair()
    teller.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in _ENDING | _RELOADING}
    wakeup = signal.set_wakeup_fd(teller.fileno(), warn_on_full_buffer=False)
    try:
        yield told
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()
        teller.close()


@contextmanager
def _blocked(numbers: set[signal.Signals]) -> Iterator[None]:
    """Processes that are started within it never see these signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
