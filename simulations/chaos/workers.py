"""A worker: ``bandit-router serve`` as a process group of its own, with a port, a log file and a journal."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from simulations.chaos.servers import HOST, START_TIMEOUT_S, NotStartedError, Server

PAUSE_S = 0.5  # before one that could not begin is started again
LOOK_S = 0.2  # between two looks whether it answers
CONFIG = """
[settings]
policy = "thompson"
[[models]]
name = "small"
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
[[models]]
name = "large"
input_usd_per_mtok = 2.50
output_usd_per_mtok = 10.0
"""


class Worker(Server):
    """One service with one worker process; it is kept running, as an operator's init system does.

    Parameters
    ----------
    log, store : str
        URLs.
    """

    def __init__(self, log: str, store: str) -> None:
        super().__init__("--log", log, "--store", store)
        (self.folder / "serve.toml").write_text(CONFIG)
        self._wanted, self._tried_at = True, 0.0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def journal_bytes(self) -> int:
        """Return how much its journal holds: what waits, and what was set aside."""
        return sum(file.stat().st_size for file in self._state.rglob("*") if file.is_file())

    def want(self, running: bool) -> None:
        """Say whether it shall be kept running."""
        self._wanted = running

    def start(self) -> None:
        """Start it, again if need be, and wait until it answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if time.monotonic() > deadline:
                raise NotStartedError(f"{self.url}: {self.said[-2000:]}")
            self.keep()
            time.sleep(LOOK_S)

    def remove(self) -> None:
        """End it at once, and forget its data: whatever it has to keep is in the log."""
        self.want(False)
        self.kill()
        super().remove()

    def end(self) -> None:
        """Ask it to end gently; `keep` starts another once it has."""
        if self.running:
            self.process.send_signal(self.end_signal)

    def keep(self) -> None:
        """Start it again where it has ended; it does not wait until the worker answers."""
        if self._wanted and not self.running and time.monotonic() > self._tried_at + PAUSE_S:
            self._tried_at = time.monotonic()
            self._reap()
            self._spawn()

    def kill_serving(self) -> None:
        """End the process that serves as a crash would; its supervisor starts another."""
        for process in self._processes()[1:]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    @property
    def _state(self) -> Path:
        """Where decisions wait while the log is away."""
        return self.folder / "state"

    def _surroundings(self) -> dict[str, Any]:  # Any: arguments of Popen
        return {"env": {**os.environ, "XDG_STATE_HOME": str(self._state)}}

    def _command(self) -> list[str]:
        serve = [sys.executable, "-m", "bandit_router", "serve", "--port", str(self.port)]
        return [*serve, "--config", str(self.folder / "serve.toml"), *self.options]

    def _answers(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=2.0, trust_env=False, verify=False)
            return answer.status_code == 200
        except httpx.TransportError:
            return False
