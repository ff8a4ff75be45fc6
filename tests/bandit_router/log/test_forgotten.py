"""Forgotten: nothing of somebody who was erased comes back, whoever still holds it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from bandit_router import Router
from bandit_router.events import new_id
from bandit_router.log import tables as t
from bandit_router.log.forgotten import refuse_erased

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def test_decisions_of_before_are_refused_and_later_ones_are_not(router: Router) -> None:
    router.forget_user("user:1")
    (asked,) = router.log.read(lambda c: c.execute(sa.select(t.erasures.c.asked_us)).scalars().all())
    rows = [
        {"id": i, "router": name, "user": user, "at_us": asked + late}
        for i, (name, user, late) in enumerate(
            [
                ("default", "user:1", 0),
                ("default", "user:1", 1),
                ("default", "user:2", 0),
                ("default", None, 0),
                ("another", "user:1", 0),
            ]
        )
    ]
    left = router.log.write(lambda c: refuse_erased(c, rows)).result()
    assert [row["id"] for row in left] == [1, 2, 3, 4]


def test_no_name_is_kept(router: Router) -> None:
    router.forget_user("user:1")
    row = router.log.read(lambda c: c.execute(sa.select(t.erasures)).mappings().one())
    assert row["done_us"] == row["asked_us"]
    assert "user:1" not in str(dict(row))


def test_a_word_that_waited_with_another_router_does_not_come_back(open_router: Open) -> None:
    """Its decision is on the way to one router, and another took the word in."""
    mine, other = open_router(), open_router(name="other")
    coming = new_id()
    assert other.feedback(coming, "thumb", True, source="user:1").pending
    mine.forget_user("user:1")
    decision = mine.choose("x", user="user:2")
    row = mine.log.read(
        lambda c: (
            c.execute(sa.select(t.decisions).where(t.decisions.c.id == decision.id)).mappings().one()
        )
    )
    mine.log.writer.insert((t.decisions, {**row, "id": coming})).result()
    mine.feedback(coming, "rating", 1.0, source="user:3")  # what waits is applied before
    assert [said.feedback.source for said in mine.decision(coming).feedback] == ["user:3"]
