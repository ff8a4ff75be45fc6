"""A `bandit-router serve` of a test's own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

CONFIG = """
[settings]
policy = "uniform"
[[models]]
name = "small"
[[models]]
name = "large"
"""


class Serving:
    """The service as a process, with a client of its own.

    Parameters
    ----------
    folder : Path
        Where its config file and what it says are kept.
    *options : str
        Of the command.
    port : int
        0 takes a free one.
    config : str
        The config file.
    """

    def __init__(self, folder: Path, *options: str, port: int = 0, config: str = CONFIG) -> None:
        file = folder / "serve.toml"
        file.write_text(config)
        self.stderr = folder / "stderr"
        command = [sys.executable, "-m", "bandit_router", "serve", "--config", str(file)]
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, "--port", str(port), *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)", self.said)
        assert found is not None, self.stderr.read_text()
        self.url, self.port = f"http://127.0.0.1:{found[1]}", int(found[1])
        close = {"connection": "close"}  # a kept connection would die with its worker
        self.client = httpx.Client(base_url=self.url, headers=close, timeout=60)

    def workers(self) -> set[int]:
        """Processes that serve."""
        found = re.findall(r"worker (\d+) serves", self.stderr.read_text())
        return {pid for pid in map(int, found) if lives(pid)}

    def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """Return the body of a good answer."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        return told

    def get(self, path: str) -> httpx.Response:
        """Return an answer."""
        return self.client.get(path)

    def choose(self) -> dict[str, object]:
        """Return the body of a decision."""
        return self.post("/v1/decisions", {"prompt": "hi"})

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, wait for its end, and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()
        return code


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait until something is true, but not for ever."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
