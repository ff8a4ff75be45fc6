"""Changes of models are noticed in the log's rewards, once, and what was archived counts less too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from beliefs import demand_fold, until
from weeks import Clock, archive, talk

from bandit_router import ArchiveError, Model, Router, Uniform
from bandit_router.drift import FADING, FADINGS, KEEP, LEARNT
from bandit_router.log.bases import read_bases
from bandit_router.log.drifts import decided_since

Open = Callable[..., Router]
MODELS = [Model("small"), Model("large")]


def live(router: Router, n: int, small: float, large: float = 0.6, *, seed: int) -> None:
    """Let users answer thumbs up so often."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        decision = router.choose(f"question {i % 50}", models=[("small", "large")[i % 2]])
        up = rng.random() < (small if decision.model == "small" else large)
        router.feedback(decision.id, "thumb", bool(up), source=f"user:{i}")


def test_nothing_is_found_where_nothing_changes(open_router: Open) -> None:
    """Seeded: no stretch is farther than 2.7 standard errors away, and an alarm needs five."""
    router = open_router(durable=False)
    for seed in range(3):
        live(router, 100, 0.9, seed=seed)
        assert router.find_drift() == []


def test_a_fall_is_found_once_whoever_looks(open_router: Open) -> None:
    """By 60 %: five standard errors after some 20 rewards."""
    one, two = open_router(durable=False), open_router()
    live(one, 120, 0.95, seed=1)
    fell = one.choose("the last one").at
    live(one, 80, 0.2, seed=2)
    with ThreadPoolExecutor(2) as both:
        found = [drift for drifts in both.map(Router.find_drift, (one, two)) for drift in drifts]
    assert [(drift.model, drift.factor, drift.origin) for drift in found] == [
        ("small", KEEP, "surprise")
    ]
    since = [
        one.log.read(lambda c: decided_since(c, "default", at, most=200))  # noqa: B023
        for at in (fell, found[0].at)
    ]
    assert abs(since[0] - since[1]) < 20
    assert "-" in str(found[0].why)
    until(lambda: two.beliefs()["small"]["mean_reward"] < 0.4, 15, lambda: two.beliefs())
    demand_fold(one, two)
    assert two.beliefs()["large"]["n"] == 100
    two.close()
    assert open_router().find_drift() == []


def test_a_fall_by_18_percent_is_found(open_router: Open) -> None:
    """From 0.93 to 0.76, of grades that scatter by 0.12: five standard errors after some fifteen."""
    router, rng = open_router(models=[Model("small")], durable=False), np.random.default_rng(1)
    for i in range(130):
        decision = router.choose(f"question {i % 50}")
        grade = rng.normal(0.93 if i < 90 else 0.76, 0.12)
        router.feedback(decision.id, "rating", float(np.clip(grade, 0, 1)), source=f"user:{i}")
        if i == 89:
            assert router.find_drift() == []
    (drift,) = router.find_drift()
    after = router.log.read(lambda c: decided_since(c, "default", drift.at, most=100))
    assert abs(after + 1 - 40) < 10


def test_what_was_promised_of_a_new_model_is_no_measure(open_router: Open) -> None:
    router = open_router(models=[Model("small")], durable=False)
    for i in range(LEARNT):  # all far better than anybody could know
        router.feedback(router.choose("hi").id, "rating", 1.0, source=f"user:{i}")
    assert router.find_drift() == []


def test_a_model_that_changed_fades_until_it_is_tried_again(open_router: Open) -> None:
    router = open_router()
    live(router, 120, 0.95, seed=1)
    live(router, 60, 0.1, seed=2)
    assert [drift.origin for drift in router.find_drift()] == ["surprise"]
    before = router.beliefs()["small"]["n"]
    for _ in range(FADING):
        router.choose("hi", models=["large"])
    found = router.find_drift()
    assert [(drift.model, drift.factor, drift.origin) for drift in found] == [
        ("small", 0.5, "unsettled")
    ]
    assert router.beliefs()["small"]["n"] == pytest.approx(before / 2)
    assert router.find_drift() == []
    for _ in range(FADINGS):
        for _ in range(FADING):
            router.choose("hi", models=["large"])
        router.find_drift()
    fadings = [drift["origin"] for drift in router.beliefs()["small"]["drifts"]]
    assert fadings == ["surprise"] + ["unsettled"] * FADINGS


@pytest.fixture
def archived(url: str, tmp_path: Path) -> Iterator[tuple[Router, Path]]:
    """A router of whose three weeks two are archived."""
    clock, folder = Clock(), tmp_path / "archives"
    with clock.in_force():
        with Router.open(url, models=MODELS, policy=Uniform(), seed=1) as router:
            talk(router, clock)
        archive(url, folder, clock, days=8.0)
        with Router.open(url) as router:
            yield router, folder


def n_of(router: Router) -> float:
    return sum(belief["n"] for belief in router.beliefs().values())


def test_what_was_archived_counts_less_too(archived: tuple[Router, Path]) -> None:
    router, _ = archived
    before = n_of(router)
    for model in ("small", "large"):
        router.record_drift(model, factor=0.5)
    assert n_of(router) == pytest.approx(before / 2)
    demand_fold(router)


def test_a_change_between_archived_decisions_needs_their_files(
    archived: tuple[Router, Path], tmp_path: Path
) -> None:
    router, folder = archived
    bases = router.log.read(lambda c: read_bases(c, "default"))
    within = bases[0].before - 3 * 86_400.0
    before = n_of(router)
    folder.rename(tmp_path / "away")
    with pytest.raises(ArchiveError, match="out of reach"):
        router.record_drift("small", factor=0.5, at=within)
    assert n_of(router) == before
    (tmp_path / "away").rename(folder)
    for model in ("small", "large"):
        router.record_drift(model, factor=0.5, at=within)
    assert before / 2 < n_of(router) < before
    demand_fold(router)
