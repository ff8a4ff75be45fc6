"""How a worker stands: nothing where all is well, and one alarm for each thing that is not."""

from __future__ import annotations

import pytest

from feedback.health import LOOP
from feedback.standing import CODES, Standing, alarms_of_standing
from feedback.thresholds import Thresholds

CASES = [
    ("log_away", "critical", "gone", Standing(log="gone")),
    (
        "journal_filling",
        "warning",
        "3 decisions",
        Standing(journaled=3, journal_bytes=1, journal_limit=9),
    ),
    ("journal_filling", "critical", "78%", Standing(journaled=3, journal_bytes=7, journal_limit=9)),
    ("store_away", "warning", "for 61 s", Standing(store="gone", store_away_s=61)),
    ("store_away", "critical", "for 601 s", Standing(store="gone", store_away_s=601)),
    ("learning_waits", "critical", "format 2", Standing(learning="format 2")),
    ("rewards_skipped", "warning", "7 rewards", Standing(skipped=7)),
    ("beliefs_behind", "warning", "for 70 s", Standing(behind_s=70)),
    ("beliefs_still", "warning", "20 rewards", Standing(unlearnt=20, still_s=700)),
    ("words_unknown", "warning", "6 of 100 words", Standing(words=100, unknown=6)),
    ("clock_skew", "warning", "6.0 s ahead of Redis's", Standing(skew_s={"a": 1.0, "Redis": 6.0})),
    ("clock_skew", "critical", "600.0 s behind a's", Standing(skew_s={"a": -600.0})),
    ("schema", "warning", "newer", Standing(schema="newer")),
    ("partitions_missing", "warning", "5.0 days", Standing(partitions_s=5 * 86_400)),
    ("partitions_missing", "critical", "0.0 days", Standing(partitions_s=-5)),
]


@pytest.mark.parametrize(("code", "severity", "said", "standing"), CASES)
def test_each_thing_raises_its_alarm_alone(
    code: str, severity: str, said: str, standing: Standing
) -> None:
    (alarm,) = alarms_of_standing(standing, Thresholds())
    assert (alarm.code, alarm.severity) == (code, severity)
    assert said in alarm.message


def test_a_worker_that_stands_well_raises_nothing() -> None:
    assert alarms_of_standing(Standing(), Thresholds()) == ()
    short = Standing(
        store="gone",
        store_away_s=5,
        behind_s=5,
        words=100,
        unknown=5,
        unlearnt=19,
        still_s=1e6,
        skew_s={"a": -4},
    )
    assert alarms_of_standing(short, Thresholds()) == ()


def test_every_alarm_is_tried() -> None:
    assert {*LOOP, *(case[0] for case in CASES)} == set(CODES)
