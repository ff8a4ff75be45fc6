"""Decider: one worker's way from a request to a decision; arithmetic on beliefs held in memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bandit_router.choosing import Offer, eligible, good_enough, reason_for, weigh, within_trials
from bandit_router.embeddings import EmbeddedFeatures
from bandit_router.errors import EmbeddingsUnavailableError, NoEligibleModelError, UnknownModelError
from bandit_router.events import Decision, Model, new_id
from bandit_router.learner import Learner
from bandit_router.log.deciding import Turn
from bandit_router.pacing import Mask
from bandit_router.policies import draw
from bandit_router.predictions import Predictions
from bandit_router.preference import Preference
from bandit_router.prompt import Prompt
from bandit_router.purse import Purse
from bandit_router.request import Request
from bandit_router.tracing import span
from bandit_router.values import Array
from bandit_router.view import View

logger = logging.getLogger(__name__)
CONVERSATIONS = 20_000  # that a worker remembers; others are looked up in the log
_TYPICAL = Prompt(text="x" * 2_000)  # the request by which the cost unit is set


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What is seen of a request.

    Attributes
    ----------
    view : View
        By whose features.
    x : ndarray of shape (dim,)
    version : str
        Of the features; where they lack what could not be had in time, not the view's.
    """

    view: View
    x: Array
    version: str

    @property
    def whole(self) -> bool:
        """Whether nothing is lacking."""
        return self.version == self.view.features.version


class Decider:
    """Decides for one worker.

    Parameters
    ----------
    learner : Learner
        Keeps beliefs, predictions and settings up to date.
    rng : Generator
        Draws the models.
    clock : callable
        Returns seconds since 1970.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        rng: np.random.Generator,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._learner, self._rng, self._clock = learner, rng, clock
        self._turns: OrderedDict[str, Turn] = OrderedDict()
        self._generation = learner.view.registration.generation
        self._purse = Purse()
        self._lock = threading.Lock()

    def look(self, request: Request) -> Seen:
        """Return what is seen of a request; what features wait for takes no longer than their time limit.

        Raises
        ------
        UnknownModelError
            `request.models` names one that the router does not have.
        ValueError
            The ready vector does not fit.
        """
        view = self._learner.view
        _check_models(request, view)
        with span("features", version=view.features.version):
            try:
                x = _ready(request, view)
                x = view.features.extract(request.prompt) if x is None else x
            except EmbeddingsUnavailableError as error:
                return _stopgap(request, view, error)
        return Seen(view=view, x=x, version=view.features.version)

    async def alook(self, request: Request) -> Seen:
        """As `look`, without blocking the event loop."""
        view, features = self._learner.view, self._learner.view.features
        if not isinstance(features, EmbeddedFeatures):
            return self.look(request)
        _check_models(request, view)
        with span("features", version=features.version):
            try:
                x = _ready(request, view)
                x = await features.aextract(request.prompt) if x is None else x
            except EmbeddingsUnavailableError as error:
                return _stopgap(request, view, error)
        return Seen(view=view, x=x, version=features.version)

    def decide(
        self,
        request: Request,
        turn: Turn | None = None,
        *,
        seen: Seen | None = None,
        degraded: bool = False,
    ) -> Decision:
        """Return the decision for a request; nothing is logged or remembered yet (`accept`).

        Parameters
        ----------
        request : Request
        turn : Turn, optional
            The draw that its conversation holds to.
        seen : Seen, optional
            What `look` has seen of it; by default it is looked at now.
        degraded : bool
            Something that it should go by could not be looked up.

        Raises
        ------
        NoEligibleModelError
            Caps and subsets leave no model.
        UnknownModelError, ValueError
            As `look`.
        """
        seen = seen or self.look(request)
        view, x, settings = seen.view, seen.x, seen.view.registration.settings
        unit = self._cost_unit(view, request)
        with span("beliefs"):
            everything = self._offer(view, request, x, unit)
        left = eligible(everything, request)
        if turn is not None and not _may_serve(turn, everything, left):
            turn = None
        with self._lock:
            costs = partial(self._costs, view, request, x)
            pacer = self._purse.pacer(view, everything, self._learner.bills, costs)
            if turn is None:
                left = self._payable(view, everything, left)
                left = good_enough(everything, left, _preference(request, view), pacer)
            else:
                left = left & np.array([model.name == turn.model for model in everything.models])
            offer = everything.only(left)
            if pacer is not None:
                pacer.record(
                    settings.policy, everything.worth(left), everything.std, everything.cost_usd
                )
            p = weigh(settings.policy, offer, floor=settings.floor, pacer=pacer)
        k, at = draw(p, self._rng.random()), round(self._clock(), 6)
        return Decision(
            id=new_id(at),
            router=view.registration.name,
            model=offer.models[k].name,
            probability=float(p[k]),
            reason="degraded"
            if degraded or not seen.whole
            else "sticky"
            if turn
            else reason_for(offer, k, pacer),
            policy=settings.policy.spec,
            candidates=offer.candidates(p),
            at=at,
            features=x,
            features_version=seen.version,
            user=request.user,
            conversation=request.conversation,
            conversation_head=None if turn is None else turn.head,
            tags=request.tags,
            key=request.key,
            cost_unit_usd=unit,
        )

    def accept(self, decision: Decision) -> None:
        """Remember a decision that was logged: its conversation, and what it is expected to cost."""
        if decision.duplicate:
            return
        with self._lock:
            if decision.conversation is not None and decision.conversation_head is None:
                self._keep(decision.conversation, Turn(head=decision.id, model=decision.model))
            self._purse.charge(decision.id, decision.model, decision.predicted_usd or 0.0)

    def _offer(self, view: View, request: Request, x: Array, unit: float | None) -> Offer:
        models = view.registration.models
        if not models:
            raise NoEligibleModelError(f"router {view.registration.name!r} has no active model")
        with self._learner.lock:
            mean, std = view.beliefs.predict(x)
            at = [view.beliefs.index(model.name) for model in models]
            forecast = view.predictions.forecast(
                models, request.prompt.input_tokens, x=x, max_tokens=request.max_tokens
            )
        preference, mean, std = _preference(request, view), mean[at], std[at]
        return Offer(
            models=models,
            mean=mean,
            std=std,
            cost_usd=forecast.cost_usd,
            worst_usd=forecast.worst_usd,
            latency_s=forecast.latency_s,
            utility=preference.utility(mean, forecast.cost_usd, forecast.latency_s, cost_unit_usd=unit),
        )

    def _costs(self, view: View, request: Request, x: Array, models: Sequence[Model]) -> Array:
        """What a request costs on models at the prices that they have [USD]."""
        with self._learner.lock:
            forecast = view.predictions.forecast(
                models, request.prompt.input_tokens, x=x, max_tokens=request.max_tokens
            )
        return forecast.cost_usd

    def _payable(self, view: View, everything: Offer, left: Mask) -> Mask:
        """Leave out what nobody knows yet, where its tries have cost enough of the budget."""
        budget_usd = view.registration.settings.budget_usd_per_request
        if budget_usd is None:
            return left
        with self._learner.lock:
            rewards = view.beliefs.rewards
            return within_trials(everything, left, self._purse.newcomers, rewards, budget_usd=budget_usd)

    def _cost_unit(self, view: View, request: Request) -> float | None:
        """The dollars that a price weight is per: as set, else the dearest typical request [USD]."""
        settings = view.registration.settings
        weighted = _preference(request, view).price_weight > 0
        if settings.cost_unit_usd is not None or not weighted or not view.registration.models:
            return settings.cost_unit_usd
        # By list prices alone, so that all workers set the same, whatever they have heard so far.
        typical = Predictions().forecast(view.registration.models, _TYPICAL.input_tokens)
        return float(typical.cost_usd.max()) or None

    @property
    def holds(self) -> bool:
        """Whether the turns of a conversation repeat its first draw."""
        return self._learner.view.registration.settings.sticky

    def recall(self, conversation: str) -> Turn | None:
        """Return the draw that a conversation holds to, as this worker knows it."""
        with self._lock:
            self._forget_erased()
            if conversation in self._turns:
                self._turns.move_to_end(conversation)
            return self._turns.get(conversation)

    def remember(self, conversation: str, turn: Turn | None) -> Turn | None:
        """Keep in mind, and return, the draw that a conversation holds to, as the log has it."""
        if turn is not None:
            with self._lock:
                self._keep(conversation, turn)
        return turn

    def _forget_erased(self) -> None:
        """A new generation may mean that users were erased, and conversations with them."""
        generation = self._learner.view.registration.generation
        if generation != self._generation:
            self._turns.clear()
            self._generation = generation

    def _keep(self, conversation: str, turn: Turn) -> None:
        self._turns[conversation] = turn
        while len(self._turns) > CONVERSATIONS:
            self._turns.popitem(last=False)

    def paid(self, decision_id: str, cost_usd: float | None) -> None:
        """Charge what a decision did cost instead of what was predicted [USD]."""
        if cost_usd is not None:
            with self._lock:
                self._purse.settle(decision_id, cost_usd)


def _preference(request: Request, view: View) -> Preference:
    return request.preference or view.registration.settings.preference


def _may_serve(turn: Turn, offer: Offer, left: Mask) -> bool:
    """Whether the draw that a conversation holds to may be repeated."""
    return any(kept and model.name == turn.model for model, kept in zip(offer.models, left, strict=True))


def _ready(request: Request, view: View) -> Array | None:
    return None if request.features is None else view.features.ready(request.features)


def _stopgap(request: Request, view: View, error: EmbeddingsUnavailableError) -> Seen:
    """Go on from what is known without the embedding, under a version that teaches nothing."""
    features = view.features
    assert isinstance(features, EmbeddedFeatures)
    logger.info("router %s: decided without an embedding: %s", view.registration.name, error)
    return Seen(view=view, x=features.stopgap(request.prompt), version=features.stopgap_version)


def _check_models(request: Request, view: View) -> None:
    unknown = sorted((request.models or frozenset()) - view.registration.known.keys())
    if unknown:
        known = ", ".join(model.name for model in view.registration.models)
        name = view.registration.name
        raise UnknownModelError(f"no model {unknown[0]!r} in router {name!r}; it has {known}")
