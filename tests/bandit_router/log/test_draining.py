"""Draining: each decision of a journal comes into the log, whatever else is in its file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bandit_router import Decision, Router
from bandit_router.events import new_id
from bandit_router.log import tables as t
from bandit_router.log.draining import Kept, record_kept
from bandit_router.log.files import JournalFile
from bandit_router.log.frames import Rows, to_frame
from bandit_router.log.rows import decision_row

Open = Callable[..., Router]


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def rows_like(decision: Decision, **others: Any) -> list[tuple[str, dict[str, Any]]]:
    """The rows of another decision, as a journal has them; some values are others."""
    made = replace(decision, id=new_id(decision.at), reason="degraded")
    row = decision_row(made, input_tokens=1.0, body_hash=None, prompt_hash=None) | others
    text = {"decision_id": row["id"], "router": row["router"], "at_us": row["at_us"], "prompt": '"x"'}
    return [("decisions", row), ("texts", text)]


def without(rows: Rows, column: str) -> Rows:
    (table, row), *others = rows
    return [(table, {name: value for name, value in row.items() if name != column}), *others]


def recorded(router: Router, *tables: sa.Table) -> list[list[Mapping[str, Any]]]:
    """What is in some tables."""
    return [
        list(router.log.read(lambda c: c.execute(sa.select(table)).mappings().all()))  # noqa: B023
        for table in tables
    ]


def odd_rows(decision: Decision) -> list[Rows]:
    """Whole frames of decisions that no log takes, each for another reason."""
    return [
        rows_like(decision, user=["a list"]),
        rows_like(decision, model={"an": "object"}),
        rows_like(decision, model="\ud800"),
        rows_like(decision, at_us=10**30),
        rows_like(decision, at_us="late"),
        rows_like(decision, features=None),
        without(rows_like(decision), "router"),
        without(rows_like(decision), "model"),
        [*rows_like(decision), ("texts", {"decision_id": None})],
    ]


def test_odd_frames_are_set_aside_and_block_nothing(open_router: Open, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir(mode=0o700)
    with open_router() as first:
        decision = first.choose("x")
    good, odd = [rows_like(decision, user=str(i)) for i in range(3)], odd_rows(decision)
    file = JournalFile.create(folder)
    no_decision = [("texts", {"decision_id": "x"})]
    for rows in (good[0], no_decision, *odd[:4], good[1], *odd[4:], good[2]):
        file.append(to_frame(rows))
    file.close()
    router = open_router(journal=folder)
    deadline = time.monotonic() + 60
    while list(folder.glob("*.journal")):
        assert time.monotonic() < deadline, router.log.trouble
        time.sleep(0.02)
    decisions, texts = recorded(router, t.decisions, t.texts)
    wanted = {decision.id, *(rows[0][1]["id"] for rows in good)}
    assert {row["id"] for row in decisions} == {row["decision_id"] for row in texts} == wanted
    assert sorted(row["user"] for row in decisions if row["user"]) == ["0", "1", "2"]
    assert len(list(folder.glob("*.damaged"))) == 1  # with the frame that holds no decision
    (aside,) = folder.glob("*.refused")
    refused = [json.loads(line)[0][1]["id"] for line in aside.read_bytes().splitlines()]
    assert refused == [rows[0][1]["id"] for rows in odd]


def record(router: Router, *frames: Rows) -> None:
    """Record decisions in one transaction."""
    kept = [Kept(rows=rows, frame=to_frame(rows)) for rows in frames]
    router.log.write(lambda c: record_kept(c, kept)).result(60)


def test_a_column_that_one_has_not_is_not_taken_from_others(router: Router) -> None:
    decision = router.choose("x")
    older = without(rows_like(decision), "tags")
    newer = rows_like(decision, tags='{"team": "a"}')
    record(router, older, newer)
    (decisions,) = recorded(router, t.decisions)
    tags = {row["id"]: row["tags"] for row in decisions}
    assert (tags[older[0][1]["id"]], tags[newer[0][1]["id"]]) == (None, '{"team": "a"}')


def come_late(router: Router, rows: Rows) -> str:
    """Let a commit that was given up come nevertheless; return the decision's id."""
    tables = [(t.metadata.tables[name], row) for name, row in rows]
    row = rows[0][1]
    key = {name: row[name] for name in ("router", "key", "body_hash")} | {"decision_id": row["id"]}
    router.log.insert(*tables, (t.decision_keys, key)).result(60)
    return str(row["id"])


def test_a_commit_that_was_given_up_brings_no_erased_user_back(router: Router) -> None:
    decision = router.choose("x", user="bob")
    gone, stays = (rows_like(decision, user=who, key=who, body_hash="0" * 64) for who in ("ann", "bob"))
    router.forget_user("ann")
    lost, kept = come_late(router, gone), come_late(router, stays)
    follows = rows_like(decision, user="bob", head=lost)
    record(router, follows)
    router.feedback(lost, "comment", "I am Ann", source="ann")
    record(router, gone, stays)
    decisions, texts, keys, words = recorded(router, t.decisions, t.texts, t.decision_keys, t.feedback)
    left = {decision.id, kept, follows[0][1]["id"]}
    assert {row["id"] for row in decisions} == {row["decision_id"] for row in texts} == left
    assert {row["head"] for row in decisions} == {None}
    assert [row["decision_id"] for row in keys] == [kept]
    assert words == []


def test_what_was_learnt_from_the_erased_is_said_to_need_another_erasure(
    router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    gone = rows_like(router.choose("x"), user="ann", key="k", body_hash="0" * 64)
    router.forget_user("ann")
    lost = come_late(router, gone)
    assert router.feedback(lost, "thumb", True).applied
    record(router, gone)
    assert f"decision {lost} came after its user was erased" in caplog.text
    assert router.forget_user("ann").decisions == 1
    record(router, gone)
    decisions, rewards = recorded(router, t.decisions, t.rewards)
    assert lost not in {row["id"] for row in decisions}
    assert rewards == []
