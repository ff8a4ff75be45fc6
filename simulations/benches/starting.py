"""What it takes to be there: imports, memory, and the opening of a log with a past."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from bandit_router.events import Model, Outcome
from bandit_router.router import Router
from simulations.benches.featuring import text_of
from simulations.benches.rows import Bar, Effort, Row, interleaved

LIBRARIES = "import numpy, scipy.special, sqlalchemy"
MODELS = [Model(name, output_usd_per_mtok=usd) for name, usd in (("a", 1), ("b", 2), ("c", 4), ("d", 8))]
TOGETHER = 100  # decisions under way at a time
_TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
_RSS = 'print([l.split()[1] for l in open("/proc/self/status") if l.startswith("VmRSS")][0])'
_LOADED = """
import sys
from simulations.benches.starting import live
live({log!r}, {decisions})
ours = ("bandit_router", "simulations", "feedback", "migrations", "__main__")
names = [n for n, m in sys.modules.items() if n.partition(".")[0] not in ours and getattr(m, "__spec__", None)]
import json
print(json.dumps(names))
"""
_SAME = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except Exception:
        pass
"""
PROGRAM_S = 600.0
MILLION = 1_000_000


def imports(effort: Effort) -> Iterator[Row]:
    """``import bandit_router`` beside the libraries that the loop needs, each in a fresh process."""
    found = interleaved(
        {
            "ours": lambda: float(run(_TIMED.format("import bandit_router"))) * 1000,
            "libraries": lambda: float(run(_TIMED.format(LIBRARIES))) * 1000,
        },
        effort.rounds,
    )
    yield Row(
        bench="import",
        what="import bandit_router",
        unit="ms",
        ours=found["ours"],
        against=LIBRARIES,
        theirs=found["libraries"],
        bar=Bar(limit=0.5),
    )


def memory(effort: Effort) -> Iterator[Row]:
    """An embedded router after decisions with feedback, above a process with the same modules of others."""
    decisions = 10 * effort.calls
    with tempfile.TemporaryDirectory() as folder:
        log = f"sqlite:///{folder}/log.db"
        told = run(_LOADED.format(log=log, decisions=decisions) + _RSS).splitlines()
    names, ours = json.loads(told[-2]), int(told[-1]) / 1024
    libraries = int(run(_SAME + _RSS, json.dumps(names))) / 1024
    unused = sorted({"sklearn", "river"} & set(names))
    yield Row(
        bench="memory",
        what=f"memory above the libraries, after {decisions:,} decisions with feedback",
        unit="MB",
        ours=ours - libraries,
        against="resident with the libraries alone (for scale)",
        theirs=libraries,
        bar=Bar(limit=60.0, ratio=False),
        note=f"imported although unused: {', '.join(unused)}" if unused else "",
    )


def ready(effort: Effort) -> Iterator[Row]:
    """`Router.open` over a log with a past, from a checkpoint and what came after it."""
    with tempfile.TemporaryDirectory() as folder:
        log = f"sqlite:///{folder}/log.db"
        live(log, effort.log_rows)
        found = interleaved({"ours": lambda: _opened_s(log)}, effort.rounds)
    yield Row(
        bench="ready",
        what=f"ready over a log of {effort.log_rows:,} decisions with feedback",
        unit="s",
        ours=found["ours"],
        bar=Bar(limit=1.0, ratio=False) if effort.log_rows >= MILLION else None,
        note="the bar, 1 s, is for a million: --log-rows" if effort.log_rows < MILLION else "",
    )


def live(log: str, decisions: int) -> None:
    """Make decisions, and hear of each what it cost and how good it was."""
    asyncio.run(_live(log, decisions))


async def _live(log: str, decisions: int) -> None:
    async with Router.open(log, models=MODELS) as router:
        for start in range(0, decisions, TOGETHER):
            rows = range(start, min(start + TOGETHER, decisions))
            await asyncio.gather(*(_once(router, row) for row in rows))


async def _once(router: Router, row: int) -> None:
    decision = await router.achoose(f"{row}: {text_of(100)}")
    await router.areport(decision.id, Outcome(output_tokens=200, latency_s=1.0))
    await router.afeedback(decision.id, "rating", row % 7 / 7, source=f"user:{row}")


def _opened_s(log: str) -> float:
    began = time.perf_counter()
    with Router.open(log, models=MODELS) as router:
        took = time.perf_counter() - began
        router.beliefs()
    return took


def run(program: str, *arguments: str) -> str:
    """Run a program of Python in a process of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=PROGRAM_S,
    )
    return done.stdout.strip()
