"""Drifts: what was learnt before a model changed counts less, everywhere, and what was not learnt yet too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from beliefs import demand_fold, until

from bandit_router import Decision, Model, Router, UnknownModelError
from bandit_router.errors import ConflictError
from bandit_router.evidence import Evidence, evidence_from_bytes
from bandit_router.log import tables as t
from bandit_router.log.drifts import decided_since, read_drifts, read_promised

Open = Callable[..., Router]
AT = 1_000.0  # long ago


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def ask(router: Router, model: str = "small", n: int = 1) -> list[Decision]:
    return [router.choose("hi", models=[model]) for _ in range(n)]


def thumb(router: Router, decision: Decision, value: bool = True) -> str:
    return router.feedback(decision.id, "thumb", value, source="user:1").id


def counts(router: Router) -> dict[str, float]:
    return {model: belief["n"] for model, belief in router.beliefs().items()}


def kept(router: Router) -> list[tuple[int, dict[str, Evidence]]]:
    """The generation and the evidence of each checkpoint."""
    c = t.checkpoints.c
    rows = router.log.read(lambda db: db.execute(sa.select(c.generation, c.evidence)).all())
    return [(row.generation, evidence_from_bytes(row.evidence)) for row in rows]


def test_earlier_evidence_counts_less_on_every_worker_and_after_a_restart(open_router: Open) -> None:
    one, two = open_router(), open_router()
    for model in ("small", "large"):
        for decision in ask(one, model, 4):
            thumb(one, decision)
    late, waiting = ask(one, n=2)
    drift = one.record_drift("small", factor=0.25, why="a new version")
    assert counts(one) == {"small": 1.0, "large": 4.0}
    until(lambda: counts(two) == counts(one), 15, lambda: counts(two))
    word = thumb(two, late)  # about a decision of before
    assert counts(two)["small"] == 1.25
    thumb(two, *ask(two))  # of after
    assert counts(two)["small"] == 2.25
    two.retract(word)
    assert counts(two)["small"] == 2.0
    demand_fold(two)
    one.close()
    again = open_router()
    assert counts(again)["small"] == 2.0
    thumb(again, waiting)
    assert counts(again)["small"] == 2.25
    again.rebuild()
    assert counts(again) == pytest.approx({"small": 2.25, "large": 4.0}, abs=1e-9)
    told = again.beliefs()["small"]["drifts"]
    assert [(d["factor"], d["origin"], d["why"]) for d in told] == [(0.25, "host", "a new version")]
    assert again.log.read(lambda c: read_drifts(c, "default")) == (drift,)


def test_a_checkpoint_of_before_is_not_believed(open_router: Open) -> None:
    router = open_router()
    first, second = ask(router, n=2)
    thumb(router, first)
    thumb(router, second)
    router.close()  # which keeps a checkpoint
    router = open_router()
    router.record_drift("small", factor=0.5, at=second.at)
    assert counts(router)["small"] == 1.5
    assert kept(router) == []
    thumb(router, *ask(router))
    router.close()
    router = open_router()
    assert counts(router)["small"] == 2.5
    old = kept(router)
    router.record_drift("small", factor=0.1)  # after all that it holds
    assert [generation for generation, _ in kept(router)] == [generation + 1 for generation, _ in old]
    assert [sums["small"].n for _, sums in kept(router)] == [0.25]
    assert counts(router)["small"] == 0.25
    demand_fold(router)


def test_factors_multiply_and_are_of_one_model(open_router: Open) -> None:
    router = open_router()
    thumb(router, *ask(router))
    router.record_drift("small", factor=0.5)
    router.record_drift("large", factor=0.1)
    router.record_drift("small", factor=0.5)
    assert counts(router)["small"] == 0.25
    router.put_model(Model("small"), reset=True)
    assert counts(router)["small"] == 0.0


def test_what_is_wrong_is_refused(open_router: Open) -> None:
    router = open_router()
    router.record_drift("small", at=AT)
    with pytest.raises(ConflictError, match="'small' at that moment"):
        router.record_drift("small", at=AT)
    router.record_drift("large", at=AT)
    with pytest.raises(UnknownModelError):
        router.record_drift("nobody")
    for wrong in ({"factor": 0.0}, {"factor": 1.5}, {"at": 4e9}, {"at": "soon"}):
        with pytest.raises(ValueError):
            router.record_drift("small", **wrong)
    assert [len(belief["drifts"]) for belief in router.beliefs().values()] == [1, 1]


def test_rewards_are_read_with_what_was_promised(open_router: Open) -> None:
    router = open_router()
    first, second = ask(router, n=2)
    thumb(router, first)
    thumb(router, second)
    thumb(router, second, False)  # what counts is the latest
    thumb(router, *ask(router, "large"))

    def read(since: float) -> list[float]:
        found = router.log.read(
            lambda c: read_promised(c, "default", since={"small": since}, newest=100)
        )
        assert all(one.model == "small" and one.weight == 1.0 and one.std > 0 for one in found)
        return [one.value for one in found]

    assert (read(0.0), read(first.at), read(second.at)) == ([1.0, 0.0], [0.0], [])
    assert router.log.read(lambda c: decided_since(c, "default", 0.0, most=100)) == 3
    assert router.log.read(lambda c: decided_since(c, "default", first.at, most=1)) == 1


def test_only_programs_that_know_events_go_on(open_router: Open) -> None:
    router = open_router()
    oldest = sa.select(t.compatibility.c.oldest)
    assert router.log.read(lambda c: c.execute(oldest).scalar()) == "0005"
    router.record_drift("small")
    assert router.log.read(lambda c: c.execute(oldest).scalar()) == "0007"
