"""Supervisor: workers that cannot begin, that hang, that die, and exit codes that say so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import logging, os, signal, sys, time
from pathlib import Path
from bandit_router.service.workers import Supervisor

def work(kind, link):
    if Path(kind).read_text() == "broken":
        sys.exit(3)
    stubborn = Path(kind).read_text() == "stubborn"
    signal.signal(signal.SIGTERM, (lambda *_: None) if stubborn else (lambda *_: sys.exit(0)))
    link.send_bytes(b"ready")
    while True:
        time.sleep(0.05)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    kind, drain_s = sys.argv[1], float(sys.argv[2])
    say = lambda word: print(word, flush=True)
    supervisor = Supervisor(
        work, (kind,), workers=2, drain_s=drain_s,
        ready=lambda: say("ready"), stopping=lambda: say("stopping"), buried=lambda pid: say("buried"),
    )
    sys.exit(supervisor.run())
"""


class Supervised:
    """A supervisor in a process of its own, whose workers do as a file says."""

    def __init__(self, folder: Path, kind: str, *, drain_s: float = 60.0) -> None:
        script, self.kind, self._log = folder / "script.py", folder / "kind", folder / "log"
        script.write_text(SCRIPT)
        self.kind.write_text(kind)
        command = [sys.executable, str(script), str(self.kind), str(drain_s)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def said(self) -> str:
        return self._log.read_text()

    def hear(self, pattern: str, times: int = 1) -> list[str]:
        """What it says, once it has said it so often."""
        deadline = time.monotonic() + 60
        while len(found := re.findall(pattern, self.said(), re.MULTILINE)) < times:
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gentle_end_is_success(tmp_path: Path, number: int) -> None:
    supervised = Supervised(tmp_path, "willing")
    supervised.hear("^ready$")
    supervised.process.send_signal(number)
    assert supervised.process.wait(60) == 0
    assert supervised.said().count("buried") == 2
    assert "stopping" in supervised.said()


def test_workers_that_never_begin_end_it_all(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, "broken")
    assert supervised.process.wait(60) == 1
    assert "could not begin" in supervised.said()


def test_workers_that_hang_are_killed_at_the_bound(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, "stubborn", drain_s=0.5)
    supervised.hear("^ready$")
    supervised.process.terminate()
    assert supervised.process.wait(60) == 1
    assert supervised.said().count("did not end in time") == 2


def test_the_dead_are_replaced_and_those_that_cannot_begin_tried_again(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, "willing")
    supervised.hear("^ready$")
    supervised.kind.write_text("broken")
    (first, _) = supervised.hear(r"worker (\d+) serves", 2)
    os.kill(int(first), signal.SIGKILL)
    supervised.hear("could not begin: it is tried again")
    supervised.kind.write_text("willing")
    supervised.hear(r"worker (\d+) serves", 3)
    supervised.process.terminate()
    assert supervised.process.wait(60) == 0


def test_a_reload_waits_for_each_successor(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, "willing")
    supervised.hear("^ready$")
    first = supervised.hear(r"worker (\d+) serves", 2)
    supervised.process.send_signal(signal.SIGHUP)
    supervised.hear("^buried$", 2)
    told = re.findall(r"serves|buried", supervised.said())
    assert told == ["serves", "serves", "serves", "buried", "serves", "buried"]
    assert supervised.said().count("ready\n") == 1
    assert not {*supervised.hear(r"worker (\d+) serves", 4)[2:]} & {*first}
    supervised.process.terminate()
    assert supervised.process.wait(60) == 0


def test_a_worker_that_dies_before_its_turn_is_replaced_by_the_successor(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, "willing")
    supervised.hear("^ready$")
    first = supervised.hear(r"worker (\d+) serves", 2)
    supervised.process.send_signal(signal.SIGHUP)
    supervised.hear("SIGHUP")
    for pid in first:
        os.kill(int(pid), signal.SIGKILL)
    serving = supervised.hear(r"worker (\d+) serves", 4)
    time.sleep(1)
    assert len(re.findall(r"worker (\d+) serves", supervised.said())) == len(serving) == 4
    supervised.process.terminate()
    assert supervised.process.wait(60) == 0
