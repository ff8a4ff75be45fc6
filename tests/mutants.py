"""Copies of the program with one fault each, which chaos must find."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("bandit_router", "feedback", "simulations", "migrations")
Change = tuple[str, str, str]  # file, text, and what stands there instead


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One fault that somebody could make.

    Attributes
    ----------
    changes : sequence of (file, old, new)
        Exact texts.
    only : sequence of str
        The faults of the world that bring it to light.
    proofs : set of str
        At least one of these must fail.
    """

    name: str
    changes: Sequence[Change]
    only: Sequence[str]
    proofs: frozenset[str]

    def write(self, folder: Path) -> None:
        """Copy the program and make the fault in the copy."""
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, folder / package, ignore=ignored)
        for file, old, new in self.changes:
            path = folder / file
            path.write_text(path.read_text().replace(old, new))

    def lost(self) -> list[str]:
        """Return the texts that are not there, or more than once: the mutant has to follow the code."""
        return [old for file, old, _ in self.changes if (ROOT / file).read_text().count(old) != 1]


MUTANTS = (
    Mutant(
        name="the store counts a delta twice",
        changes=[
            (
                "bandit_router/store/lua.py",
                "if not scores[i] and not seen[key] and tonumber(key) > 2 * h.complete + 1 then",
                "if true then",
            )
        ],
        only=["worker: pause"],
        proofs=frozenset({"fold", "beliefs"}),
    ),
    Mutant(
        name="the store trusts a server that came back older",
        changes=[
            (
                "bandit_router/store/lua.py",
                "local sure = ARGV[3] == '' or has(ARGV[3])",
                "local sure = true",
            )
        ],
        only=["redis: older dump"],
        proofs=frozenset({"fold", "beliefs"}),
    ),
    Mutant(
        name="the log takes a repeated word for a new one",
        changes=[
            (
                "bandit_router/log/hearing.py",
                "if active is not None and word.key is None and word.repeats(active):",
                "if False:",
            )
        ],
        only=["worker: pause"],
        proofs=frozenset({"answers"}),
    ),
    Mutant(
        name="the writer acknowledges before the commit",
        changes=[
            (
                "bandit_router/log/writer.py",
                "is None else _run_all(connection, items)\n        return results\n",
                "is None else _run_all(connection, items)\n"
                "            for item, result in zip(batch, results):\n"
                "                if not item.future.done() and isinstance(result, BaseException):\n"
                "                    item.future.set_exception(result)\n"
                "                elif not item.future.done():\n"
                "                    item.future.set_result(result)\n"
                "        return []\n",
            ),
            (
                "bandit_router/log/writer.py",
                "in zip(batch, results, strict=True):\n",
                "in zip([], results, strict=True):\n",
            ),
            (
                "bandit_router/log/writer.py",
                "            item.future.set_exception(refusal)\n\n\n",
                "            item.future.done() or item.future.set_exception(refusal)\n\n\n",
            ),
        ],
        only=["postgres link: delay, then cut", "postgres: terminate backends", "postgres: kill"],
        proofs=frozenset({"decisions", "words", "outcomes"}),
    ),
    Mutant(
        name="the journal is thrown away instead of drained",
        changes=[
            (
                "bandit_router/log/draining.py",
                "self._drain_file(file, until)\n",
                "self._journal.done(file)\n",
            )
        ],
        only=["postgres: kill", "postgres: pause", "postgres link: cut"],
        proofs=frozenset({"decisions"}),
    ),
    Mutant(
        name="a new reward does not take the old one's place",
        changes=[
            ("bandit_router/log/folding.py", 'x, at), row["earlier"]', "x, at), None"),
        ],
        only=["worker: pause"],
        proofs=frozenset({"fold", "beliefs"}),
    ),
)


def chaos_of(
    folder: Path, mutant: Mutant, *, seed: int, minutes: float
) -> tuple[int, dict[str, Any], str]:
    """Let chaos run in a copy; return its exit code, its results, and what it printed."""
    command = [sys.executable, "-m", "bandit_router", "chaos", "--seed", str(seed)]
    command += ["--minutes", str(minutes), "--json", str(folder / "chaos.json")]
    for text in mutant.only:
        command += ["--only", text]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    run = subprocess.run(
        command,
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60 * minutes + 200,
        check=False,
    )
    found = folder / "chaos.json"
    return (
        run.returncode,
        json.loads(found.read_text()) if found.exists() else {},
        run.stdout + run.stderr,
    )
