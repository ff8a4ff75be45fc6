"""How fast the holder of a token may speak."""

from __future__ import annotations

from feedback import pace
from feedback.pace import Pace


def test_a_holder_waits_and_others_do_not() -> None:
    now = 100.0
    limit = Pace(3, 60.0, clock=lambda: now)
    assert [limit.wait_s("a") for _ in range(4)] == [0.0, 0.0, 0.0, 60.0]
    assert limit.wait_s("b") == 0.0
    now = 130.0
    assert limit.wait_s("a") == 30.0
    now = 160.0
    assert limit.wait_s("a") == 0.0


def test_holders_are_forgotten_in_time() -> None:
    limit = Pace(1, 60.0, clock=lambda: 0.0)
    for holder in range(pace.HOLDERS + 5):
        limit.wait_s(str(holder))
    assert limit.wait_s("0") == 0.0
    assert limit.wait_s(str(pace.HOLDERS)) == 60.0
