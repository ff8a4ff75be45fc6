"""How much each caller may ask: limits per key and per user, and for tokens, over all workers."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence

from bandit_router.answers import RefusedError
from bandit_router.config import Config, Limits
from bandit_router.errors import StoreUnavailableError
from bandit_router.service.buckets import (
    Bucket,
    Buckets,
    Charge,
    Empty,
    LocalBuckets,
    SharedBuckets,
)
from feedback.api import TOKEN_PERIOD_S, TOKEN_WORDS, Caller

logger = logging.getLogger(__name__)
PREFIX = "bandit_router:limits"


class Limiter:
    """Says who asks too much.

    Decisions, words of feedback and all other calls have allowances of their own. A user's is within the key
    through which it comes, so that nobody can use up the allowance of another key's users; users who come
    with a feedback token have one beside those.

    While Redis is away each worker counts for itself (``when_away = "open"``), or refuses (``"closed"``).

    Parameters
    ----------
    limits : Limits
    shared : Buckets, optional
        Those of all workers; None: each worker counts for itself anyway.
    counted : callable
        Told of each refusal: of what kind of call, and whose allowance was used up.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        shared: Buckets | None,
        counted: Callable[[str, str], None] = lambda kind, whose: None,
    ) -> None:
        self._limits, self._counted = limits, counted
        self._own, self._shared = LocalBuckets(), shared
        self._trouble: str | None = None

    @classmethod
    def of(cls, config: Config, *, counted: Callable[[str, str], None]) -> Limiter:
        """Return the limiter that goes with a service's store."""
        shared = None if config.store.startswith("memory:") else SharedBuckets(config.store)
        return cls(config.limits, shared=shared, counted=counted)

    async def check(self, caller: Caller, kind: str, *, user: str | None = None) -> None:
        """Count one call.

        Raises
        ------
        RefusedError
            The allowance of the key or of the user is used up.
        StoreUnavailableError
            It is not known whether it is, and `when_away` is "closed".
        """
        (refusal,) = await self._counting(caller, kind, [user])
        if refusal is not None:
            raise refusal

    async def refusals(
        self, speaker: Caller, sources: Sequence[str | None]
    ) -> Sequence[RefusedError | None]:
        """Count words of feedback, one after another; as `feedback.api.Limiter`."""
        return await self._counting(speaker, "feedback", sources)

    async def aclose(self) -> None:
        """Disconnect."""
        if self._shared is not None:
            await self._shared.aclose()

    async def _counting(
        self, caller: Caller, kind: str, users: Sequence[str | None]
    ) -> list[RefusedError | None]:
        charges = [self._charge(caller, kind, user) for user in users]
        if not any(charges):
            return [None] * len(charges)
        taken = await self._take(charges)
        return [None if empty is None else self._refusal(kind, empty) for empty in taken]

    async def _take(self, charges: Sequence[Charge]) -> list[Empty | None]:
        if self._shared is None:
            return await self._own.take(charges)
        try:
            taken = await self._shared.take(charges)
        except StoreUnavailableError as error:
            self._say(str(error))
            if self._limits.when_away == "closed":
                raise
            return await self._own.take(charges)
        self._say(None)
        return taken

    def _say(self, trouble: str | None) -> None:
        """Tell that counting is in trouble, or well again, once."""
        was, self._trouble = self._trouble, trouble
        if trouble is not None and was is None:
            logger.warning("%s: when it is away, this is %s", trouble, self._limits.when_away)
        if trouble is None and was is not None:
            logger.info("limits: they are counted for all workers again")

    def _charge(self, caller: Caller, kind: str, user: str | None) -> Charge:
        if caller.token is not None:
            return self._charge_of_token(caller.token.source, caller.token.decision_id, kind)
        tag = f"{PREFIX}:{{{caller.key_id or 'nobody'}}}:{kind}"
        buckets = []
        if user is not None:
            buckets += self._user(f"{tag}:{_digest(user)}")
        if self._limits.key_per_minute is not None:
            rate, burst = self._limits.key_per_minute, self._limits.key_burst
            buckets.append(Bucket.of(tag, "key", rate, burst))
        return buckets

    def _charge_of_token(self, source: str, decision_id: str, kind: str) -> Charge:
        tag = f"{PREFIX}:{{token:{_digest(source)}}}:{kind}"
        interval = TOKEN_PERIOD_S / TOKEN_WORDS
        return [*self._user(tag), Bucket(f"{tag}:{decision_id}", "token", interval, TOKEN_WORDS)]

    def _user(self, name: str) -> list[Bucket]:
        if self._limits.user_per_minute is None:
            return []
        return [Bucket.of(name, "user", self._limits.user_per_minute, self._limits.user_burst)]

    def _refusal(self, kind: str, empty: Empty) -> RefusedError:
        bucket = empty.bucket
        self._counted(kind, bucket.whose)
        rate = f"{60 / bucket.interval_s:g} a minute, {bucket.burst} at once"
        wait = math.ceil(empty.wait_s)
        what = f"{kind}: this {bucket.whose} may make {rate}: try again in {wait} s"
        return RefusedError("too_many_requests", what, retry_after_s=wait)


def _digest(name: str) -> str:
    """What stands in Redis instead of a user's name."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
