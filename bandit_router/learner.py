"""Learner: one worker's beliefs, predictions and settings, kept up with the log and the store.

A thread follows the log's reward rows and outcomes into the store, and the store's deltas into the beliefs
that `choose` reads. It also notices new settings and models, new generations, and texts that expire.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace

from bandit_router.errors import (
    BanditRouterError,
    ClosedError,
    StaleGenerationError,
    StoreUnavailableError,
)
from bandit_router.evidence import Delta, Evidence
from bandit_router.log import EventLog
from bandit_router.log.checkpoints import read_checkpoint, write_checkpoint
from bandit_router.log.deciding import spent_since
from bandit_router.log.erasure import expire_texts
from bandit_router.log.folding import Fold, Lens, fold, spend_all, tail
from bandit_router.log.registration import Registration, versions
from bandit_router.log.writer import committed
from bandit_router.posterior import Beliefs
from bandit_router.store import PosteriorStore, Snapshot
from bandit_router.view import View, complete, find_registration, lens_of, load_features

logger = logging.getLogger(__name__)

POLL_S = 0.1  # how often the log is looked at without being asked
PAUSE_S = 1.0  # before it is looked at again after an error
TAIL_LIMIT = 2_000  # rows read at once
CHECKPOINT_EVERY = 5_000  # reward rows and outcomes
GROWTH = 0.05  # of the contributions: when the prior is chosen anew at once
RESTFUL_S = 0.2  # without news: when it is chosen anew anyway
RETENTION_S = 600.0  # how often texts are looked through for old ones, at the least
JOIN_TRIES = 100  # times that a fold is offered to a store where others are ahead


class Learner:
    """Keeps one router's beliefs up to date in this process.

    Parameters
    ----------
    log : EventLog
    store : PosteriorStore
    router : str
        A router that the log has.
    clock : callable
        Returns seconds since 1970.

    Attributes
    ----------
    view : View
    lock : Lock
        Held while beliefs or predictions change.
    reward_seq : int
        Reward rows of the log up to here are in the beliefs.
    """

    def __init__(
        self,
        log: EventLog,
        store: PosteriorStore,
        router: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lock = threading.Lock()
        self.view: View
        self._log, self._store, self._router, self._clock = log, store, router, clock
        self._asked = threading.Condition()
        self._waiting: list[Future[None]] = []
        self._closed = False
        self._news_at, self._expired_at = 0.0, -math.inf
        self._trouble = ""
        self._position: int | None = None
        self._reload()
        self._thread = threading.Thread(target=self._run, name="bandit-router-learner", daemon=True)
        self._thread.start()

    def summary(self, at: float) -> tuple[dict[str, tuple[float, float | None]], dict[str, float]]:
        """Return (n, mean reward) of every model as of `at` [s], and the prior that their sums choose."""
        with self.lock:
            beliefs = self.view.beliefs
            fit = beliefs.fit(at=at)
            sums = {model: _plain(e, at) for model, e in beliefs.evidence.items()}
        return sums, {name: float(value) for name, value in asdict(fit.prior).items()}

    def catch_up(self) -> Future[None]:
        """Ask for all that the log has now to be in the beliefs; the future is done when it is."""
        future: Future[None] = Future()
        with self._asked:
            if self._closed:
                raise ClosedError("the router was closed")
            self._waiting.append(future)
            self._asked.notify()
        return future

    def close(self) -> None:
        """Catch up once more, keep a checkpoint, and stop."""
        with self._asked:
            if self._closed:
                return
            self._closed = True
            self._asked.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._asked:
                if not self._waiting and not self._closed:
                    self._asked.wait(PAUSE_S if self._trouble else POLL_S)
                waiting, self._waiting = self._waiting, []
                closing = self._closed
            self._serve([future for future in waiting if future.set_running_or_notify_cancel()])
            if closing:
                self._leave()
                return

    def _serve(self, waiting: Sequence[Future[None]]) -> None:
        try:
            self._catch_up()
        except Exception as error:  # the thread must outlive whatever one step meets
            self._say(error)
            answer = error if isinstance(error, BanditRouterError) else BanditRouterError(self._trouble)
            for future in waiting:
                future.set_exception(answer)
            return
        for future in waiting:
            future.set_result(None)
        try:
            self._look_after()
            self._trouble = ""
        except Exception as error:  # as above
            self._say(error)

    def _say(self, error: Exception) -> None:
        """Tell of an error once, not at every look."""
        trouble, self._trouble = self._trouble, f"learning waits: {error}"
        if self._trouble != trouble:
            unforeseen = not isinstance(error, BanditRouterError)
            logger.warning("router %s: %s", self._router, self._trouble, exc_info=unforeseen)

    def _catch_up(self) -> None:
        for attempt in range(3):
            try:
                self._renew()
                self._follow()
                return
            except StaleGenerationError:  # another worker folded anew meanwhile: look again
                if attempt == 2:
                    raise

    def _look_after(self) -> None:
        """What can wait until nobody does: the prior, checkpoints, texts that expire."""
        self._refresh()
        if self._unsaved >= CHECKPOINT_EVERY:
            self._save()
        self._expire()

    def _renew(self) -> None:
        """Take over what was registered since, and fold again where that changes what counts."""
        current = self._log.read(lambda connection: versions(connection, self._router))
        old = self.view.registration
        if current == (old.revision, old.generation):
            return
        registration = find_registration(self._log, self._router)
        if registration.generation != old.generation:
            self._reload()
            return
        spent = self.view.spent
        if _budget(registration) != _budget(old):
            spent = self._spent(registration)
        with self.lock:
            for model in registration.known:
                if model not in self.view.beliefs.models:
                    self.view.beliefs.add_model(model)
            self.view = replace(self.view, registration=registration, spent=spent)

    def _reload(self) -> None:
        """Fold the log (its last checkpoint, or all of it, and the tail) into fresh beliefs."""
        for _ in range(JOIN_TRIES):
            registration = find_registration(self._log, self._router)
            features = load_features(self._log, registration.settings.features)
            lens = lens_of(registration, features)
            state = self._fold(lens, registration.generation)
            try:
                snapshot = self._join(lens, state, registration.generation)
                break
            except StaleGenerationError:
                time.sleep(0.02)  # another worker is ahead: look at the log again
        else:
            raise StoreUnavailableError(f"store: {self._router!r} is ahead of the log")
        beliefs = Beliefs(list(registration.known), lens.dim, half_life=lens.half_life_s)
        beliefs.replace(complete(snapshot, registration, lens), at=self._clock())
        self._position, self.reward_seq = snapshot.position, snapshot.complete
        self._outcome_seq, self._unsaved = state.outcome_seq, 0
        self.view = View(
            registration=registration,
            features=features,
            lens=lens,
            beliefs=beliefs,
            predictions=state.predictions,
            spent=self._spent(registration),
        )

    def _fold(self, lens: Lens, generation: int) -> Fold:
        with self._log.reading() as connection:
            state = read_checkpoint(connection, lens, generation) or fold(connection, lens)
            while True:
                news = tail(connection, lens, state.reward_seq, state.outcome_seq, limit=TAIL_LIMIT)
                _add(state, news.deltas, lens)
                spend_all(state.predictions, news.spendings)
                state.reward_seq, state.outcome_seq = news.reward_seq, news.outcome_seq
                if not news.more:
                    break
        if state.skipped:
            logger.warning(
                "router %s: %d rewards have features of another version and do not count",
                self._router,
                state.skipped,
            )
        return state

    def _join(self, lens: Lens, state: Fold, generation: int) -> Snapshot:
        """Share the fold, unless the store has this generation already."""
        found = self._store.read(self._router, generation=generation, after=None)
        if isinstance(found, Snapshot) and found.generation == generation:
            return found
        snapshot = Snapshot(
            generation=generation,
            position=0,
            complete=state.reward_seq,
            half_life_s=lens.half_life_s,
            evidence=state.evidence,
        )
        self._store.replace(self._router, snapshot)
        return snapshot

    def _spent(self, registration: Registration) -> tuple[int, float]:
        budget, since = _budget(registration)
        if budget is None:
            return 0, 0.0
        return self._log.read(lambda c: spent_since(c, registration.name, since or 0.0))

    def _follow(self) -> None:
        generation, lens = self.view.registration.generation, self.view.lens
        more = True
        while more:
            with self._log.reading() as connection:
                news = tail(connection, lens, self.reward_seq, self._outcome_seq, limit=TAIL_LIMIT)
            more = news.more
            fresh = news.reward_seq - self.reward_seq + news.outcome_seq - self._outcome_seq
            if fresh:
                self._store.append(
                    self._router, news.deltas, generation=generation, complete=news.reward_seq
                )
                with self.lock:
                    spend_all(self.view.predictions, news.spendings)
                self.reward_seq, self._outcome_seq = news.reward_seq, news.outcome_seq
                self._unsaved += fresh
                self._news_at = time.monotonic()
            self._learn(generation)

    def _learn(self, generation: int) -> None:
        found = self._store.read(self._router, generation=generation, after=self._position)
        if found is None:
            return
        self._position = None  # beliefs that stumble half-way begin again from a snapshot
        if isinstance(found, Snapshot):
            if found.generation != generation:
                raise StaleGenerationError(f"store: {self._router!r} was folded anew")
            beliefs = Beliefs(self.view.beliefs.models, self.view.lens.dim, half_life=found.half_life_s)
            beliefs.replace(complete(found, self.view.registration, self.view.lens), at=self._clock())
            self.view = replace(self.view, beliefs=beliefs)
        else:
            for delta in found.deltas:
                with self.lock:
                    self.view.beliefs.learn(delta.model, delta.observation)
        self._position = found.position

    def _refresh(self) -> None:
        """Choose the prior anew when there is much new evidence, or time to do it."""
        beliefs, now = self.view.beliefs, self._clock()
        total = sum(evidence.n * evidence.fading(now) for evidence in beliefs.evidence.values())
        half_life = self.view.lens.half_life_s
        faded = half_life is not None and now - beliefs.fitted_at > half_life / 50
        rested = beliefs.stale > 0 and time.monotonic() - self._news_at > RESTFUL_S
        if faded or rested or beliefs.stale > max(25.0, GROWTH * total):
            fit = beliefs.fit(at=now)
            with self.lock:
                beliefs.adopt(fit)

    def _expire(self) -> None:
        retention = self.view.registration.settings.text_retention
        if retention is None:
            return
        pause = min(RETENTION_S, max(retention.total_seconds() / 10, POLL_S))
        if time.monotonic() - self._expired_at < pause:
            return
        before = self._clock() - retention.total_seconds()
        committed(self._log.write(lambda connection: expire_texts(connection, self._router, before)))
        self._expired_at = time.monotonic()

    def _save(self) -> None:
        """Keep a checkpoint of what the store contains, and of the predictions beside it."""
        generation, lens, now = self.view.registration.generation, self.view.lens, self._clock()
        snapshot = self._store.read(self._router, generation=generation, after=None)
        if not isinstance(snapshot, Snapshot) or snapshot.generation != generation:
            return
        state = Fold(
            evidence=dict(snapshot.evidence),
            predictions=self.view.predictions,
            reward_seq=snapshot.complete,
            outcome_seq=self._outcome_seq,
        )
        committed(self._log.write(lambda c: write_checkpoint(c, lens, state, generation, now)))
        self._unsaved = 0

    def _leave(self) -> None:
        try:
            if self._unsaved:
                self._save()
        except BanditRouterError as error:
            logger.warning("router %s: no checkpoint at closing: %s", self._router, error)


def _plain(evidence: Evidence, at: float) -> tuple[float, float | None]:
    """Observations that count as of `at` [s], and their mean reward; what retractions left is none."""
    n = evidence.n * evidence.fading(at)
    return (n, float(evidence.b[0] / evidence.n)) if n > 1e-9 else (0.0, None)


def _add(state: Fold, deltas: Sequence[Delta], lens: Lens) -> None:
    for delta in deltas:
        evidence = state.evidence.setdefault(delta.model, Evidence(lens.dim, half_life=lens.half_life_s))
        evidence.add(delta.observation)


def _budget(registration: Registration) -> tuple[float | None, float | None]:
    return registration.settings.budget_usd_per_request, registration.settings.budget_since
