"""Router: choose, report, feedback, rebuild. The shell that walks the pure core."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy import Connection

from bandit_router import noticing
from bandit_router.asking import (
    ChooseArguments,
    FeedbackArguments,
    Messages,
    hash_of,
    read_comparison,
    read_request,
    read_word,
)
from bandit_router.decider import Seen
from bandit_router.drift import KEEP, Drift
from bandit_router.embeddings import EmbeddedFeatures
from bandit_router.errors import (
    BanditRouterError,
    ClosedError,
    LogUnavailableError,
    SettingsError,
    StaleGenerationError,
    UnknownModelError,
)
from bandit_router.events import Decision, Feedback, FeedbackValue, Model, Outcome
from bandit_router.evidence import Evidence
from bandit_router.features import FeatureExtractor, FittedFeatures
from bandit_router.learner import Health
from bandit_router.log import EventLog, pending, registration
from bandit_router.log.comparing import compare
from bandit_router.log.deciding import (
    Story,
    Turn,
    decision_rows,
    find_turn,
    last_changes,
    read_prompts,
    read_story,
)
from bandit_router.log.erasure import Forgotten, forget_user
from bandit_router.log.finding import find_feedback
from bandit_router.log.forgotten import hash_user
from bandit_router.log.hearing import Reported
from bandit_router.log.overlaps import Answer, read_answers, read_outdated, reweigh
from bandit_router.log.patience import Patience, remaining, within
from bandit_router.log.priors import Known, drop_prior, read_prior, write_prior
from bandit_router.log.recording import Draft, find_kept, keep, record, rescue
from bandit_router.log.writer import acommitted, committed
from bandit_router.opening import SettingsArguments, bring, configure_router, register
from bandit_router.prompt import Prompt
from bandit_router.pseudonyms import Pseudonyms
from bandit_router.rebuilding import Rebuilt, faded, rebuild
from bandit_router.request import Request
from bandit_router.rewards import Channel
from bandit_router.rewriting import erase_archived
from bandit_router.settings import Settings
from bandit_router.store import PosteriorStore, open_store
from bandit_router.values import check_count, check_name, check_time, check_unit, clean_text, utc
from bandit_router.view import Extractors
from bandit_router.worker import Plan, Worker

logger = logging.getLogger(__name__)
ARCHIVE_S = 2.0  # how long a run that changes archives is waited for
FORGET_TRIES = 10
REWEIGHED = 500  # decisions looked at in one reading
REWEIGHED_AT_ONCE = 100  # decisions revised in one transaction
SWEEPS = 3
REOPEN_S = 1.0  # between two tries of a forked process to open a log that is away


class Router:
    """Picks a model for every request, and learns from what is said about the answers.

    Made by `Router.open`. All methods are safe from many threads; many processes may open the same router
    over one log; a fork is noticed, and the child opens connections and threads of its own.

    Examples
    --------
    >>> models = [Model("small", output_usd_per_mtok=0.6), Model("large", output_usd_per_mtok=10.0)]
    >>> with Router.open("sqlite://", models=models) as router:
    ...     decision = router.choose("Explain quantum computing")
    ...     reported = router.report(decision.id, Outcome(output_tokens=240, latency_s=1.9))
    ...     heard = router.feedback(decision.id, "thumb", True, source="user:42")
    >>> heard.applied, heard.reward.value, decision.model in ("small", "large")
    (True, 1.0, True)
    """

    def __init__(self, worker: Worker, *, durable: bool) -> None:
        self._worker, self._durable, self._closed = worker, durable, False
        self._gate, self._again_at = threading.Lock(), -math.inf
        _routers.add(self)

    @classmethod
    def open(
        cls,
        log: str,
        *,
        store: str | PosteriorStore = "memory://",
        name: str = "default",
        models: Sequence[Model] = (),
        durable: bool = True,
        seed: int | None = None,
        worker: int | None = None,
        apply: bool = False,
        create: bool = True,
        migrate: bool | None = None,
        user_key: bytes | None = None,
        log_timeout_s: float = 5.0,
        journal: str | Path | None = None,
        journal_bytes: int = 64 * 1024 * 1024,
        **settings: Unpack[SettingsArguments],
    ) -> Router:
        """Open a router, and make it if the log has none of that name.

        Parameters
        ----------
        log : str
            Any SQLAlchemy URL; ``sqlite:///file.db`` is the embedded default.
        store : str or PosteriorStore
            ``memory://``.
        name : str
            A named router has models and beliefs of its own.
        models : sequence of Model
        durable : bool
            `choose` returns when the decision is committed; False: at hand-off to the writer, so that
            `decision` may not find it yet.
        seed : int, optional
            Mixed with the worker's identity.
        worker : int, optional
            That identity; by default the process's own. Give it to draw alike in every run.
        apply : bool
            Models and settings kept in the log win over these arguments, unless `apply` is True: then
            these are put into the log, and models that are not among them are retired.
        create : bool
            False: refuse a router that the log does not have, instead of making it.
        migrate : bool, optional
            Bring the log's schema up to date; by default only an embedded one's.
        user_key : bytes, optional
            Users and sources of feedback are kept as hashes by this key (`Pseudonyms`), never by name;
            conversations, tags and idempotency keys stay as they are given. All workers need the same.
        log_timeout_s : float
            How long a request waits for the log, all in all [s]. Then, or while the log is away, `choose`
            keeps its decision in the journal and goes on (reason "degraded"); the rest raises.
        journal : str or Path, optional
            The folder where such decisions wait until the log takes them; made when it is first needed. By
            default ``chat.db.journal`` beside a log ``chat.db``, for PostgreSQL one in
            ``$XDG_STATE_HOME/bandit-router``. Not for other users' eyes: it holds what the log would.
        journal_bytes : int
            How much may wait there, of all processes together; then `choose` raises too.
        **settings
            As `Settings`: policy, preference, cost_unit_usd, budget_usd_per_request, half_life, ...

        Raises
        ------
        SettingsError
            A bad setting.
        LogUnavailableError, LogVersionError
            The log cannot be reached, or is of another version.
        """
        check_name("name", name)
        if isinstance(store, str):
            open_store(store).close()  # a bad URL is refused before anything is made
        elif not all(
            callable(getattr(store, verb, None)) for verb in ("append", "read", "replace", "close")
        ):
            raise TypeError(f"store: expected a URL or a PosteriorStore, got {type(store).__name__}")
        for flag, value in {"durable": durable, "apply": apply, "create": create}.items():
            if not isinstance(value, bool):
                raise TypeError(f"{flag}: expected True or False, got {type(value).__name__}")
        numbers = {
            "seed": None if seed is None else check_count("seed", seed),
            "worker": None if worker is None else check_count("worker", worker),
        }
        pseudonyms = None if user_key is None else Pseudonyms(user_key)
        patience = Patience(timeout_s=log_timeout_s, journal=journal, journal_bytes=journal_bytes)
        events = EventLog.open(log, migrate=migrate, create=create, patience=patience)
        try:
            extractors, now = Extractors(), time.time()
            if "features" in settings:
                bring(events, name, settings["features"], extractors, apply=apply)
            register(events, name, models, settings, apply=apply, create=create, now=now)
            plan = Plan(url=events.url, store=store, router=name, clock=time.time, seed=numbers["seed"])
            plan = replace(plan, pseudonyms=pseudonyms, patience=patience, extractors=extractors)
            if numbers["worker"] is not None:
                plan = replace(plan, identity=(numbers["worker"],))
            return cls(Worker(plan, events), durable=durable)
        except BaseException:
            events.close()
            raise

    def __repr__(self) -> str:
        return f"<Router {self._worker.plan.router!r} on {self._worker.log!r}>"

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Router:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """Commit what waits, keep a checkpoint, and stop. A closed router refuses everything else."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        if self._worker.pid == os.getpid():
            self._worker.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    # -- the loop ---------------------------------------------------------------------------------

    def choose(self, prompt: Messages | None = None, **options: Unpack[ChooseArguments]) -> Decision:
        """Pick a model for a request.

        Parameters
        ----------
        prompt : str or list of messages, optional
            Not needed where `features` are given.
        **options
            As `Request`: models, preference, max_cost_usd, max_tokens, user, conversation, tags, key,
            features.

        Raises
        ------
        NoEligibleModelError
            Caps and subsets leave no model.
        ConflictError
            The same `key` came with another body.
        LogUnavailableError
            The decision could not be made durable: the log is away, and the journal full or not writable.
        TypeError, ValueError
            A malformed argument.
        """
        worker = self._here()
        request = read_request(prompt, options, pseudonyms=worker.plan.pseudonyms)
        seen = worker.decider.look(request)
        with within(worker.log.patience.timeout_s):
            draft = _draft(worker, request, seen, *_recall(worker, request))
            try:
                recorded = self._record(worker, draft)
                if isinstance(recorded, Decision):
                    return recorded
                return _accepted(worker, worker.log.result(recorded) or draft.decision)
            except LogUnavailableError as error:
                return _accepted(worker, keep(worker.log, draft, error))

    async def achoose(
        self, prompt: Messages | None = None, **options: Unpack[ChooseArguments]
    ) -> Decision:
        """As `choose`, without blocking the event loop."""
        worker = self._here()
        request = read_request(prompt, options, pseudonyms=worker.plan.pseudonyms)
        seen = await worker.decider.alook(request)
        with within(worker.log.patience.timeout_s):
            draft = _draft(worker, request, seen, *await _arecall(worker, request))
            try:
                recorded = self._record(worker, draft)
                if isinstance(recorded, Decision):
                    return recorded
                return _accepted(worker, await worker.log.aresult(recorded) or draft.decision)
            except LogUnavailableError as error:
                # A write to memory of the system, which takes no longer than a hop to another thread.
                return _accepted(worker, keep(worker.log, draft, error))

    def _record(
        self, worker: Worker, draft: Draft
    ) -> Future[Any] | Decision:  # Any: the decision recorded under a key before, else None
        """Begin to record a decision; return the one to answer with where nobody waits for that."""
        earlier = find_kept(worker.log, draft)
        if earlier is not None:
            return earlier
        recorded = record(worker.log, draft)
        if self._durable or draft.decision.key is not None:  # a key's first answer must be waited for
            return recorded
        recorded.add_done_callback(lambda done: rescue(worker.log, draft, done))
        return _accepted(worker, draft.decision)

    def report(self, decision_id: str, outcome: Outcome, *, answer: str | None = None) -> Reported:
        """Tell how the call went; a second, different outcome replaces the first.

        Raises
        ------
        UnknownDecisionError
            No such decision in this router.
        UnknownModelError
            `outcome.model` is not one of the router's.
        LogUnavailableError
            It could not be made durable.
        """
        worker = self._here()
        reported = worker.log.result(self._report(worker, decision_id, outcome, answer))
        worker.decider.paid(decision_id, reported.cost_usd)
        return reported

    async def areport(
        self, decision_id: str, outcome: Outcome, *, answer: str | None = None
    ) -> Reported:
        """As `report`, without blocking the event loop."""
        worker = self._here()
        reported = await worker.log.aresult(self._report(worker, decision_id, outcome, answer))
        worker.decider.paid(decision_id, reported.cost_usd)
        return reported

    def _report(
        self, worker: Worker, decision_id: str, outcome: Outcome, answer: str | None
    ) -> Future[Reported]:
        check_name("decision_id", decision_id)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"outcome: expected an Outcome, got {type(outcome).__name__}")
        text = None if answer is None else clean_text("answer", answer)
        known = worker.learner.view.registration
        if outcome.model is not None and outcome.model not in known.known:
            raise UnknownModelError(f"no model {outcome.model!r} in router {known.name!r}")
        return worker.log.write(
            lambda c: pending.report(
                c,
                known.name,
                decision_id,
                outcome,
                answer=text if known.settings.text == "full" else None,
                models=known.known,
                metrics=known.settings.metrics,
                now=worker.plan.clock(),
            ),
            of=decision_id,
        )

    def feedback(
        self,
        decision_id: str | None,
        name: str,
        value: FeedbackValue,
        **options: Unpack[FeedbackArguments],
    ) -> Feedback:
        """Hear one word about a decision; it is in the beliefs when this returns (`applied`).

        A word may come before its decision is visible here, when another worker has just made that: it is
        kept (`pending`) and applied by itself when the decision appears, which it has a day for.

        Parameters
        ----------
        decision_id : str or None
            None: the word is about a conversation.
        name : str
            "thumb" (a bool), "rating" and "judge" (0 to 1), "comment" (a text), or a metric of the
            router's settings.
        value : bool, float, str or None
            None revokes what the same source said under the same name.
        **options
            ``source``: who says so; by default the decision's user, else ``anonymous:<decision id>``.
            ``key``: idempotency key, unique per decision. ``comment``: a text. ``at``: when it was said
            (datetime, seconds since 1970, or RFC 3339); the latest word of a source wins, whenever it
            arrives. ``conversation``: instead of `decision_id`, the conversation whose draw this is about:
            the decision that its latest turn repeats. Its keys are unique in all of it. ``channel``: the
            credential through which many sources speak, and what they may count for together (`Channel`).

        Raises
        ------
        UnknownDecisionError
            No such decision or conversation in this router, and the decision's id is not one of the last
            15 minutes.
        ConflictError
            The same key came with another body.
        LogUnavailableError
            It could not be made durable; nothing was counted.
        TypeError, ValueError
            A malformed argument.
        """
        worker = self._here()
        with within(worker.log.patience.timeout_s):
            return _applied(
                worker, worker.log.result(self._hear(worker, decision_id, name, value, options))
            )

    async def afeedback(
        self,
        decision_id: str | None,
        name: str,
        value: FeedbackValue,
        **options: Unpack[FeedbackArguments],
    ) -> Feedback:
        """As `feedback`, without blocking the event loop."""
        worker = self._here()
        with within(worker.log.patience.timeout_s):
            heard = await worker.log.aresult(self._hear(worker, decision_id, name, value, options))
            return await _aapplied(worker, heard)

    def _hear(
        self,
        worker: Worker,
        decision_id: str | None,
        name: str,
        value: FeedbackValue,
        options: Mapping[str, Any],  # of each option's own type
    ) -> Future[Feedback]:
        known, now = worker.learner.view.registration, round(worker.plan.clock(), 6)
        metrics = known.settings.metrics
        people = worker.plan.pseudonyms
        word = read_word(decision_id, name, value, options, metrics=metrics, now=now, pseudonyms=people)
        of = word.decision_id or f"conversation {word.conversation}"
        limit = known.settings.rater_limit
        return worker.log.write(lambda c: pending.hear(c, known.name, word, metrics, limit), of=of)

    def compare(
        self, winner: str, loser: str, *, tie: bool = False, **options: Unpack[FeedbackArguments]
    ) -> tuple[Feedback, Feedback]:
        """Hear that one of two answers to the same question is the better one.

        Each side becomes a word named "vote" about its decision, worth half an observation; both are
        recorded, or neither. They move the two models against each other, and not both up or down
        (`rewards.verdict`). A source that compares an answer again replaces what it said about it before;
        each side is retracted by its own id.

        Parameters
        ----------
        winner, loser : str
            Decisions of this router.
        tie : bool
            Neither is better.
        **options
            As in `feedback`, but for ``conversation``; a ``key`` holds for both.

        Returns
        -------
        winner, loser : Feedback

        Raises
        ------
        UnknownDecisionError, ConflictError, LogUnavailableError
            As in `feedback`; a decision that is not visible yet is asked for again later.
        TypeError, ValueError
            A malformed argument, or twice the same decision.
        """
        worker = self._here()
        with within(worker.log.patience.timeout_s):
            first, second = worker.log.result(self._compare(worker, winner, loser, tie, options))
            return _applied(worker, first), _applied(worker, second)

    async def acompare(
        self, winner: str, loser: str, *, tie: bool = False, **options: Unpack[FeedbackArguments]
    ) -> tuple[Feedback, Feedback]:
        """As `compare`, without blocking the event loop."""
        worker = self._here()
        with within(worker.log.patience.timeout_s):
            both = await worker.log.aresult(self._compare(worker, winner, loser, tie, options))
            return await _aapplied(worker, both[0]), await _aapplied(worker, both[1])

    def _compare(
        self,
        worker: Worker,
        winner: str,
        loser: str,
        tie: bool,
        options: Mapping[str, Any],  # of each option's own type
    ) -> Future[tuple[Feedback, Feedback]]:
        known, now = worker.learner.view.registration, round(worker.plan.clock(), 6)
        metrics, limit = known.settings.metrics, known.settings.rater_limit
        people = worker.plan.pseudonyms
        said = read_comparison(winner, loser, tie, options, metrics=metrics, now=now, pseudonyms=people)
        return worker.log.write(lambda c: compare(c, known.name, said, metrics, limit), of=winner)

    def retract(self, feedback_id: str, *, channel: Channel | None = None) -> Feedback:
        """Take one word back: its evidence is subtracted, and nothing said before it returns.

        Parameters
        ----------
        feedback_id : str
        channel : Channel, optional
            The credential through which it is taken back; what was said elsewhere uses up its influence.

        Raises
        ------
        UnknownFeedbackError
            No such feedback in this router.
        ConflictError
            The channel has used up what it may count for.
        """
        check_name("feedback_id", feedback_id)
        worker = self._here()
        known, now = worker.learner.view.registration, worker.plan.clock()
        job = worker.log.write(
            lambda c: pending.retract(c, known.name, feedback_id, known.settings.metrics, now, channel)
        )
        with within(worker.log.patience.timeout_s):
            return _applied(worker, worker.log.result(job))

    def find_feedback(self, feedback_id: str) -> Feedback:
        """Return one word as it was recorded.

        Raises
        ------
        UnknownFeedbackError
            No such feedback in this router.
        """
        check_name("feedback_id", feedback_id)
        worker = self._here()
        return worker.log.ask(lambda c: find_feedback(c, worker.plan.router, feedback_id))

    def kept_as(self, name: str) -> str:
        """Return what a user or a source is kept as: a hash, where this router was opened with a `user_key`."""
        people = self._here().plan.pseudonyms
        return name if people is None else str(people.of(name))

    def forget_user(self, user: str) -> Forgotten:
        """Erase a user: the decisions made for them, their words about others', and what was learnt from both.

        Where users are kept as hashes, give the name: what was kept before under the name goes too. A hash is
        no name here, lest one who is called like another's hash erases that other.

        Returns
        -------
        Forgotten
            How many rows of each kind were erased, and how many archives are still to be looked through, for
            their files are out of reach from here: the next `bandit-router retention` that sees them does.
        """
        check_name("user", user)
        worker = self._here()
        people = worker.plan.pseudonyms
        names = (user,) if people is None else people.all_of(user)
        return sum((self._forget(worker, name) for name in names), start=Forgotten())

    def _forget(self, worker: Worker, user: str) -> Forgotten:
        for _ in range(FORGET_TRIES):
            try:
                forgotten = committed(worker.log.write(_forgetting(worker, user)))
                break
            except StaleGenerationError:  # another worker folded anew meanwhile: take that up first
                worker.learner.take_up()
        else:
            raise LogUnavailableError(
                "log: the router was folded anew too often while a user was erased"
            )
        worker.learner.take_up()
        if forgotten.archives_pending:
            forgotten = replace(forgotten, archives_pending=0) + self._reach(worker, user)
        return forgotten

    def _reach(self, worker: Worker, user: str) -> Forgotten:
        """Erase a user from the archives whose files can be reached from here."""
        of = {hash_user(worker.plan.router, user)}
        erased = erase_archived(worker.log, now=worker.plan.clock(), of=of, patience_s=ARCHIVE_S)
        worker.learner.take_up()
        return erased

    def decision(self, decision_id: str) -> Story:
        """Return the whole story of a decision: candidates, prompt, outcome, feedback, reward.

        Raises
        ------
        UnknownDecisionError
            No such decision in this router.
        """
        check_name("decision_id", decision_id)
        worker = self._here()
        story = worker.log.ask(lambda c: read_story(c, worker.plan.router, decision_id))
        applied = worker.learner.contains(story.reward_seq)
        said = tuple(replace(s, feedback=replace(s.feedback, applied=applied)) for s in story.feedback)
        retention = worker.learner.view.registration.settings.text_retention
        if retention and story.decision.at < worker.plan.clock() - retention.total_seconds():
            return replace(story, feedback=said, prompt=None, answer=None)  # expired, if not yet erased
        return replace(story, feedback=said)

    # -- models, settings, beliefs ----------------------------------------------------------------

    @property
    def name(self) -> str:
        """The router's name."""
        return self._worker.plan.router

    @property
    def log(self) -> EventLog:
        """The log that this process has open: for what is kept beside the loop."""
        return self._here().log

    @property
    def settings(self) -> Settings:
        """The settings as this worker knows them."""
        return self._here().learner.view.registration.settings

    @property
    def models(self) -> tuple[Model, ...]:
        """The models to choose from, as this worker knows them."""
        return self._here().learner.view.registration.models

    @property
    def known_models(self) -> dict[str, Model]:
        """All models by name, retired ones too, as this worker knows them."""
        return self._here().learner.view.registration.known

    def put_model(self, model: Model, *, reset: bool = False) -> None:
        """Add a model, change it, or resume a retired one; with `reset` it starts without its evidence."""
        if not isinstance(model, Model):
            raise TypeError(f"model: expected a Model, got {type(model).__name__}")
        since = self._here().plan.clock() if reset else None
        self._change(lambda c, name: registration.put_model(c, name, model, reset=since))

    def retire_model(self, name: str) -> None:
        """Take a model out of the choice; it keeps its evidence.

        Raises
        ------
        UnknownModelError
            No such active model.
        """
        check_name("model", name)

        def job(connection: Connection, router: str) -> None:
            if not registration.retire_model(connection, router, name):
                raise UnknownModelError(f"no active model {name!r} in router {router!r}")

        self._change(job)

    def configure(self, **settings: Unpack[SettingsArguments]) -> Settings:
        """Change settings, live on every worker; what is not named stays.

        A new half-life folds the beliefs again; other features go through `rebuild`.

        Raises
        ------
        SettingsError
            No such setting, or a bad value.
        ArchiveError
            A new half-life, and archived decisions whose files are out of reach; the message counts them.
        """
        worker = self._here()
        now = worker.plan.clock()
        if "features" in settings:
            worker.learner.extractors.find(worker.log, settings["features"])
        with faded(worker.log, worker.plan.router, settings) as others:
            self._change(lambda c, name: configure_router(c, name, settings, now, others))
        return self.settings

    def _change(self, job: Callable[[Connection, str], object]) -> None:
        worker = self._here()
        committed(worker.log.write(lambda c: job(c, worker.plan.router)))
        worker.learner.take_up()

    def rebuild(
        self, features: str | FeatureExtractor | None = None, *, textless: str = "refuse"
    ) -> Rebuilt:
        """Fold the beliefs again from the log, on every worker; with other features, encode the log again.

        Parameters
        ----------
        features : str or FeatureExtractor, optional
            A SPEC, or an extractor such as `FittedFeatures.fit(...)`, which the log then keeps.
        textless : {"refuse", "mean"}
            What becomes of decisions whose text was not kept: refuse to change the features, or let only
            each model's plain mean survive of them.

        Raises
        ------
        FeaturesError
            Decisions without text stand in the way; the message counts them.
        """
        worker = self._here()
        return rebuild(worker.log, worker.learner, features, textless=textless, now=worker.plan.clock())

    def record_drift(
        self,
        model: str,
        *,
        factor: float = KEEP,
        at: datetime | float | str | None = None,
        why: str | None = None,
    ) -> Drift:
        """Write down that a model has changed: what was learnt of it before counts less, on every worker.

        What is said later about decisions of before counts less too. It folds the beliefs again.

        Parameters
        ----------
        model : str
            Of this router; it may be retired.
        factor : float
            What earlier evidence is multiplied by, in (0, 1].
        at : datetime, float or str, optional
            When it changed (seconds since 1970, or RFC 3339); by default now.
        why : str, optional
            In words.

        Raises
        ------
        UnknownModelError
            No such model.
        ConflictError
            A change of this model at that moment is known.
        ValueError
            A factor out of range, or a moment in the future.
        ArchiveError
            The moment lies within archived decisions whose files are out of reach.
        """
        check_name("model", model)
        worker = self._here()
        now = round(worker.plan.clock(), 6)
        drift = Drift(
            model=model,
            at=check_time("at", at, now),
            factor=check_unit("factor", factor),
            why=None if why is None else clean_text("why", why, 1_000),
            created=now,
        )
        if drift.factor == 0:
            raise ValueError("factor: expected a number above 0; put_model(reset=True) forgets all")
        if drift.at > now:
            raise ValueError(f"at: expected no moment in the future, got {utc(drift.at).isoformat()}")
        recorded = noticing.record(worker.log, worker.learner, drift)
        assert recorded is not None
        return recorded

    def find_drift(self) -> list[Drift]:
        """Look in the newest rewards for models that have changed; record the changes, and return them.

        Rewards are compared with what was promised (`drift.Surprises`). A model that changed fades, until it
        has been tried often enough again, so that one that fell out of favour is tried again. Call it now and
        then; the service does. Of two who look at once one records what is found.
        """
        worker = self._here()
        return noticing.find(worker.log, worker.learner, now=round(worker.plan.clock(), 6))

    def answers(self, *, newest: int = 20_000) -> list[Answer]:
        """Return the newest answers that somebody said something about, with all that is said at present."""
        worker, most = self._here(), check_count("newest", newest)
        return worker.log.read(lambda c: read_answers(c, worker.plan.router, newest=most))

    def reweigh(self) -> int:
        """Make the rewards of all decisions anew by the settings' metrics; return how many became other.

        After a change of weights or trust: what was heard before then counts by the new ones too. It writes
        revisions, in batches, which every worker takes in by itself; one that dies in between is repeated,
        and changes nothing twice. What was archived stays as it is.
        """
        worker = self._here()
        worker.learner.take_up()
        revised = 0
        for _ in range(
            SWEEPS
        ):  # a worker that does not know the new metrics yet may still use the old ones
            more = self._sweep(worker)
            revised += more
            if not more:
                break
        worker.learner.take_up()
        return revised

    def _sweep(self, worker: Worker) -> int:
        name, metrics = worker.plan.router, worker.learner.view.registration.settings.metrics
        revised, after, more = 0, "", True
        while more:
            look = partial(read_outdated, router=name, metrics=metrics, after=after, limit=REWEIGHED)
            page = worker.log.read(look)
            for start in range(0, len(page.ids), REWEIGHED_AT_ONCE):
                some = page.ids[start : start + REWEIGHED_AT_ONCE]
                now = worker.plan.clock()
                job = partial(reweigh, router=name, ids=some, metrics=metrics, now=now)
                revised += committed(worker.log.write(job))
            after, more = page.last, page.more
        return revised

    def fit_features(self, *, components: int = 48, newest: int = 20_000) -> FittedFeatures:
        """Fit features (TF-IDF, then SVD) to the prompts that the log has kept; `rebuild` takes them up.

        Parameters
        ----------
        components : int
            Dimensions of the text part.
        newest : int
            How many of the latest prompts are looked at.

        Raises
        ------
        FeaturesError
            Too few prompts, or scikit-learn is missing.
        """
        worker = self._here()
        kept = worker.log.read(lambda c: read_prompts(c, worker.plan.router, newest=newest))
        return FittedFeatures.fit([Prompt.of(prompt) for _, prompt in kept], components=components)

    def fit_embeddings(
        self, features: str | EmbeddedFeatures, *, newest: int = 2_000
    ) -> EmbeddedFeatures:
        """Fit the projection of embeddings to the prompts that the log has kept; `rebuild` takes them up.

        Parameters
        ----------
        features : str or EmbeddedFeatures
            Whose embeddings, and how many components.
        newest : int
            How many of the latest prompts are embedded.

        Raises
        ------
        FeaturesError
            Too few prompts, or what embeds them cannot be had here.
        EmbeddingsUnavailableError
            The embeddings do not come.
        """
        worker = self._here()
        found = worker.learner.extractors.find(worker.log, features)
        if not isinstance(found, EmbeddedFeatures):
            raise SettingsError(f"features: expected some made of embeddings, got {found.spec!r}")
        kept = worker.log.read(lambda c: read_prompts(c, worker.plan.router, newest=newest))
        return found.fit([Prompt.of(prompt) for _, prompt in kept])

    def put_prior(self, evidence: Mapping[str, Evidence], *, origin: str = "") -> None:
        """Tell what is known of models before any feedback; it replaces what was told before.

        It is kept in the log, apart from what feedback teaches, and every worker takes it up. How much of it
        counts is chosen from what is seen since; a prior that proves wrong is un-learned.

        Parameters
        ----------
        evidence : mapping of str to Evidence
            The sums of some models over this router's `features`, without a half-life; a model that the
            router does not have yet counts when it comes.
        origin : str
            Where it comes from.

        Raises
        ------
        ValueError
            It is empty, its length is not that of the features, it fades, or it holds no observation.
        """
        worker = self._here()
        features = worker.learner.view.features
        known = Known(
            evidence=_checked_prior(evidence, features.dim),
            features_version=features.version,
            origin=clean_text("origin", origin, 255),
            at=worker.plan.clock(),
        )
        committed(worker.log.write(lambda c: write_prior(c, worker.plan.router, known)))
        worker.learner.take_up()

    def drop_prior(self) -> bool:
        """Forget what was known before any feedback; return whether there was anything."""
        worker = self._here()
        found = committed(worker.log.write(lambda c: drop_prior(c, worker.plan.router)))
        worker.learner.take_up()
        return found

    @property
    def prior(self) -> Known | None:
        """What was told with `put_prior`, as the log has it."""
        worker = self._here()
        return worker.log.read(lambda c: read_prior(c, worker.plan.router))

    @property
    def features(self) -> FeatureExtractor:
        """What beliefs see of a prompt."""
        return self._here().learner.view.features

    def health(self) -> Health:
        """Return how this worker's learning is: what of log and store is away, and how far it is behind."""
        return self._here().learner.health()

    def beliefs(self) -> dict[str, dict[str, Any]]:
        """Return what is believed of each model, as plain values.

        Returns
        -------
        dict
            Per model: ``n`` (observations, faded by the half-life), ``mean_reward`` of them (None without
            any), ``prior`` (what was believed before, and ``power``: what each observation of `put_prior`
            counts by now), ``last_change`` (RFC 3339 or None), ``retired``, ``drifts`` (the changes that
            were recorded of it, the earliest first).
        """
        worker = self._here()
        worker.learner.take_up()
        now = worker.plan.clock()
        changed = worker.log.read(lambda c: last_changes(c, worker.plan.router))
        known = worker.learner.view.registration
        retired = {model.name for model in known.retired}
        drifts: dict[str, list[dict[str, Any]]] = {}
        for drift in known.drifts:
            drifts.setdefault(drift.model, []).append(drift.to_json())
            changed[drift.model] = max(drift.created, changed.get(drift.model, 0.0))
        sums, prior = worker.learner.summary(now)
        return {
            model: {
                "n": n,
                "mean_reward": mean,
                "prior": prior,
                "last_change": utc(changed[model]).isoformat() if model in changed else None,
                "retired": model in retired,
                "drifts": drifts.get(model, []),
            }
            for model, (n, mean) in sums.items()
            if model in known.known or n > 0
        }

    # -- inside -----------------------------------------------------------------------------------

    def _here(self) -> Worker:
        """This process's worker: made anew after a fork."""
        if self._worker.pid != os.getpid():
            self._reopen()
        if self._closed:
            raise ClosedError("the router was closed")
        return self._worker

    def _reopen(self) -> None:
        with self._gate:
            if self._worker.pid == os.getpid():
                return
            if time.monotonic() < self._again_at:
                raise LogUnavailableError("log: it was away a moment ago")
            try:
                self._worker = self._worker.again()
            except BanditRouterError:
                self._again_at = time.monotonic() + REOPEN_S
                raise


def _checked_prior(evidence: Mapping[str, Evidence], dim: int) -> dict[str, Evidence]:
    if not isinstance(evidence, Mapping) or not evidence:
        raise ValueError("prior: expected the evidence of at least one model")
    for model, sums in evidence.items():
        check_name("prior", model)
        if not isinstance(sums, Evidence) or sums.dim != dim:
            raise ValueError(f"prior: {model}: expected Evidence of {dim} dimensions, got {sums!r}")
        if sums.half_life is not None or not sums.n > 0:
            raise ValueError(f"prior: {model}: expected observations that do not fade, got {sums!r}")
    return {model: sums.copy() for model, sums in evidence.items()}


def _unlock() -> None:
    """In a forked child: a parent's lock may have been held by a thread that does not exist here."""
    for router in list(_routers):
        router._gate = threading.Lock()


_routers: weakref.WeakSet[Router] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def _recall(worker: Worker, request: Request) -> tuple[Turn | None, bool]:
    """The draw that a request's conversation holds to, and whether that is known."""
    turn, query = _held(worker, request)
    if query is None:
        return turn, True
    try:
        return worker.log.ask(query), True
    except LogUnavailableError:
        return None, False


async def _arecall(worker: Worker, request: Request) -> tuple[Turn | None, bool]:
    turn, query = _held(worker, request)
    if query is None:
        return turn, True
    try:
        return await worker.log.aask(query), True
    except LogUnavailableError:
        return None, False


def _held(
    worker: Worker, request: Request
) -> tuple[Turn | None, Callable[[Connection], Turn | None] | None]:
    """The draw that this worker remembers, else the query that looks for it in the log."""
    talk, router = request.conversation, worker.plan.router
    if talk is None or not worker.decider.holds:
        return None, None
    turn = worker.decider.recall(talk)
    if turn is not None:
        return turn, None
    return None, lambda c: worker.decider.remember(talk, find_turn(c, router, talk))


def _draft(worker: Worker, request: Request, seen: Seen, turn: Turn | None, known: bool) -> Draft:
    """Decide, and say what is to be recorded."""
    decision = worker.decider.decide(request, turn, seen=seen, degraded=not known)
    _fix_unit(worker, decision)
    body_hash = None if request.key is None else hash_of(request)
    rows = decision_rows(
        decision,
        request.said,
        keep=worker.learner.view.registration.settings.text,
        input_tokens=request.prompt.input_tokens,
        body_hash=body_hash,
    )
    return Draft(decision=decision, rows=rows, body_hash=body_hash)


def _fix_unit(worker: Worker, decision: Decision) -> None:
    """Write down the cost unit when a price weight is first used."""
    settings, unit, now = worker.learner.view.registration.settings, decision.cost_unit_usd, decision.at
    if settings.cost_unit_usd is None and unit is not None:
        name = worker.plan.router
        with suppress(LogUnavailableError):  # the next decision tries it again
            fixed = worker.log.write(lambda c: registration.fix_cost_unit(c, name, unit, now))
            fixed.add_done_callback(_tell)


def _accepted(worker: Worker, decision: Decision) -> Decision:
    worker.decider.accept(decision)
    return decision


def _applied(worker: Worker, heard: Feedback) -> Feedback:
    if heard.pending:
        return heard
    try:
        committed(worker.learner.catch_up(), remaining(worker.log.patience.timeout_s))
    except BanditRouterError:
        return heard  # durable; the learner applies it by itself
    return replace(heard, applied=True)


async def _aapplied(worker: Worker, heard: Feedback) -> Feedback:
    if heard.pending:
        return heard
    try:
        await acommitted(worker.learner.catch_up(), remaining(worker.log.patience.timeout_s))
    except BanditRouterError:
        return heard  # durable; the learner applies it by itself
    return replace(heard, applied=True)


def _forgetting(worker: Worker, user: str) -> Callable[[Connection], Forgotten]:
    view, now = worker.learner.view, worker.plan.clock()
    generation, metrics = view.registration.generation, view.registration.settings.metrics
    return lambda c: forget_user(c, view.lens, user, generation=generation, metrics=metrics, now=now)


def _tell(recorded: Future[Any]) -> None:  # Any: the result does not matter
    error = None if recorded.cancelled() else recorded.exception()
    if error is not None:
        logger.error("a write that nobody waited for failed: %s", error)
