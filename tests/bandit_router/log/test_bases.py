"""Bases: what was archived is believed through the lens that it was folded with, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from weeks import Clock, archive, counted, talk

from bandit_router import ArchiveError, Model, Router
from bandit_router.evidence import Evidence, Observation
from bandit_router.log import tables as t
from bandit_router.log.bases import Base
from bandit_router.log.lens import Lens
from bandit_router.predictions import Predictions
from bandit_router.retention import check_archives

Open = Callable[..., Router]
LENS = Lens(router="default", dim=2, features_version="v", half_life_s=None)


@pytest.fixture
def base() -> Base:
    """What one decision has taught of one model."""
    sums = Evidence(2)
    sums.add(Observation.of([1.0, 3.0], 0.5))
    same = {"features_version": "v", "half_life_s": None, "predictions": Predictions()}
    return Base(
        archive="a", router="default", evidence={"small": sums}, before=100.0, decisions=1, **same
    )


def test_a_model_that_was_reset_since_is_left_out(base: Base) -> None:
    assert base.under(LENS).keys() == {"small"}
    assert base.under(replace(LENS, born={"other": 7.0})).keys() == {"small"}
    assert base.under(replace(LENS, born={"small": 100.0})) == {}
    with pytest.raises(ArchiveError, match="1 decisions of archive a"):  # it may or may not count
        base.under(replace(LENS, born={"small": 99.0}))


def test_a_model_that_changed_since_counts_less(base: Base) -> None:
    assert base.under(replace(LENS, drifts={"small": ((100.0, 0.5), (200.0, 0.5))}))["small"].n == 0.25
    assert base.under(replace(LENS, drifts={"other": ((7.0, 0.5),)}))["small"].n == 1.0
    within = replace(LENS, drifts={"small": ((99.0, 0.5), (200.0, 0.5))})
    with pytest.raises(ArchiveError, match="need its files"):  # some decisions lie before it, some after
        base.under(within)
    assert replace(base, drifts={"small": ((99.0, 0.5),)}).under(within)["small"].n == 0.5


@pytest.mark.parametrize("lens", [{"features_version": "w"}, {"half_life_s": 9.0}])
def test_other_features_and_half_lives_need_the_files(base: Base, lens: dict[str, object]) -> None:
    assert not base.fits(replace(LENS, **lens))
    with pytest.raises(ArchiveError, match="need its files"):
        base.under(replace(LENS, **lens))


def test_plain_means_survive_other_features(base: Base) -> None:
    plain = base.as_plain(replace(LENS, dim=3, features_version="w"))
    sums, direct = plain.evidence["small"], Evidence(3)
    direct.add(Observation.of([1.0, 0.0, 0.0], 0.5))
    assert plain.plain
    assert np.array_equal(sums.A, direct.A)
    assert (sums.b.tolist(), sums.c, sums.n) == (direct.b.tolist(), direct.c, direct.n)


def test_a_damaged_base_stops_whoever_would_fold_it(open_router: Open, url: str, tmp_path: Path) -> None:
    clock = Clock()
    with clock.in_force():
        router = open_router()
        talk(router, clock)
        archive(url, tmp_path / "archive", clock)
        sums = sa.select(t.bases.c.evidence)
        body = bytearray(router.log.read(lambda c: c.execute(sums).scalars().first()))
        check_archives(router.log)
        body[-1] ^= 1
        router.log.write(lambda c: c.execute(sa.update(t.bases).values(evidence=bytes(body)))).result()
        with pytest.raises(ArchiveError, match="has taught is damaged"):
            check_archives(router.log)
        with pytest.raises(ArchiveError, match="restore the log"):
            router.rebuild()
        assert router.health().well  # for nothing has begun
        with pytest.raises(ArchiveError, match="has taught is damaged"):
            router.put_model(Model("small"), reset=True)
        assert router.choose("x").model  # with the last beliefs
        assert not router.health().well
        with pytest.raises(ArchiveError):
            open_router()


def test_a_reset_after_archiving_and_one_before(open_router: Open, url: str, tmp_path: Path) -> None:
    clock = Clock()
    with clock.in_force():
        router = open_router()
        talk(router, clock)
        router.put_model(Model("small"), reset=True)
        talk(router, clock)
        before = counted(router)
        archive(url, tmp_path / "archive", clock)
        router.rebuild()
        assert counted(router)["small n"] == pytest.approx(before["small n"])
        router.put_model(Model("large"), reset=True)
        assert counted(router)["large n"] == pytest.approx(0.0)
        assert counted(router)["small n"] == pytest.approx(before["small n"])
