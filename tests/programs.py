"""The programs that tests need beside servers, found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from simulations.chaos.programs import asked_for, first_of, on_path


def find_browser() -> Path:
    """Return a Chromium: the one asked for, the system's, or the one that playwright has downloaded."""
    found = [*asked_for("TEST_BROWSER"), *on_path("chromium", "chromium-browser", "google-chrome")]
    return first_of(
        found or _downloaded_browser(),
        asked="TEST_BROWSER",
        what="a browser",
        how="install chromium, or run `playwright install chromium`",
    )


def _downloaded_browser() -> list[Path]:
    asking = "from playwright.sync_api import sync_playwright as play\nwith play() as p: print({})"
    command = [sys.executable, "-c", asking.format("p.chromium.executable_path")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return [Path(answer.stdout.strip())] if answer.returncode == 0 else []
