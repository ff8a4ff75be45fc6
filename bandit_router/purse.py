"""Purse: the budget of a router, as one worker keeps it for all."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from bandit_router.choosing import Offer
from bandit_router.events import Model
from bandit_router.log.folding import Bill
from bandit_router.newcomers import Newcomers
from bandit_router.pacing import Pacer
from bandit_router.values import Array
from bandit_router.view import Spent, View

Costs = Callable[[Sequence[Model]], Array]

CHARGES = 100_000  # decisions of this worker that wait to hear what they cost


class Purse:
    """What was spent since the budget was set, by all workers, and the price of a dollar that follows.

    It is opened with what the log says. Then it charges each decision of this worker at its predicted cost
    until the outcome tells, and hears of what other workers decide with their outcomes, from the log. A
    decision of another worker that never has an outcome is left out: as if it had cost the mean.

    Attributes
    ----------
    newcomers : Newcomers
        What this worker's tries of unknown models have cost.
    """

    def __init__(self) -> None:
        self.newcomers = Newcomers()
        self._pacer: Pacer | None = None
        self._spent: Spent | None = None
        self._models: tuple[Model, ...] = ()
        self._charges: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def pacer(self, view: View, everything: Offer, bills: deque[Bill], costs: Costs) -> Pacer | None:
        """Return the pacer, if there is a budget, with all that was heard until now.

        Parameters
        ----------
        view : View
        everything : Offer
        bills : deque of Bill
            What was heard since of what requests cost; emptied.
        costs : callable
            Returns what this request costs on models at the prices that they have, of shape (K,) [USD].
        """
        settings = view.registration.settings
        if settings.budget_usd_per_request is None:
            self._pacer = None
            bills.clear()
            return None
        pacer = self._open(view, settings.budget_usd_per_request, everything.models)
        if everything.models != self._models:
            pacer.reprice(costs(self._models), everything.cost_usd)
            self._models = everything.models
        while bills:
            self._hear(pacer, bills.popleft(), view.spent)
        return pacer

    def _open(self, view: View, budget_usd: float, models: tuple[Model, ...]) -> Pacer:
        """Begin with what the log says was spent, or go on with other models."""
        pacer = self._pacer
        if pacer is not None and view.spent is self._spent and _names(models) == _names(self._models):
            return pacer
        fresh = Pacer(budget_usd, len(models))
        if pacer is None or view.spent is not self._spent:
            fresh.paid, fresh.spent_usd = view.spent.requests, view.spent.usd
            self._charges.clear()
        else:
            fresh.paid, fresh.spent_usd = pacer.paid, pacer.spent_usd
        self._pacer, self._spent, self._models = fresh, view.spent, models
        return fresh

    def charge(self, decision_id: str, model: str, cost_usd: float) -> None:
        """Charge a decision of this worker at its predicted cost [USD]."""
        if self._pacer is None:
            return
        self._pacer.spend(cost_usd)
        self.newcomers.charge(model, cost_usd)
        self._charges[decision_id] = model, cost_usd
        while len(self._charges) > CHARGES:
            self._charges.popitem(last=False)

    def settle(self, decision_id: str, cost_usd: float) -> None:
        """Charge the actual cost [USD] instead of what was charged before."""
        if self._pacer is None or decision_id not in self._charges:
            return
        model, charged = self._charges[decision_id]
        self.newcomers.settle(model, charged, cost_usd)
        if charged != cost_usd:
            self._pacer.settle(charged, cost_usd)
            self._charges[decision_id] = model, cost_usd

    def _hear(self, pacer: Pacer, bill: Bill, spent: Spent) -> None:
        """Take in what the log says that one decision cost."""
        if bill.decision_id in self._charges:
            self.settle(bill.decision_id, bill.cost_usd)
        elif bill.at >= spent.since:
            known = bill.predicted_usd if bill.before_usd is None else bill.before_usd
            if bill.before_usd is None and bill.at > spent.at:  # it was not there when this was opened
                pacer.spend(known)
            pacer.settle(known, bill.cost_usd)


def _names(models: Sequence[Model]) -> list[str]:
    return [model.name for model in models]
