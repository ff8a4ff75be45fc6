"""Standing: how one worker stands to what it needs, and the alarms that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from bandit_router.log.engine import schema_fits, schema_version, translated
from bandit_router.log.partitions import read_partitions
from bandit_router.log.tables import HEAD
from feedback.health import LOOP, Alarm, Severity
from feedback.thresholds import Thresholds

JOURNAL_FULL = 0.5  # of the journal, from which on it is critical
UNLEARNT = 20  # reward rows that must have changed the beliefs
LONG = 10.0  # times a threshold, from which on it is critical
DAY_S = 86_400.0
PARTITIONS_S = 7 * DAY_S  # that partitions should reach ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one worker stands to what it needs.

    Attributes
    ----------
    router : str, optional
        Whose beliefs; None: what all routers of a worker share.
    log, store : str, optional
        What is wrong with each.
    store_away_s, behind_s : float
        Since when the store is away, and beliefs are behind the log [s].
    journaled, journal_bytes, journal_limit : int
        Decisions that wait in the journal for the log, the bytes they take, and how many there may be.
    learning : str, optional
        Why beliefs take in nothing, though log and store are there.
    skipped : int
        Rewards that do not count, for their features are of another version.
    unlearnt, still_s : int, float
        Reward rows that came since beliefs last changed, and how long ago that was [s].
    words, unknown : int
        Words that this worker heard in the last hour, and those of them that were about no decision.
    skew_s : mapping of str to float
        How far this machine's clock is ahead of each server's [s].
    schema : str, optional
        What is unusual about the log's schema.
    partitions_s : float, optional
        For how long from now on partitions are there [s]; None: the log has none.
    """

    router: str | None = None
    log: str | None = None
    store: str | None = None
    store_away_s: float = 0.0
    behind_s: float = 0.0
    journaled: int = 0
    journal_bytes: int = 0
    journal_limit: int = 0
    learning: str | None = None
    skipped: int = 0
    unlearnt: int = 0
    still_s: float = 0.0
    words: int = 0
    unknown: int = 0
    skew_s: Mapping[str, float] = field(default_factory=dict)
    schema: str | None = None
    partitions_s: float | None = None


def alarms_of_standing(standing: Standing, thresholds: Thresholds) -> tuple[Alarm, ...]:
    """Return what follows from how a worker stands."""
    found = []
    for code, check in _CHECKS.items():
        said = check(standing, thresholds)
        if said is not None:
            severity, message = said
            found.append(Alarm(code=code, severity=severity, message=message, router=standing.router))
    return tuple(found)


_Said = tuple[Severity, str] | None


def _log_away(s: Standing, t: Thresholds) -> _Said:
    if s.log is None:
        return None
    return "critical", (
        f"the log is away ({s.log}): decisions wait in the journal and feedback gets 503; bring it back"
    )


def _journal_filling(s: Standing, t: Thresholds) -> _Said:
    if not s.journaled:
        return None
    full = s.journal_bytes / s.journal_limit if s.journal_limit else 0.0
    return ("critical" if full > JOURNAL_FULL else "warning"), (
        f"{s.journaled:,} decisions wait in the journal ({full:.0%} of it is used): they follow when the log "
        "takes them; keep the journal's folder until then"
    )


def _store_away(s: Standing, t: Thresholds) -> _Said:
    if s.store is None or s.store_away_s < t.store_away_s:
        return None
    return _grave(s.store_away_s, t.store_away_s), (
        f"the store has been away for {s.store_away_s:.0f} s ({s.store}): this worker decides with the beliefs "
        "that it has; bring it back, empty if need be"
    )


def _learning_waits(s: Standing, t: Thresholds) -> _Said:
    if s.learning is None:
        return None
    return "critical", (
        f"beliefs take in nothing ({s.learning}): where something is of a newer version, finish the upgrade, "
        "or empty the store to go back"
    )


def _rewards_skipped(s: Standing, t: Thresholds) -> _Said:
    if not s.skipped:
        return None
    return "warning", (
        f"{s.skipped:,} rewards do not count, for their decisions have features of another version: run "
        "`bandit-router rebuild` when all workers have the same"
    )


def _beliefs_behind(s: Standing, t: Thresholds) -> _Said:
    if s.behind_s < t.behind_s:
        return None
    return _grave(s.behind_s, t.behind_s), (
        f"beliefs have not caught up with the log for {s.behind_s:.0f} s: see what /readyz says of learning"
    )


def _beliefs_still(s: Standing, t: Thresholds) -> _Said:
    if s.unlearnt < UNLEARNT or s.still_s < t.still_s:
        return None
    return "warning", (
        f"{s.unlearnt:,} rewards came in {s.still_s:.0f} s and changed no belief: see whether their weights "
        "are 0, or their models or features no longer those of the router"
    )


def _words_unknown(s: Standing, t: Thresholds) -> _Said:
    if s.words < t.words or s.unknown <= t.lost_words * s.words:
        return None
    return "warning", (
        f"{s.unknown:,} of {s.words:,} words of the last hour were about no decision of this log (404): see "
        "that they carry the id that the router gave, and go to the right service"
    )


def _clock_skew(s: Standing, t: Thresholds) -> _Said:
    for server, skew_s in s.skew_s.items():
        if abs(skew_s) > t.skew_s:
            ahead = "ahead of" if skew_s > 0 else "behind"
            return _grave(abs(skew_s), t.skew_s), (
                f"this machine's clock is {abs(skew_s):.1f} s {ahead} {server}'s: keep machines in time (NTP)"
            )
    return None


def _schema(s: Standing, t: Thresholds) -> _Said:
    return None if s.schema is None else ("warning", s.schema)


def _partitions_missing(s: Standing, t: Thresholds) -> _Said:
    if s.partitions_s is None or s.partitions_s > PARTITIONS_S:
        return None
    days = max(0.0, s.partitions_s) / DAY_S
    return ("critical" if s.partitions_s <= DAY_S else "warning"), (
        f"the log's partitions reach {days:.1f} days ahead: see why no worker makes new ones, or run "
        "`bandit-router migrate`"
    )


def _grave(value: float, threshold: float) -> Severity:
    return "critical" if value > LONG * threshold else "warning"


_Check = Callable[[Standing, Thresholds], _Said]
_CHECKS: Mapping[str, _Check] = {
    "log_away": _log_away,
    "journal_filling": _journal_filling,
    "store_away": _store_away,
    "learning_waits": _learning_waits,
    "rewards_skipped": _rewards_skipped,
    "beliefs_behind": _beliefs_behind,
    "beliefs_still": _beliefs_still,
    "words_unknown": _words_unknown,
    "clock_skew": _clock_skew,
    "schema": _schema,
    "partitions_missing": _partitions_missing,
}
CODES = (*LOOP, *_CHECKS)


def schema_said(engine: sa.Engine) -> str | None:
    """Return what is unusual about a log's schema, and None where it is this program's own.

    Raises
    ------
    LogUnavailableError
    """
    with translated("reading its version"):
        found = schema_version(engine)
        if found == HEAD:
            return None
        return schema_fits(engine) or (
            f"the log has schema {found}, newer than this program's {HEAD}, and fits: finish the upgrade"
        )


def partitions_left(connection: sa.Connection, now: float) -> float | None:
    """Return for how long from now on every table that is cut into weeks has its partitions [s]."""
    ends: dict[str, float] = {}
    for part in read_partitions(connection):
        upper = (part.upper or "0").replace("-", "")[:12]
        end = int(upper, 16) / 1000  # as `id_floor` has it
        ends[part.table] = max(ends.get(part.table, 0.0), end)
    return min(ends.values()) - now if ends else None
