"""Erasing a user while other workers write: nothing of them slips in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest
import sqlalchemy as sa

from bandit_router import EventLog, Router
from bandit_router.log import tables as t
from bandit_router.log.checkpoints import write_checkpoint
from bandit_router.log.erasure import forget_user
from bandit_router.log.folding import Fold


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


def test_no_checkpoint_of_before_is_kept_after(url: str, open_router: Callable[..., Router]) -> None:
    router = open_router()
    for user in ("user:1", "user:2"):
        router.feedback(router.choose("x", user=user).id, "thumb", True)
    view = router._worker.learner.view
    generation, metrics = view.registration.generation, view.registration.settings.metrics
    with EventLog.open(url) as log, log.engine.execution_options(writes=True).connect() as erasing:
        erasing.begin()
        forget_user(erasing, view.lens, "user:1", generation=generation, metrics=metrics, now=1.0)
        before = Fold(evidence=dict(view.beliefs.evidence))  # which knows of user:1
        late = log.write(lambda c: write_checkpoint(c, view.lens, before, generation, 2.0))
        with pytest.raises(FutureTimeoutError):
            late.result(0.3)  # it waits, for its generation may be over
        erasing.commit()
        late.result(20)
        assert log.read(lambda c: c.execute(sa.select(t.checkpoints.c.id)).all()) == []
    assert sum(belief["n"] for belief in router.beliefs().values()) == 1
