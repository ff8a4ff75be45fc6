"""Sampling: a keyed hash of the id, the same everywhere; the cursor misses nothing that appears late."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.events import new_id
from feedback.sampling import OVERLAP_S, Cursor, sampled

IDS = [new_id(1_000_000 + i) for i in range(5_000)]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_the_sampled_share_is_the_share(share: float) -> None:
    count = sum(sampled(decision_id, share, "judge") for decision_id in IDS)
    bound = 5 * (5_000 * share * (1 - share)) ** 0.5  # five deviations: wrong once in 1.7 million runs
    assert abs(count - 5_000 * share) < bound


def test_another_key_samples_others() -> None:
    one, two = ({i for i in IDS if sampled(i, 0.5, key)} for key in ("one", "two"))
    assert abs(len(one & two) - 1_250) < 5 * (5_000 * 0.25 * 0.75) ** 0.5  # as if drawn independently


def test_a_larger_share_samples_the_same_and_more() -> None:
    small, large = ({i for i in IDS if sampled(i, share, "judge")} for share in (0.1, 0.3))
    assert small < large


def test_none_and_all() -> None:
    assert not any(sampled(i, 0.0, "judge") for i in IDS)
    assert all(sampled(i, 1.0, "judge") for i in IDS)


def test_another_process_samples_the_same() -> None:
    script = (
        "import sys; from feedback.sampling import sampled;"
        "print(*(int(sampled(i, 0.3, 'judge')) for i in sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *IDS[:200]],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(int(sampled(i, 0.3, "judge"))) for i in IDS[:200]]


@given(
    st.lists(st.floats(0.1, 40.0), min_size=30, max_size=80),
    st.lists(st.floats(0.0, OVERLAP_S * 0.99), min_size=30, max_size=30),
)
def test_nothing_that_becomes_visible_late_is_missed(pauses: list[float], delays: list[float]) -> None:
    """Rows are numbered one a second, and each becomes visible some time after."""
    visible = {number: number + delay for number, delay in enumerate(delays, start=1)}
    cursor, now, seen = Cursor(0, 0.0), 0.0, set()
    for pause in [*pauses, *[OVERLAP_S] * 4]:
        now += pause
        start = cursor.start(now)
        found = {number for number, at in visible.items() if at <= now and number > start}
        seen |= found
        cursor.reach(max(found, default=start), now)
    assert seen == set(visible)


def test_most_looks_begin_where_the_last_one_ended() -> None:
    cursor = Cursor(0, 0.0)
    for second in range(1, int(OVERLAP_S)):
        cursor.reach(10 * second, float(second))
        assert cursor.start(float(second)) == 10 * second
