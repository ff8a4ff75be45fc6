"""SECURITY.md claims nothing that no test stands behind."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from bandit_router.config import Limits, Service

ROOT = Path(__file__).parents[1]
SAID = (ROOT / "SECURITY.md").read_text("utf-8")


def test_each_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", SAID))
    there: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)\(", file.read_text("utf-8"), re.MULTILINE))
    assert len(named) > 30
    assert named <= there, sorted(named - there)


def test_each_setting_that_is_named_exists() -> None:
    block = SAID.partition("[limits]")[2].partition("```")[0]
    named = re.findall(r"^(\w+) = ", block, re.MULTILINE)
    assert named == [field.name for field in fields(Limits)]
    for name in ("body_bytes", "receive_s", "connections", "cors"):
        assert f"`{name}`" in SAID
        assert name in {field.name for field in fields(Service)}
