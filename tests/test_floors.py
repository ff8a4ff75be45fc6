"""The floors: who may import whom, as `pyproject.toml` has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINT = """
import sys
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports
sys.path.insert(0, ".")
sys.exit(lint_imports(config_filename="pyproject.toml", no_cache=True) != EXIT_STATUS_SUCCESS)
"""


def test_imports_go_only_downwards() -> None:
    # In a process of its own: the linter silences the loggers of whoever calls it.
    done = subprocess.run(
        [sys.executable, "-c", LINT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
