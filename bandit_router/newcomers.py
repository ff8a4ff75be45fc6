"""What models that came later may cost under a budget, while nobody knows what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_router.values import Array

PROVEN = 3.0  # rewards after which a model is known
SHARE = 0.005  # of the budget since a model came: the most that its tries may cost until then
DOUBT = 5.0  # times what it is thought to cost, that a model may cost whose first bill is not known

Mask = NDArray[np.bool_]


class Newcomers:
    """Models that came when others were known already, and what their tries have cost.

    The law: until `PROVEN` rewards of it are known, all calls of a newcomer that cost more than the budget
    come to at most `SHARE` of ``budget_usd * requests since it came``, as far as predictions are right: the
    first bill may be `DOUBT` times as high. What costs less than the budget is no matter of the budget. Of
    models that came together, none known, none is a newcomer: they must all be learnt.

    Each worker counts its own requests and its own tries alone. So the law holds for all workers together
    without a word between them, and after a restart: it begins at nothing again, and that allows less.

    Examples
    --------
    >>> newcomers, rewards = Newcomers(), {"old": 99.0, "new": 0.0}
    >>> newcomers.meet(["old"], rewards.__getitem__)
    >>> newcomers.meet(["old", "new"], rewards.__getitem__)
    >>> newcomers.payable(["old", "new"], np.array([0.5, 20.0]), rewards.__getitem__, budget_usd=1.0)
    array([ True, False])
    """

    def __init__(self) -> None:
        self.requests = 0
        self._met: frozenset[str] = frozenset()
        self._came: dict[str, int] = {}
        self._tried_usd: dict[str, float] = {}
        self._billed: set[str] = set()

    def __repr__(self) -> str:
        return f"<Newcomers requests={self.requests} unproven={sorted(self._came)}>"

    def meet(self, models: Sequence[str], rewards: Callable[[str], float]) -> None:
        """See who is there.

        Parameters
        ----------
        models : sequence of str
        rewards : callable
            Returns how many rewards of a model are known.
        """
        if self._met.issuperset(models):
            return
        if any(rewards(name) >= PROVEN for name in models):
            unknown = (name for name in models if rewards(name) < PROVEN)
            self._came |= {name: self.requests for name in unknown if name not in self._met}
        self._met |= frozenset(models)

    def payable(
        self,
        models: Sequence[str],
        cost_usd: Array,
        rewards: Callable[[str], float],
        *,
        budget_usd: float,
    ) -> Mask:
        """Return which models may be paid, of shape (K,).

        Parameters
        ----------
        models : sequence of str
        cost_usd : ndarray of shape (K,)
            What each is predicted to cost [USD].
        rewards : callable
            Returns how many rewards of a model are known.
        budget_usd : float
            Mean cost per request to be kept [USD].
        """
        left = np.ones(len(models), dtype=bool)
        for k, name in enumerate(models if self._came else ()):
            if self._unproven(name, rewards) and cost_usd[k] > budget_usd:
                left[k] = self._in_all(name, float(cost_usd[k])) <= self._share(name, budget_usd)
        return left

    def _unproven(self, name: str, rewards: Callable[[str], float]) -> bool:
        if name in self._came and rewards(name) >= PROVEN:
            del self._came[name]
        return name in self._came

    def _in_all(self, name: str, cost_usd: float) -> float:
        """What all tries may come to with one more; those under way too may be dearer than they are thought."""
        tried_usd = self._tried_usd.get(name, 0.0) + cost_usd
        return tried_usd if name in self._billed else DOUBT * tried_usd

    def _share(self, name: str, budget_usd: float) -> float:
        return SHARE * budget_usd * (self.requests - self._came[name])

    def charge(self, name: str, cost_usd: float) -> None:
        """Note a request that this worker gave to a model, at its predicted cost [USD]."""
        self.requests += 1
        if name in self._came:
            self._tried_usd[name] = self._tried_usd.get(name, 0.0) + cost_usd

    def settle(self, name: str, charged_usd: float, cost_usd: float) -> None:
        """Charge what a request did cost instead of what was charged before [USD]."""
        self._billed.add(name)
        if name in self._tried_usd:
            self._tried_usd[name] += cost_usd - charged_usd
