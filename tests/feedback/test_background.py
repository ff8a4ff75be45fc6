"""A thread with a loop of its own: it ends when it is told to, and may end by itself."""

from __future__ import annotations

import asyncio
import threading
import time

from feedback.background import Background


def test_the_work_may_end_by_itself() -> None:
    async def nothing(_: asyncio.Event) -> None:
        return

    background = Background("test", nothing)
    for _ in range(500):
        if not background.alive:
            break
        time.sleep(0.01)
    assert not background.alive
    background.stop(grace_s=1.0)


def test_what_does_not_end_is_cancelled() -> None:
    cancelled = threading.Event()

    async def stubborn(_: asyncio.Event) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    background = Background("test", stubborn)
    began = time.monotonic()
    background.stop(grace_s=0.1)
    assert cancelled.is_set()
    assert time.monotonic() - began < 10
    assert not background.alive


def test_many_come_and_go() -> None:
    async def wait(leaving: asyncio.Event) -> None:
        await leaving.wait()

    for _ in range(50):
        Background("test", wait).stop(grace_s=10.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]
