"""What many tests need: routers on a log of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from bandit_router import Model, Router

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

SMALL = Model("small", input_usd_per_mtok=0.15, output_usd_per_mtok=0.60, context_tokens=128_000)
LARGE = Model("large", input_usd_per_mtok=2.50, output_usd_per_mtok=10.0, context_tokens=128_000)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log that does not exist yet."""
    return f"sqlite:///{tmp_path / 'chat.db'}"


@pytest.fixture
def open_router(url: str) -> Iterator[Callable[..., Router]]:
    """Open routers on one log; whatever stays open is closed at the end."""
    opened: list[Router] = []

    def open_(**arguments: Any) -> Router:
        arguments.setdefault("models", [SMALL, LARGE])
        router = Router.open(arguments.pop("log", url), **arguments)
        opened.append(router)
        return router

    yield open_
    for router in opened:
        router.close()


@pytest.fixture
def router(open_router: Callable[..., Router]) -> Router:
    """A router with a small and a large model."""
    return open_router()
