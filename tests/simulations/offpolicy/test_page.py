"""The page of a replay: all its numbers, nothing from elsewhere, and names that are only names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from drawn import rounds_of

from simulations.offpolicy.coverage import draw_log, scenery_of
from simulations.offpolicy.page import write_html
from simulations.offpolicy.verdicts import judge
from simulations.worlds import small_world

EVIL = "<script>a$b"


def test_a_page(tmp_path: Path) -> None:
    scene = scenery_of(small_world(0).table(300, 1))
    draws = draw_log(scene, 400, np.random.default_rng(0))[0]
    models = (EVIL, *draws.models[1:])
    found = judge(rounds_of(draws, models), ["logged", "greedy", f"fixed:{models[-1]}"])
    write_html(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'src=|href="(?!#)|@import|url\((?!#)', page)
    for verdict in found.policies:
        for estimate in verdict.estimates.values():
            assert f"{estimate.value:z.4f}" in page
    unsound = replace(found.calibration, p_value=0.0)
    write_html(tmp_path / "page.html", replace(found, calibration=unsound, policies=()))
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "do not believe what follows" in page
    assert "<svg" not in page
