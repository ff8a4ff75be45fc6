"""What calls of a table cost and tell: the router's own predictions, fed with what a policy chose."""

from __future__ import annotations

import math

from bandit_router.events import Outcome
from bandit_router.predictions import Predictions, contribution
from bandit_router.values import Array
from simulations.tables import Table


class Costs:
    """The router's `Predictions` of what each row would cost.

    Parameters
    ----------
    table : Table
    features : ndarray of shape (n, dim)
        Of its prompts.
    guessed_tokens : ndarray of shape (n,)
        Input tokens as `Prompt.input_tokens` guesses them.
    known : bytes, optional
        What is known before round one, as `Predictions.to_bytes`. It counts until it proves wrong.
    """

    def __init__(
        self, table: Table, features: Array, guessed_tokens: Array, *, known: bytes | None = None
    ) -> None:
        self.table, self.features, self.guessed = table, features, guessed_tokens
        self.predictions = Predictions(known=None if known is None else Predictions.from_bytes(known))
        self.predictions.amounts.fit(at=0.0)

    def forecast(self, row: int) -> tuple[Array, Array]:
        """Return the predicted cost [USD] and latency [s] of each model, of shape (K,)."""
        forecast = self.predictions.forecast(
            self.table.models, float(self.guessed[row]), x=self.features[row]
        )
        return forecast.cost_usd, forecast.latency_s

    def learn(self, row: int, k: int) -> float:
        """See what the call of the `k`-th model cost, and return it [USD]."""
        amounts = contribution(outcome(self.table, row, k), float(self.guessed[row]))
        self.predictions.add(self.table.models[k].name, amounts, at=0.0, x=self.features[row])
        if self.predictions.amounts.stale(at=0.0):
            self.predictions.amounts.fit(at=0.0)
        return float(self.table.cost_usd[row, k])


def outcome(table: Table, row: int, k: int) -> Outcome:
    """Return what the call of the `k`-th model for a row tells."""
    return Outcome(
        cost_usd=float(table.cost_usd[row, k]) if table.has_cost else None,
        input_tokens=_count(table.input_tokens, row, k),
        output_tokens=_count(table.output_tokens, row, k),
        latency_s=None if table.latency_s is None else _known(float(table.latency_s[row, k])),
    )


def _count(counts: Array | None, row: int, k: int) -> int | None:
    known = None if counts is None else _known(float(counts[row, k]))
    return None if known is None else round(known)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
