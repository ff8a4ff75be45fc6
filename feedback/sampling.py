"""Which answers are graded: the same ones for every worker, after every restart, without agreement."""

from __future__ import annotations

from hashlib import blake2b

OVERLAP_S = 120.0  # longer than a transaction lasts


def sampled(decision_id: str, share: float, key: str) -> bool:
    """Whether a decision's answer is graded, by a keyed hash of its id.

    A larger share samples the same ones and more; another key samples others.

    Examples
    --------
    >>> sampled("0192-a", 1.0, "judge"), sampled("0192-a", 0.0, "judge")
    (True, False)
    """
    secret = blake2b(key.encode(), digest_size=32).digest()
    drawn = blake2b(decision_id.encode(), key=secret, digest_size=7).digest()
    return int.from_bytes(drawn, "big") < share * 2**56


class Cursor:
    """Where to look next for rows whose numbers do not become visible in order.

    It goes on from the last number seen, and from time to time from so far back that whatever became visible
    up to `OVERLAP_S` after its neighbours is seen too.

    Parameters
    ----------
    start : int
        Everything after this number is looked at.
    now : float
        [s].

    Examples
    --------
    >>> cursor = Cursor(0, 0.0)
    >>> cursor.reach(40, 1.0)
    >>> cursor.start(2.0), cursor.start(OVERLAP_S)
    (40, 0)
    """

    def __init__(self, start: int, now: float) -> None:
        self._last = start
        self._marks = (start, start)  # the last number seen, two sweeps ago and one
        self._swept_at = now

    def start(self, now: float) -> int:
        """Return the number after which to look."""
        return self._marks[0] if self._is_due(now) else self._last

    def reach(self, last: int, now: float) -> None:
        """Take note that everything visible was looked at, from `start` up to `last`."""
        if self._is_due(now):
            self._marks = (self._marks[1], max(self._last, last))
            self._swept_at = now
        self._last = max(self._last, last)

    def _is_due(self, now: float) -> bool:
        return now - self._swept_at >= OVERLAP_S
