"""Worker: what it opens it lets go of, whatever fails."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from bandit_router import ClosedError, LogUnavailableError, Router
from bandit_router import router as routing
from bandit_router.learner import Learner
from bandit_router.log import tables as t

Open = Callable[..., Router]


@pytest.fixture
def forked(router: Router) -> Iterator[Router]:
    """A router that another process has opened, as a fork sees it."""
    worker, pid = router._worker, router._worker.pid
    worker.pid = -1
    yield router
    if router._worker is not worker:
        router._worker.close()
    router._worker, worker.pid = worker, pid


def threads() -> set[threading.Thread]:
    """The threads that routers have."""
    return {thread for thread in threading.enumerate() if "bandit-router" in thread.name}


def rename(router: Router, name: str) -> None:
    """Give the only router of a log another name."""
    router._worker.log.write(lambda c: c.execute(sa.update(t.routers).values(name=name))).result(60)


def test_a_fork_that_cannot_open_a_router_rests_between_tries_and_leaves_nothing(
    forked: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "REOPEN_S", 60.0)
    before = threads()
    rename(forked, "another")
    with pytest.raises(LogUnavailableError, match="no router 'default'"):
        forked.choose("x")
    assert threads() <= before
    rename(forked, "default")
    with pytest.raises(LogUnavailableError, match="a moment ago"):
        forked.choose("x")
    forked._again_at = -math.inf  # a minute later
    assert forked.choose("x").candidates


def test_what_fails_as_it_closes_holds_up_nothing_else(
    open_router: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, close = threads(), Learner.close
    router = open_router(store="redis://127.0.0.1:1/0?timeout=0.5")  # where nobody answers
    worker = router._worker

    def fails(learner: Learner) -> None:
        close(learner)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(Learner, "close", fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        router.close()
    assert threads() <= before
    with pytest.raises(ClosedError):
        worker.store.read("default", generation=1, after=None)
