"""What tests of a judge need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from judged import Clock, judge_of
from upstream import Upstream

from bandit_router import Router
from feedback.judge import Judge


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def judge(router: Router, upstream: Upstream, clock: Clock) -> Judge:
    return judge_of(router, upstream, clock=clock)
