"""A thread with an event loop of its own, for work that goes on beside everything else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Background:
    """Runs a coroutine in a daemon thread until it is stopped.

    Parameters
    ----------
    name : str
        Of the thread.
    work : callable
        Given an event; returns a coroutine that ends soon after the event is set.

    Examples
    --------
    >>> async def wait(leaving: asyncio.Event) -> None:
    ...     await leaving.wait()
    >>> background = Background("example", wait)
    >>> background.alive, background.stop(grace_s=1.0), background.alive
    (True, None, False)
    """

    def __init__(self, name: str, work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
        self._work = work
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None]
        self._leaving: asyncio.Event
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def stop(self, *, grace_s: float) -> None:
        """Let the work end by itself for a while [s], then cancel it."""
        self._tell(lambda: self._leaving.set())
        self._thread.join(grace_s)
        self._tell(lambda: self._task.cancel())
        self._thread.join()

    def _tell(self, what: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the work has ended
            self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._leaving = asyncio.get_running_loop(), asyncio.Event()
        self._task = asyncio.ensure_future(self._work(self._leaving))
        self._ready.set()
        try:
            await self._task
        except asyncio.CancelledError:
            return
