"""How fast one holder of a token may speak: browsers are not trusted to stop by themselves."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

HOLDERS = 20_000  # that are remembered


class Pace:
    """So many words in a period, for each holder apart.

    Parameters
    ----------
    words : int
        At most so many,
    period_s : float
        in so many seconds [s].
    clock : callable
        Returns seconds that only grow.

    Examples
    --------
    >>> pace = Pace(2, 60.0, clock=lambda: 0.0)
    >>> pace.wait_s("a"), pace.wait_s("a"), pace.wait_s("b"), pace.wait_s("a")
    (0.0, 0.0, 0.0, 60.0)
    """

    def __init__(
        self, words: int, period_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._words, self._period_s, self._clock = words, period_s, clock
        self._heard: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_s(self, holder: str) -> float:
        """Count one word; or return after how many seconds the holder may speak again [s]."""
        now = self._clock()
        since, said = self._heard.pop(holder, (now, 0))
        if now - since >= self._period_s:
            since, said = now, 0
        self._heard[holder] = since, min(said + 1, self._words)
        while len(self._heard) > HOLDERS:
            self._heard.popitem(last=False)
        return since + self._period_s - now if said >= self._words else 0.0
