"""All benches by name, and the machine on which they run."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import scipy

from bandit_router.errors import PeerError, SettingsError
from simulations.benches import choosing, featuring, learning, starting
from simulations.benches.rows import Effort, Row

Bench = Callable[[Effort], Iterator[Row]]

ABSENT = {
    "LiteLLM's proxy": "it decides while it calls a model, and there is none here",
    "TensorZero's embedded gateway": "it decides while it calls a model, and there is none here",
    "Redis and PostgreSQL together": "`bench --fresh` and `bench --costs` measure on a log and store of yours",
    "a soak of 500,000 decisions": "not in this table",
}


def _http(effort: Effort) -> Iterator[Row]:
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise PeerError(f"{', '.join(missing)} must be installed")
    from simulations.benches.serving import http

    yield from http(effort)


BENCHES: Mapping[str, Bench] = {
    "arithmetic": choosing.arithmetic,
    "choose": choosing.in_memory,
    "durable": choosing.durable,
    "features": featuring.features,
    "http": _http,
    "memory": starting.memory,
    "import": starting.imports,
    "simulate": learning.simulation,
    "ready": starting.ready,
}


def benches(names: Iterable[str] = ()) -> dict[str, Bench]:
    """Return the benches of these names, all where none is named.

    Each yields its rows, and raises PeerError where a package is missing or a server of its own breaks.

    Raises
    ------
    SettingsError
        There is no bench of that name.

    Examples
    --------
    >>> list(benches(["import"]))
    ['import']
    """
    wanted = tuple(names) or tuple(BENCHES)
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        raise SettingsError(f"only: no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    return {name: BENCHES[name] for name in wanted}


def machine() -> dict[str, str]:
    """Return what the numbers were measured on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas threads": os.environ.get("OPENBLAS_NUM_THREADS", "as BLAS likes"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((s.partition(": ")[2] for s in lines if s.startswith("model name")), platform.machine())
