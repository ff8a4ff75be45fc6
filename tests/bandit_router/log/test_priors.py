"""Priors: what is known before counts on every worker, apart from the log, until it is contradicted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa
from beliefs import demand_fold, until

from bandit_router import EventLog, Greedy, LogUnavailableError, Model, Router
from bandit_router.evidence import Evidence
from bandit_router.features import HashedFeatures
from bandit_router.log import tables as t
from bandit_router.prompt import Prompt
from simulations.priors import evidence_of_table
from simulations.tables import Table

Open = Callable[..., Router]
N = 200


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def table(small: float, large: float, n: int = N) -> Table:
    prompts = tuple(f"question number {i}" for i in range(n))
    return Table(
        name="evaluation",
        prompt_ids=prompts,
        prompts=prompts,
        models=(Model("small"), Model("large")),
        quality=np.tile([small, large], (n, 1)),
        cost_usd=np.zeros((n, 2)),
    )


def evidence(small: float, large: float) -> dict[str, Evidence]:
    return evidence_of_table(table(small, large), HashedFeatures())


def promises(router: Router) -> dict[str, float]:
    return {c.model: c.mean for c in router.choose("question number 7").candidates}


def test_what_is_known_counts_at_once_on_every_worker_and_after_a_restart(open_router: Open) -> None:
    one, two = open_router(), open_router()
    one.put_prior(evidence(0.2, 0.9), origin="evaluation.parquet")
    assert promises(one) == pytest.approx({"small": 0.2, "large": 0.9}, abs=0.05)
    until(lambda: promises(two)["large"] > 0.7, 10, lambda: promises(two))
    assert two.prior is not None
    assert (two.prior.origin, two.prior.evidence["small"].n) == ("evaluation.parquet", N)
    one.close()
    assert promises(open_router()) == pytest.approx({"small": 0.2, "large": 0.9}, abs=0.05)


def test_it_is_apart_from_what_feedback_teaches(open_router: Open) -> None:
    router = open_router()
    router.put_prior(evidence(0.2, 0.9))
    router.feedback(router.choose("x", models=["small"]).id, "thumb", True)
    assert {m: b["n"] for m, b in router.beliefs().items()} == {"small": 1.0, "large": 0.0}
    demand_fold(router)
    router.rebuild()
    assert promises(router)["large"] > 0.6
    assert router.drop_prior()
    assert not router.drop_prior()
    assert router.prior is None
    assert promises(router)["small"] > promises(router)["large"]


def test_a_wrong_one_is_unlearned(open_router: Open) -> None:
    router = open_router(policy=Greedy(), durable=False)
    router.put_prior(evidence(0.9, 0.2))  # it is the other way round
    for i in range(60):
        decision = router.choose(f"question number {i}", models=[("small", "large")[i % 2]])
        router.feedback(decision.id, "rating", 0.9 if decision.model == "large" else 0.2)
    beliefs = router.beliefs()
    assert beliefs["small"]["prior"]["power"] < 1.0
    until(lambda: promises(router)["large"] > promises(router)["small"], 10, lambda: promises(router))


def test_with_other_features_only_the_means_are_left(open_router: Open) -> None:
    router = open_router()
    router.put_prior(evidence(0.2, 0.9))
    router.rebuild("hashed:buckets=8")
    assert promises(router) == pytest.approx({"small": 0.2, "large": 0.9}, abs=0.05)


def test_a_model_that_comes_later_is_known_already(open_router: Open) -> None:
    router = open_router(models=[Model("small")])
    router.put_prior(evidence(0.2, 0.9))
    router.put_model(Model("large"))
    assert promises(router)["large"] > 0.6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "at least one model"),
        ([], "at least one model"),
        ({"small": Evidence(3)}, "64 dimensions"),
        ({"small": Evidence(64)}, "observations that do not fade"),
        ({"small": Evidence(64, half_life=5.0)}, "observations that do not fade"),
        ({"": evidence(0.5, 0.5)["small"]}, "prior"),
        ({"small": "good"}, "got 'good'"),
    ],
)
def test_what_is_no_prior_is_refused(sqlite_url: str, wrong: object, said: str) -> None:
    with Router.open(sqlite_url, models=[Model("small")]) as router:
        with pytest.raises(ValueError, match=said):
            router.put_prior(wrong)  # type: ignore[arg-type] # that is what is tried
        assert router.prior is None


def test_a_damaged_one_is_told(open_router: Open, url: str) -> None:
    router = open_router()
    router.put_prior(evidence(0.2, 0.9))
    with EventLog.open(url) as log:
        log.write(lambda c: c.execute(sa.update(t.priors).values(evidence=b"BRES"))).result()
    with pytest.raises(LogUnavailableError, match="the prior of router 'default'"):
        router.prior  # noqa: B018 - reading it is what is tried


def test_it_knows_what_is_asked_of_the_prompt(open_router: Open) -> None:
    """A prior that depends on the prompt tells prompts apart."""
    features, router = HashedFeatures(), open_router()
    asked = [
        f"Write code: def f{i}():\n    return {i}" if i % 2 else f"Tell a story of {i}" for i in range(N)
    ]
    sums = {model: Evidence(features.dim) for model in ("small", "large")}
    x = features.extract_many([Prompt.of(text) for text in asked])
    code = np.arange(N) % 2.0
    for model, reward in (("small", 1 - code), ("large", code)):
        sums[model].add_many(x, np.ones(N), reward, np.zeros(N))
    router.put_prior(sums)
    means = [
        {c.model: c.mean for c in router.choose(text).candidates}
        for text in ("Write code: def f():\n    return 3", "Tell a story of a fox")
    ]
    assert means[0]["large"] > means[0]["small"]
    assert means[1]["large"] < means[1]["small"]
