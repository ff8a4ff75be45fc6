"""Many processes over one log: they learn together, survive kill -9, and a fork is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bandit_router import Model, Router
from bandit_router.learner import POLL_S

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    """Each test here runs embedded (SQLite, memory) and on servers (PostgreSQL, Redis)."""
    return log_url


WORKER = """
import json, sys
from bandit_router import Outcome, Router

url, store, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
router = Router.open(url, store=store)
print("ready", flush=True)
for i in range(rounds):
    decision = router.choose(f"question {i}", user="user:1")
    print(json.dumps(["decision", decision.id]), flush=True)
    router.report(decision.id, Outcome(output_tokens=7))
    print(json.dumps(["outcome", decision.id]), flush=True)
    heard = router.feedback(decision.id, "thumb", i % 2 == 0)
    print(json.dumps(["feedback", heard.id, decision.id]), flush=True)
if rounds < 1000:
    router.close()
print("done", flush=True)
"""


def start(url: str, store_url: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, url, store_url, str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[list[str]]:
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        out, err = process.stdout.read(), process.stderr.read()
    process.wait(timeout=100)
    lines = [line for line in out.splitlines() if line.startswith("[") and line.endswith("]")]
    assert "Traceback" not in err, err
    return [json.loads(line) for line in lines]


def test_processes_write_one_log_and_learn_together(url: str, store_url: str, open_router: Open) -> None:
    router = open_router()
    workers = [start(url, store_url, 12) for _ in range(4)]
    told = [finish(worker) for worker in workers]
    assert all(len(lines) == 36 for lines in told)
    assert sum(belief["n"] for belief in router.beliefs().values()) == 48
    assert len({line[1] for lines in told for line in lines if line[0] == "decision"}) == 48


def test_another_process_is_heard_without_being_asked(
    url: str, store_url: str, open_router: Open
) -> None:
    assert POLL_S <= 0.2  # so that it is heard within a second, with room to spare
    router = open_router()
    finish(start(url, store_url, 1))
    for _ in range(500):
        if sum(e.n for e in router._worker.learner.view.beliefs.evidence.values()) == 1:
            return
        time.sleep(0.02)
    pytest.fail("one process did not hear of another's feedback")


@pytest.mark.parametrize("patience", [0.05, 0.4, 0.9])
def test_nothing_acknowledged_is_lost_by_kill_9(
    url: str, store_url: str, open_router: Open, patience: float
) -> None:
    router = open_router()
    workers = [start(url, store_url, 100_000) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    time.sleep(patience)
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    told = [line for worker in workers for line in finish(worker)]
    router.close()
    router = open_router()
    heard = {line[2] for line in told if line[0] == "feedback"}
    for line in told:
        story = router.decision(line[1] if line[0] != "feedback" else line[2])
        if line[0] == "outcome":
            assert story.outcome is not None
        if line[0] == "feedback":
            assert [said.feedback.id for said in story.feedback] == [line[1]]
    # What was committed but not yet acknowledged may be there too: at most one word of each worker.
    counted = sum(belief["n"] for belief in router.beliefs().values())
    assert len(heard) <= counted <= len(heard) + len(workers)
    live = router.beliefs()
    router.rebuild()
    assert {m: b["n"] for m, b in router.beliefs().items()} == {m: b["n"] for m, b in live.items()}


FORKER = """
import os, sys
from bandit_router import Model, Router

router = Router.open(sys.argv[1], store=sys.argv[2], models=[Model("a"), Model("b")])
first = router.choose("before the fork")
pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        decisions = [router.choose("in the child") for _ in range(5)]
        heard = [router.feedback(d.id, "thumb", True) for d in decisions]
        assert all(h.applied for h in heard)
        router.close()
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
router.feedback(first.id, "thumb", True)
print(sum(belief["n"] for belief in router.beliefs().values()))
router.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_fork_is_noticed_and_reopened(url: str, store_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKER, url, store_url],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 11


def test_openings_at_once_make_one_router(url: str) -> None:
    script = (
        "import sys; from bandit_router import *;Router.open(sys.argv[1], models=[Model('a')]).close()"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.PIPE) for _ in range(6)
    ]
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err.decode()
    with Router.open(url) as router:
        assert router.models == (Model("a"),)


def test_the_log_needs_no_close(tmp_path: Path) -> None:
    """A program that just ends has kept everything that was durable."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    script = (
        "import sys; from bandit_router import *; r = Router.open(sys.argv[1], models=[Model('a')]);"
        "d = r.choose('x'); r.feedback(d.id, 'thumb', True)"
    )
    subprocess.run([sys.executable, "-c", script, url], check=True, timeout=100)
    with Router.open(url) as router:
        assert router.beliefs()["a"]["n"] == 1
