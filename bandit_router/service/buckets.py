"""Buckets that fill again with time, by which calls are limited: in this process, or in Redis for all workers.

It is the generic cell rate algorithm: of a bucket only the moment is kept at which it will be full again. A
charge takes one from each of its buckets, or nothing from any where one of them is empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from bandit_router.breaker import Breaker
from bandit_router.errors import StoreUnavailableError

REMEMBERED = 100_000  # buckets of one process; the one that was used least lately is full again
PATIENCE_S = 0.2  # how long a request waits for Redis; slower answers are as good as none
CALLS = 16  # of one worker at the same time; others wait for their turn
_MICRO = 1_000_000

# 2 n rates of n buckets (interval [us], burst), then charges (numbers of buckets) -> for each: how long to
# wait [us], for which bucket. What is there already is never trusted beyond an empty bucket.
_SOURCE = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local n, full, touched, answer = #KEYS, redis.call('MGET', unpack(KEYS)), {}, {}
local interval, burst = {}, {}
for i = 1, n do
  interval[i], burst[i] = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local kept = tonumber(string.match(full[i] or '', '^%d+$') or 0)
  full[i] = math.min(math.max(kept, now), now + interval[i] * burst[i])
end
for c = 2 * n + 1, #ARGV do
  local wait, whose, of = 0, 0, {}
  for number in string.gmatch(ARGV[c], '%d+') do
    local i = tonumber(number)
    of[#of + 1] = i
    local needed = full[i] + interval[i] * (1 - burst[i]) - now
    if needed > wait then wait, whose = needed, i end
  end
  for _, i in ipairs(wait > 0 and {} or of) do
    full[i] = full[i] + interval[i]
    touched[i] = true
  end
  answer[#answer + 1], answer[#answer + 2] = math.ceil(wait), whose
end
for i in pairs(touched) do
  redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000))
end
return answer
"""
_SHA = hashlib.sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Bucket:
    """What may be taken from, and how fast it fills.

    Attributes
    ----------
    name : str
        Buckets of one charge have the same hash tag: ``{...}``.
    whose : str
        What to say of it.
    interval_s : float
        After which one more is in it [s].
    burst : int
        How many are in it when it is full.
    """

    name: str
    whose: str
    interval_s: float
    burst: int

    @classmethod
    def of(cls, name: str, whose: str, per_minute: float, burst: int | None) -> Bucket:
        """Return a bucket that fills by so many a minute; it holds those of a minute, or `burst`."""
        return cls(name, whose, 60.0 / per_minute, burst or max(1, math.ceil(per_minute)))

    @property
    def interval_us(self) -> int:
        """As whole microseconds, by which both kinds of counters count."""
        return max(1, round(self.interval_s * _MICRO))


Charge = Sequence[Bucket]


@dataclass(frozen=True, slots=True)
class Empty:
    """A charge that took nothing: which bucket was empty, and after how long it is not any more [s]."""

    bucket: Bucket
    wait_s: float


class Buckets(Protocol):
    """Where buckets are kept."""

    async def take(self, charges: Sequence[Charge]) -> list[Empty | None]:
        """Make charges, one after another; those that found an empty bucket took nothing.

        Raises
        ------
        StoreUnavailableError
            It is not known.
        """
        ...

    async def aclose(self) -> None:
        """Disconnect."""
        ...


class LocalBuckets:
    """Buckets of one process.

    Parameters
    ----------
    clock : callable
        Returns seconds that only grow.

    Examples
    --------
    >>> now, bucket = [0.0], Bucket("{a}", "a", interval_s=1.0, burst=2)
    >>> buckets = LocalBuckets(clock=lambda: now[0])
    >>> [empty and empty.wait_s for empty in asyncio.run(buckets.take([[bucket]] * 3))]
    [None, None, 1.0]
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full: OrderedDict[str, int] = OrderedDict()

    async def take(self, charges: Sequence[Charge]) -> list[Empty | None]:
        """As `Buckets.take`."""
        now = round(self._clock() * _MICRO)
        taken = [self._take(charge, now) for charge in charges]
        while len(self._full) > REMEMBERED:
            self._full.popitem(last=False)
        return taken

    async def aclose(self) -> None:
        """As `Buckets.aclose`."""

    def _take(self, charge: Charge, now: int) -> Empty | None:
        full = [max(self._full.get(bucket.name, 0), now) for bucket in charge]
        for bucket, moment in zip(charge, full, strict=True):
            wait = moment + bucket.interval_us * (1 - bucket.burst) - now
            if wait > 0:
                return Empty(bucket, wait / _MICRO)
        for bucket, moment in zip(charge, full, strict=True):
            self._full[bucket.name] = moment + bucket.interval_us
            self._full.move_to_end(bucket.name)
        return None


class SharedBuckets:
    """Buckets in Redis, shared by all workers: one script, in one round trip, or not at all.

    Connects when first asked. While Redis does not answer in time, it is not asked at all for a second.

    Parameters
    ----------
    url : str
        As that of a store.
    patience_s : float
        How long a call may take [s].
    """

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self._url, self._patience_s = _without_limits(url), patience_s
        self._breaker = Breaker(slow_s=patience_s)
        self._turns = asyncio.Semaphore(CALLS)
        self._client: Any = None  # Any: of a server or a cluster; their types say little of answers
        self._connecting = asyncio.Lock()

    async def take(self, charges: Sequence[Charge]) -> list[Empty | None]:
        """As `Buckets.take`."""
        buckets = list({bucket.name: bucket for charge in charges for bucket in charge}.values())
        if not buckets:
            return [None] * len(charges)
        answer = await self._asked(buckets, charges)
        pairs = zip(answer[::2], answer[1::2], strict=True)
        return [Empty(buckets[i - 1], wait / _MICRO) if wait > 0 else None for wait, i in pairs]

    async def aclose(self) -> None:
        """As `Buckets.aclose`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _asked(self, buckets: Sequence[Bucket], charges: Sequence[Charge]) -> list[int]:
        """What the script answers, in time."""
        from redis.exceptions import RedisClusterException, RedisError

        if not self._breaker.allows():
            raise StoreUnavailableError(f"limits: {self._breaker.trouble}")
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_s), self._turns:
                answer = await self._run(buckets, charges)
        except (RedisError, RedisClusterException, OSError) as error:  # a timeout is an OSError
            said = str(error) or f"no answer within {self._patience_s:g} s"
            self._breaker.failed(said)
            if isinstance(error, RedisClusterException):
                self._client = None  # no node that it knew: begin again from the URL
            raise StoreUnavailableError(f"limits: {said}") from error
        self._breaker.succeeded(took_s=time.monotonic() - began)
        return answer

    async def _run(self, buckets: Sequence[Bucket], charges: Sequence[Charge]) -> list[int]:
        from redis.exceptions import NoScriptError

        async with self._connecting:
            if self._client is None:
                self._client = await _connected(self._url)
        numbers = {bucket.name: i for i, bucket in enumerate(buckets, 1)}
        rates = (rate for bucket in buckets for rate in (bucket.interval_us, bucket.burst))
        said = (" ".join(str(numbers[bucket.name]) for bucket in charge) for charge in charges)
        arguments = (len(buckets), *numbers, *rates, *said)
        try:
            answer: list[int] = await self._client.evalsha(_SHA, *arguments)
        except NoScriptError:
            answer = await self._client.eval(_SOURCE, *arguments)
        return answer


async def _connected(url: str) -> Any:  # Any: as in `SharedBuckets`
    """A client of the server, or of the cluster that it is a part of."""
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # A connection that has died meanwhile is made anew, once.
    once = Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    client = redis.asyncio.Redis.from_url(url, retry=once, protocol=2)
    try:
        about: Mapping[str, Any] = await client.info("cluster")  # Any: numbers and texts
    except BaseException:
        await client.aclose()
        raise
    if not about.get("cluster_enabled"):
        return client
    await client.aclose()
    return redis.asyncio.RedisCluster.from_url(url, retry=Retry(NoBackoff(), 1), protocol=2)


def _without_limits(url: str) -> str:
    """A store's URL as the driver takes it: the time limits are others here."""
    base, _, query = url.partition("?")
    options = [(name, value) for name, value in parse_qsl(query) if name not in ("timeout", "slow")]
    return f"{base}?{urlencode(options)}" if options else base
