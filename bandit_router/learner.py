"""Learner: one worker's beliefs, predictions and settings, kept up with the log and the store.

A thread follows the log's reward rows and outcomes into the store, and the store's deltas into the beliefs
that `choose` reads. It also notices new settings and models, new generations, and texts that expire.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass

from bandit_router.errors import (
    BanditRouterError,
    ClosedError,
    FeaturesError,
    LogUnavailableError,
    StaleGenerationError,
)
from bandit_router.evidence import Evidence
from bandit_router.features import FeatureExtractor, FittedFeatures, features_from_spec
from bandit_router.log import EventLog
from bandit_router.log.checkpoints import read_checkpoint, write_checkpoint
from bandit_router.log.erasure import expire_texts
from bandit_router.log.folding import Fold, Lens, fold, spend_all, tail
from bandit_router.log.registration import Registration, find_extractor, read_registration, versions
from bandit_router.posterior import Beliefs
from bandit_router.predictions import Predictions
from bandit_router.store import Changes, PosteriorStore, Snapshot

logger = logging.getLogger(__name__)

POLL_S = 0.1  # how often the log is looked at without being asked
TAIL_LIMIT = 2_000  # rows read at once
CHECKPOINT_EVERY = 5_000  # reward rows and outcomes
GROWTH = 0.05  # of the contributions: when the prior is chosen anew at once
RESTFUL_S = 0.2  # without news: when it is chosen anew anyway
RETENTION_S = 600.0  # how often texts are looked through for old ones


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """What one `choose` sees: settings and features that belong together."""

    registration: Registration
    features: FeatureExtractor
    lens: Lens


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
    beliefs : Beliefs
        Read under `lock`.
    predictions : Predictions
        Read under `lock` too.
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
        self.beliefs: Beliefs
        self.predictions: Predictions
        self._log, self._store, self._router, self._clock = log, store, router, clock
        self._asked = threading.Condition()
        self._waiting: list[Future[None]] = []
        self._closed = False
        self._news_at = self._expired_at = 0.0
        self._reload()
        self._thread = threading.Thread(target=self._run, name="bandit-router-learner", daemon=True)
        self._thread.start()

    def summary(self, at: float) -> tuple[dict[str, tuple[float, float | None]], dict[str, float]]:
        """Return (n, mean reward) of every model as of `at` [s], and the prior that their sums choose."""
        with self.lock:
            fit = self.beliefs.fit(at=at)
            sums = {
                model: (e.n * e.fading(at), float(e.b[0] / e.n) if e.n > 1e-9 else None)
                for model, e in self.beliefs.evidence.items()
            }
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
                    self._asked.wait(POLL_S)
                waiting, self._waiting = self._waiting, []
                closing = self._closed
            self._serve(waiting)
            if closing:
                self._leave()
                return

    def _serve(self, waiting: list[Future[None]]) -> None:
        try:
            try:
                self._step()
            except StaleGenerationError:  # another worker folded anew meanwhile: look again
                self._step()
        except Exception as error:  # the thread must outlive whatever one step meets
            if not isinstance(error, BanditRouterError):
                logger.exception("router %s: learning stumbled", self._router)
            else:
                logger.warning("router %s: learning waits: %s", self._router, error)
            for future in waiting:
                future.set_exception(error)
            return
        for future in waiting:
            future.set_result(None)

    def _step(self) -> None:
        current = self._log.read(lambda connection: versions(connection, self._router))
        known = self.view.registration
        if current != (known.revision, known.generation):
            self._renew()
        self._follow()
        self._refresh()
        self._expire()

    def _renew(self) -> None:
        registration = _registration(self._log, self._router)
        old = self.view.registration
        if (
            registration.generation != old.generation
            or registration.settings.features != old.settings.features
        ):
            self._reload()
            return
        with self.lock:
            for model in registration.known:
                if model not in self.beliefs.models:
                    self.beliefs.add_model(model)
            self.view = View(registration=registration, features=self.view.features, lens=self.view.lens)

    def _reload(self) -> None:
        """Fold the log (its last checkpoint and the tail) into fresh beliefs."""
        while True:
            registration = _registration(self._log, self._router)
            features = load_features(self._log, registration.settings.features)
            lens = lens_of(registration, features)
            state = self._fold(lens, registration.generation)
            try:
                snapshot = self._join(lens, state, registration.generation)
                break
            except StaleGenerationError:
                time.sleep(0.01)  # another worker is ahead: look at the log again
        beliefs = Beliefs(list(registration.known), lens.dim, half_life=lens.half_life_s)
        beliefs.replace(_complete(snapshot, registration, lens), at=self._clock())
        with self.lock:
            self.view = View(registration=registration, features=features, lens=lens)
            self.beliefs, self.predictions = beliefs, state.predictions
        self._position, self._reward_seq = snapshot.position, snapshot.complete
        self._outcome_seq, self._unsaved = state.outcome_seq, 0

    def _fold(self, lens: Lens, generation: int) -> Fold:
        with self._log.reading() as connection:
            found = read_checkpoint(connection, lens, generation)
            state = fold(connection, lens) if found is None else found
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

    def _follow(self) -> None:
        generation, lens = self.view.registration.generation, self.view.lens
        while True:
            with self._log.reading() as connection:
                news = tail(connection, lens, self._reward_seq, self._outcome_seq, limit=TAIL_LIMIT)
            if (news.reward_seq, news.outcome_seq) != (self._reward_seq, self._outcome_seq):
                self._store.append(
                    self._router, news.deltas, generation=generation, complete=news.reward_seq
                )
                with self.lock:
                    spend_all(self.predictions, news.spendings)
                self._unsaved += (
                    news.reward_seq - self._reward_seq + news.outcome_seq - self._outcome_seq
                )
                self._reward_seq, self._outcome_seq = news.reward_seq, news.outcome_seq
                self._news_at = time.monotonic()
            self._learn(generation)
            if max(len(news.deltas), len(news.spendings)) < TAIL_LIMIT:
                break
        if self._unsaved >= CHECKPOINT_EVERY:
            self._save()

    def _learn(self, generation: int) -> None:
        found = self._store.read(self._router, generation=generation, after=self._position)
        if isinstance(found, Snapshot):
            if found.generation != generation:
                raise StaleGenerationError(f"store: {self._router!r} was folded anew")
            with self.lock:
                self.beliefs.replace(_complete(found, self.view.registration, self.view.lens))
        elif isinstance(found, Changes):
            for delta in found.deltas:
                with self.lock:
                    self.beliefs.learn(delta.model, delta.observation)
        if found is not None:
            self._position = found.position

    def _refresh(self) -> None:
        """Choose the prior anew when there is much new evidence, or time to do it."""
        stale, now = self.beliefs.stale, self._clock()
        total = sum(evidence.n for evidence in self.beliefs.evidence.values())
        half_life = self.view.lens.half_life_s
        faded = half_life is not None and now - self.beliefs.fitted_at > half_life / 50
        rested = stale > 0 and time.monotonic() - self._news_at > RESTFUL_S
        if faded or rested or stale > max(25.0, GROWTH * total):
            fit = self.beliefs.fit(at=now)
            with self.lock:
                self.beliefs.adopt(fit)

    def _expire(self) -> None:
        retention = self.view.registration.settings.text_retention
        if retention is None or time.monotonic() - self._expired_at < RETENTION_S:
            return
        before = self._clock() - retention.total_seconds()
        self._log.write(lambda connection: expire_texts(connection, self._router, before)).result()
        self._expired_at = time.monotonic()

    def _save(self) -> None:
        """Keep a checkpoint of what the store contains, and of the predictions beside it."""
        generation, lens, now = self.view.registration.generation, self.view.lens, self._clock()
        snapshot = self._store.read(self._router, generation=generation, after=None)
        if not isinstance(snapshot, Snapshot) or snapshot.generation != generation:
            return
        state = Fold(
            evidence=dict(snapshot.evidence),
            predictions=self.predictions,
            reward_seq=snapshot.complete,
            outcome_seq=self._outcome_seq,
        )
        self._log.write(lambda c: write_checkpoint(c, lens, state, generation, now)).result()
        self._unsaved = 0

    def _leave(self) -> None:
        try:
            if self._unsaved:
                self._save()
        except BanditRouterError as error:
            logger.warning("router %s: no checkpoint at closing: %s", self._router, error)
        with self._asked:
            for future in self._waiting:
                future.set_exception(ClosedError("the router was closed"))


def _complete(snapshot: Snapshot, registration: Registration, lens: Lens) -> dict[str, Evidence]:
    """The evidence of every model that is known, in the order of the models."""
    evidence = dict(snapshot.evidence)
    for model in registration.known:
        evidence.setdefault(model, Evidence(lens.dim, half_life=lens.half_life_s))
    return evidence


def lens_of(registration: Registration, features: FeatureExtractor) -> Lens:
    """Through what this router's beliefs look at the log."""
    return Lens(
        router=registration.name,
        dim=features.dim,
        features_version=features.version,
        half_life_s=registration.settings.half_life_s,
        born=registration.born,
    )


def load_features(log: EventLog, spec: str) -> FeatureExtractor:
    """Return the feature extractor that a SPEC names; fitted ones come from the log.

    Raises
    ------
    FeaturesError
        The log has no such artefact.
    """
    kind, _, version = spec.partition(":")
    if kind != "fitted":
        return features_from_spec(spec)
    artefact = log.read(lambda connection: find_extractor(connection, version))
    if artefact is None:
        raise FeaturesError(f"features: the log has no extractor {version!r}")
    return FittedFeatures.from_bytes(artefact)


def _registration(log: EventLog, router: str) -> Registration:
    found = log.read(lambda connection: read_registration(connection, router))
    if found is None:
        raise LogUnavailableError(f"log: it has no router {router!r} any more")
    return found
