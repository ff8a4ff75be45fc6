"""Forking with a log open: no SQLite connection may cross a fork.

SQLite keeps the locks of a process in a table of that process. A child that inherits it believes in locks
that it does not hold, or waits for ones that nobody will release. So a fork waits until no transaction is
running, and closes all idle connections before it happens; parent and child open new ones when they need them.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

PATIENCE_S = 10.0  # how long a fork waits for transactions to end

_engines: weakref.WeakSet[sa.Engine] = weakref.WeakSet()


class _Gate:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running = 0
        self.forking = False


_gate = _Gate()


def close_before_fork(engine: sa.Engine) -> None:
    """Have this engine's idle connections closed before the process forks."""
    _engines.add(engine)


@contextmanager
def unforked() -> Iterator[None]:
    """Hold off forks while a transaction is running."""
    gate = _gate
    with gate.changed:
        gate.changed.wait_for(lambda: not gate.forking)
        gate.running += 1
    try:
        yield
    finally:
        with gate.changed:
            gate.running -= 1
            gate.changed.notify_all()


def _before() -> None:
    with _gate.changed:
        _gate.forking = True
        _gate.changed.wait_for(lambda: _gate.running == 0, PATIENCE_S)
    for engine in list(_engines):
        engine.dispose()


def _after_in_parent() -> None:
    with _gate.changed:
        _gate.forking = False
        _gate.changed.notify_all()


def _after_in_child() -> None:
    global _gate
    _gate = _Gate()  # the parent's may be held by a thread that does not exist here
    for engine in list(_engines):
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
