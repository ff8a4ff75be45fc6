"""Learner: one worker's beliefs, predictions and settings, kept up with the log and the store.

One thread follows the log's reward rows and outcomes, and hands what is new to the store. Beliefs learn what
the store holds, so that all workers learn the same: after each look at the log and, where other processes
share the store, from a second thread that waits for it. The first also notices new settings and models, new
generations, feedback whose decision has appeared, and texts that expire.

Where the store is away, the last beliefs stay, and nobody waits: what the log has is applied later. What else
may be wrong with it, `SharedBook` sees to.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace

from bandit_router.errors import (
    BanditRouterError,
    FormatError,
    LogUnavailableError,
    StaleGenerationError,
    StoreUnavailableError,
)
from bandit_router.evidence import Delta, Evidence
from bandit_router.log import EventLog
from bandit_router.log.checkpoints import read_checkpoint, write_checkpoint
from bandit_router.log.deciding import spent_since
from bandit_router.log.erasure import expire_texts
from bandit_router.log.folding import Bill, Fold, Tail, fold, spend_all, tail
from bandit_router.log.following import Place, log_skew_s, settled
from bandit_router.log.lens import Lens
from bandit_router.log.pending import apply_pending, has_pending
from bandit_router.log.priors import read_prior
from bandit_router.log.registration import Registration, versions
from bandit_router.log.upkeep import Upkeep
from bandit_router.log.writer import committed
from bandit_router.posterior import Beliefs
from bandit_router.pulse import PAUSE_S, Pulse
from bandit_router.sharing import SharedBook, check_fit
from bandit_router.store import PosteriorStore, Snapshot
from bandit_router.tracing import span
from bandit_router.view import Extractors, Spent, View, complete, find_registration, lens_of

logger = logging.getLogger(__name__)

POLL_S = 0.1  # how often the log is looked at without being asked
SWEEP_S = 1.0  # how often words are looked through whose decisions were not visible yet
LISTEN_S = 0.5  # how long the store is waited for at once
TAIL_LIMIT = 2_000  # rows read at once
TAIL_LEAST = 100  # where the store takes too long for more
BILLS = 100_000  # of what requests cost, kept until somebody takes them
CHECKPOINT_EVERY = 5_000  # reward rows and outcomes
GROWTH = 0.05  # of the contributions: when the prior is chosen anew at once
RESTFUL_S = 0.2  # without news: when it is chosen anew anyway
RETENTION_S = 600.0  # how often texts are looked through for old ones, at the least
ALONE = -1  # the position of a worker whose store is away
JOIN_TRIES = 100  # times that a fold is offered to a store where others are ahead
REFOLD_S = 1.0  # how often a worker may fold for a store that loses what it is given, at the most
CLOCKS_S = 60.0  # how often clocks are compared
HELD_LIMIT = 100_000  # reward rows that may be remembered one by one before that is said to be wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a worker's learning is.

    Attributes
    ----------
    log, store, learning : str, optional
        What is wrong with each; None when nothing is.
    behind_s : float
        Since when the beliefs have not caught up with the log [s].
    observations : float
        How much the beliefs hold, of all models: the sum of all weights.
    mended : int
        How often this worker had to begin a new generation, for what the store held was damaged or ahead of
        the log.
    skipped : int
        Rewards since the last fold that do not count, for their features are of another version: `rebuild`
        brings them in.
    held_back : int
        Reward rows that are in the beliefs and must still be remembered one by one, for a transaction that
        could bring an earlier row has not ended.
    log_skew_s, store_skew_s : float, optional
        How far this worker's clock is ahead of the database's and the store's [s]; None where it has none.
    """

    log: str | None = None
    store: str | None = None
    learning: str | None = None
    behind_s: float = 0.0
    observations: float = 0.0
    mended: int = 0
    skipped: int = 0
    held_back: int = 0
    log_skew_s: float | None = None
    store_skew_s: float | None = None

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return self.log is None and self.store is None and self.learning is None


class Learner:
    """Keeps one router's beliefs up to date in this process.

    Parameters
    ----------
    log : EventLog
    store : PosteriorStore
    router : str
        A router that the log has.
    extractors : Extractors, optional
        Features that this process has already.
    clock : callable
        Returns seconds since 1970.

    Attributes
    ----------
    view : View
    lock : Lock
        Held while beliefs or predictions change.
    bills : deque of Bill
        What requests are known to have cost since, until somebody takes it.
    """

    def __init__(
        self,
        log: EventLog,
        store: PosteriorStore,
        router: str,
        *,
        extractors: Extractors | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.extractors = Extractors() if extractors is None else extractors
        self.lock = threading.Lock()
        self.view: View
        self._log, self._store, self._router, self._clock = log, store, router, clock
        self._book = SharedBook(log, store, router)
        self._upkeep = Upkeep(log)
        self._turn = threading.RLock()  # one thread at a time takes in what the store holds
        self.bills: deque[Bill] = deque(maxlen=BILLS)
        self._news_at = self._paid_at = 0.0
        self._expired_at, self._swept_at = -math.inf, -math.inf
        self._position: int | None = None
        self._rewards, self._outcomes = Place(), Place()
        self._limit = TAIL_LIMIT
        self._store_error: Exception | None = None
        self._skipped = 0
        self._skews: tuple[float | None, float | None] = (None, None)
        self._compared_at, self._folded_at = -math.inf, -math.inf
        self._closing = threading.Event()
        self._reload()
        self._pulse = Pulse(
            f"router {router}: learning",
            self._catch_up,
            rest=self._look_after,
            leave=self._leave,
            every_s=POLL_S,
        )
        self._listener = threading.Thread(target=self._listen, name="bandit-router-store", daemon=True)
        if store.shared:
            self._listener.start()

    @property
    def book(self) -> str:
        """Under what the store keeps these beliefs."""
        return self._book.name

    def summary(self, at: float) -> tuple[dict[str, tuple[float, float | None]], dict[str, float]]:
        """Return (n, mean reward) of every model as of `at` [s], and the prior that their sums choose.

        Beside it the power: what each observation counts that was known before.
        """
        with self.lock:
            beliefs = self.view.beliefs
            fit = beliefs.fit(at=at)
            sums = {model: _plain(e, at) for model, e in beliefs.evidence.items()}
        prior = {name: float(value) for name, value in asdict(fit.prior).items()}
        return sums, prior | {"power": fit.power}

    def catch_up(self) -> Future[None]:
        """Ask for all that the log has now to be in the beliefs; the future is done when it is.

        Where the store is known to be away or slow it fails at once, with `StoreUnavailableError`: this worker
        tries on by itself, and nobody needs to wait for that.
        """
        trouble = self._store_trouble()
        if trouble is None:
            return self._pulse.ask(patient=False)
        self._pulse.check()
        refused: Future[None] = Future()
        refused.set_exception(StoreUnavailableError(trouble))
        return refused

    def take_up(self) -> None:
        """Take up what was changed in the log: settings, models, a generation.

        Where the store is away, the beliefs are this worker's own fold until it is back.

        Raises
        ------
        LogUnavailableError
        """
        with suppress(StoreUnavailableError):
            committed(self._pulse.ask())

    def contains(self, reward_seq: int) -> bool:
        """Whether a reward row of the log is in the beliefs."""
        return reward_seq in self._rewards

    def health(self) -> Health:
        """Return how the learning is."""
        error, store = self._pulse.error or self._store_error, self._store_trouble()
        said = None if error is None else str(error) or type(error).__name__
        log = isinstance(error, LogUnavailableError)
        with self.lock:
            observations = sum(evidence.n for evidence in self.view.beliefs.evidence.values())
        held = len(self._rewards.seen)
        if said is None and held > HELD_LIMIT:
            said = f"{held} reward rows wait for a transaction of the log that does not end"
        return Health(
            log=said if log else None,
            store=store,
            learning=None if log or store else said,
            behind_s=max(0.0, time.monotonic() - self._pulse.done_at),
            observations=observations,
            mended=self._book.mended,
            skipped=self._skipped,
            held_back=held,
            log_skew_s=self._skews[0],
            store_skew_s=self._skews[1],
        )

    def _store_trouble(self) -> str | None:
        """Why nobody should wait for the store; None where it is well."""
        for error in (self._pulse.error, self._store_error):
            if isinstance(error, StoreUnavailableError | FormatError):
                return str(error)
        return self._book.trouble

    def close(self) -> None:
        """Catch up once more, keep a checkpoint, and stop; `join` when the store may be closed."""
        self._closing.set()
        self._pulse.close()

    def join(self) -> None:
        """Wait for the thread that listens to the store, which a closed store lets go at once."""
        if self._listener.is_alive():
            self._listener.join(2 * LISTEN_S)

    # -- what the first thread does -----------------------------------------------------------------

    def _catch_up(self) -> None:
        try:
            self._keep_up()
        except StoreUnavailableError:
            self._tidy()  # what needs no store goes on
            raise

    def _keep_up(self) -> None:
        for attempt in range(3):
            try:
                self._renew()
                self._follow()
                return
            except StaleGenerationError:  # another worker folded anew meanwhile, or the store forgot
                if attempt == 2:
                    raise
                self._fold_again()
            except FormatError:  # what the store holds is damaged
                if attempt == 2:
                    raise
                self._reload()

    def _fold_again(self) -> None:
        alone = self._position is None and self._store_error is not None
        if alone and time.monotonic() - self._folded_at < REFOLD_S:
            raise StoreUnavailableError(str(self._store_error))
        self._reload()

    def _look_after(self) -> None:
        """What can wait until nobody does: the prior, checkpoints, clocks, and what `_tidy` does."""
        self._refresh()
        if self._unsaved >= CHECKPOINT_EVERY:
            self._save()
        if self._tidy():
            self._follow()
        self._compare_clocks()

    def _tidy(self) -> bool:
        """Look after the log: words that wait, texts that expire; return whether there is news."""
        news = self._sweep()
        self._expire()
        self._upkeep.look()
        return news

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
        with self._turn, self.lock:
            for model in registration.known:
                if model not in self.view.beliefs.models:
                    self.view.beliefs.add_model(model)
            self.view = replace(self.view, registration=registration, spent=spent)

    def _reload(self) -> None:
        """Fold the log (its last checkpoint, or all of it, and the tail) into fresh beliefs."""
        for _ in range(JOIN_TRIES):
            registration = find_registration(self._log, self._router)
            self._book.name = registration.book
            features = self.extractors.find(self._log, registration.settings.features)
            lens = lens_of(registration, features)
            state = self._fold(lens, registration.generation)
            try:
                snapshot = self._join(lens, state, registration.generation)
                break
            except StaleGenerationError:
                time.sleep(0.02)  # the log has another generation by now: look at it again
        else:
            raise StoreUnavailableError(f"store: {self._router!r} is folded anew again and again")
        state.predictions.amounts.fit(at=self._clock())
        with self._turn:
            view = View(
                registration=registration,
                features=features,
                lens=lens,
                beliefs=Beliefs([], lens.dim, half_life=lens.half_life_s),
                predictions=state.predictions,
                spent=self._spent(registration),
                known=self._known(lens),
            )
            # Whoever decides meanwhile sees the old view, or a whole new one.
            self._begin(snapshot, view)
            self._outcomes, self._unsaved, self._skipped = state.outcomes, 0, state.skipped
            self._folded_at = time.monotonic()

    def _known(self, lens: Lens) -> dict[str, Evidence]:
        found = self._log.read(lambda connection: read_prior(connection, self._router))
        return {} if found is None else found.under(lens)

    def _fold(self, lens: Lens, generation: int) -> Fold:
        state = self._log.read(lambda connection: read_checkpoint(connection, lens, generation))
        if state is None:
            places = settled(self._log, self._router)
            state = self._log.read(lambda connection: fold(connection, lens, *places))
        more = True
        while more:
            news = self._tail(lens, state.rewards, state.outcomes)
            state.add(news, lens)
            more = news.more
        if state.skipped:
            logger.warning(
                "router %s: %d rewards have features of another version and do not count",
                self._router,
                state.skipped,
            )
        return state

    def _tail(self, lens: Lens, rewards: Place, outcomes: Place, limit: int = TAIL_LIMIT) -> Tail:
        with self._log.reading() as connection:
            return tail(connection, lens, rewards, outcomes, limit=limit)

    def _join(self, lens: Lens, state: Fold, generation: int) -> Snapshot:
        """Share the fold, unless the store has this generation already; go on alone where it is away."""
        own = Snapshot(
            generation=generation,
            position=0,
            complete=state.rewards.complete,
            half_life_s=lens.half_life_s,
            evidence=state.evidence,
            beyond=frozenset(state.keys),
        )
        try:
            return self._book.join(own, dim=lens.dim)
        except (StoreUnavailableError, FormatError) as error:
            self._store_error = error
            return replace(own, position=ALONE)

    def _spent(self, registration: Registration) -> Spent:
        (budget, since), now = _budget(registration), self._clock()
        if budget is None:
            return Spent()
        since = since or 0.0
        requests, usd = self._log.read(lambda c: spent_since(c, registration.name, since))
        return Spent(requests=requests, usd=usd, since=since, at=now)

    def _follow(self) -> None:
        """Hand what the log has to the store, and learn what that holds."""
        more = True
        while more:
            rewards, lens = self._rewards, self.view.lens
            news = self._tail(lens, rewards, self._outcomes, self._limit)
            with self.lock:
                spend_all(self.view.predictions, news.spendings)
            if news.spendings:
                self._paid_at = time.monotonic()
            self.bills.extend(news.bills)
            self._outcomes = news.places[1]
            self._unsaved += len(news.deltas) + len(news.spendings)
            # Most looks at the log find nothing, and are nothing to trace.
            step = span("learn", router=self._router, rewards=len(news.deltas))
            with self._turn, step if news.deltas else nullcontext():
                more = not self._hand_over(news, rewards) or news.more

    def _hand_over(self, news: Tail, since: Place) -> bool:
        """Return whether `news` is in the beliefs; else the log must be read again from an earlier place."""
        generation, place = self.view.registration.generation, news.places[0]
        if self._rewards is not since:
            return False
        if self._position is None or self._book.newer:  # what the store holds comes first
            self._learn()
            return False
        new = 0
        if news.deltas or place.complete > since.complete:
            self._limit = max(TAIL_LEAST, self._limit // 2)  # until it is known to have been taken
            with span("store append", deltas=len(news.deltas)) if news.deltas else nullcontext():
                new = self._book.append(
                    news.deltas, generation=generation, complete=place.complete, after=self._position
                )
        # Rows count as handed over only when the store gives them back: it may have lost them at once.
        taken = self._learn()
        if taken is None or sum(delta.key in taken for delta in news.deltas) < new:
            return False
        self._rewards = place
        self._limit = min(TAIL_LIMIT, 4 * self._limit)
        self._skipped += news.skipped
        return True

    # -- learning from the store ------------------------------------------------------------------

    def _listen(self) -> None:
        """What the second thread does: learn what other workers hand to the store, as it comes."""
        while not self._closing.is_set():
            try:
                position = ALONE if self._position is None else self._position
                if self._book.wait(after=position, timeout_s=LISTEN_S):
                    with self._turn, span("store read", router=self._router):
                        self._learn()
            except (StaleGenerationError, FormatError):
                self._closing.wait(POLL_S)  # the first thread sees to it
            except Exception as error:  # the thread must outlive whatever the store does
                if str(error) != str(self._store_error):
                    logger.warning("router %s: listening waits: %s", self._router, error)
                self._store_error = error
                self._pulse.refuse(error)
                self._closing.wait(PAUSE_S)

    def _learn(self) -> frozenset[int] | None:
        """Take in what the store holds; return the keys of what was new, None where it was a snapshot."""
        generation, after = self.view.registration.generation, self._position
        found = self._book.read(generation=generation, after=after)
        if found is None:
            raise StaleGenerationError(f"store: it holds nothing of {self._router!r}")
        if isinstance(found, Snapshot):
            if found.generation != generation:
                raise StaleGenerationError(f"store: {self._router!r} was folded anew")
            check_fit(found, self.view.lens.dim)
            self._begin(found, self.view)
            return None
        self._position = None  # beliefs that stumble half-way begin again from a snapshot
        for delta in found.deltas:
            self._take_in(delta)
        if found.deltas:
            self._news_at = time.monotonic()
        self._position, self._store_error = found.position, None
        return frozenset(delta.key for delta in found.deltas)

    def _take_in(self, delta: Delta) -> None:
        try:
            with self.lock:
                self.view.beliefs.learn(delta.model, delta.observation)
        except ValueError as error:  # read without a fault, and yet not of this router's features
            raise FormatError(f"store: delta {delta.key}: {error}") from error

    def _begin(self, snapshot: Snapshot, view: View) -> None:
        """Believe what a snapshot holds, and hand over again what the log has beyond it."""
        models, lens = list(view.registration.known), view.lens
        beliefs = Beliefs(models, lens.dim, half_life=snapshot.half_life_s, known=view.known)
        beliefs.replace(complete(snapshot, view.registration, view.lens), at=self._clock())
        self.view = replace(view, beliefs=beliefs)
        alone = snapshot.position == ALONE
        self._position = None if alone else snapshot.position
        self._store_error = self._store_error if alone else None
        self._rewards = Place(complete=snapshot.complete)

    # -- what can wait ----------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Choose the prior anew when there is much new evidence, or time to do it."""
        with self._turn:
            beliefs, now = self.view.beliefs, self._clock()
            total = sum(evidence.n * evidence.fading(now) for evidence in beliefs.evidence.values())
            half_life = self.view.lens.half_life_s
            faded = half_life is not None and now - beliefs.fitted_at > half_life / 50
            rested = beliefs.stale > 0 and time.monotonic() - self._news_at > RESTFUL_S
            if faded or rested or beliefs.stale > max(25.0, GROWTH * total):
                fit = beliefs.fit(at=now)
                with self.lock:
                    beliefs.adopt(fit)
        self._refit_amounts(now)

    def _refit_amounts(self, now: float) -> None:
        amounts = self.view.predictions.amounts
        rested = amounts.news > 0 and time.monotonic() - self._paid_at > RESTFUL_S
        if rested or amounts.stale(at=now):
            shapes = amounts.shapes(at=now)
            with self.lock:
                amounts.adopt(shapes)

    def _sweep(self) -> bool:
        """Apply the words whose decisions have appeared, and see that the log has what was read of it."""
        if time.monotonic() - self._swept_at < SWEEP_S:
            return False
        self._swept_at = time.monotonic()
        generation = self.view.registration.generation
        self._book.check(self._rewards, self._outcomes, generation=generation)
        if not self._log.read(lambda connection: has_pending(connection, self._router)):
            return False
        settings, now = self.view.registration.settings, self._clock()
        metrics, limit = settings.metrics, settings.rater_limit
        job = self._log.write(lambda c: apply_pending(c, self._router, metrics, now, limit))
        return committed(job) > 0

    def _compare_clocks(self) -> None:
        if time.monotonic() - self._compared_at < CLOCKS_S:
            return
        self._compared_at = time.monotonic()
        compare = getattr(
            self._store, "skew_s", None
        )  # a store without a server has no clock of its own
        store = None if compare is None else compare(self._clock)
        self._skews = (log_skew_s(self._log, self._clock), store)

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
        snapshot = self._book.read(generation=generation, after=None)
        if not isinstance(snapshot, Snapshot) or snapshot.generation != generation:
            return
        state = Fold(
            evidence=dict(snapshot.evidence),
            predictions=self.view.predictions.copy(),  # others come before the writer gets to it
            rewards=Place(complete=snapshot.complete),
            outcomes=self._outcomes,
            keys=set(snapshot.beyond),
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


def _budget(registration: Registration) -> tuple[float | None, float | None]:
    return registration.settings.budget_usd_per_request, registration.settings.budget_since
