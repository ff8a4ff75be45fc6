"""A router behind HTTP, as the demo plays it: the same three calls, and how long each took."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np

from bandit_router.events import FeedbackValue, Outcome
from bandit_router.preference import Preference

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the demo needs of a decision."""

    id: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the demo needs of a router's settings."""

    cost_unit_usd: float | None
    preference: Preference
    floor: float


class Remote:
    """A router of a service that needs no key. Safe from many threads.

    Parameters
    ----------
    url : str
        Of the service.
    name : str
        Of the router.

    Attributes
    ----------
    seconds : dict of str to list of float
        How long each call took, by its path [s].
    """

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)
        self._terms: Terms | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    @property
    def settings(self) -> Terms:
        """The settings; they are asked for until the cost unit is known, which stays."""
        if self._terms is None or self._terms.cost_unit_usd is None:
            told = self._client.get(f"/v1/routers/{self.name}").raise_for_status().json()["settings"]
            self._terms = Terms(
                cost_unit_usd=told["cost_unit_usd"],
                preference=Preference(**told["preference"]),
                floor=told["floor"],
            )
        return self._terms

    def choose(self, prompt: str, *, user: str) -> Chosen:
        """As `Router.choose`."""
        told = self._post("/v1/decisions", {"prompt": prompt, "user": user, "router": self.name})
        return Chosen(id=told["id"], model=told["model"])

    def report(self, decision_id: str, outcome: Outcome, *, answer: str | None = None) -> None:
        """As `Router.report`."""
        said = {name: value for name, value in asdict(outcome).items() if value is not None}
        self._post("/v1/outcomes", {"decision_id": decision_id, "answer": answer, **said})

    def feedback(self, decision_id: str, name: str, value: FeedbackValue, *, source: str) -> None:
        """As `Router.feedback`."""
        word = {"decision_id": decision_id, "name": name, "value": value, "source": source}
        self._post("/v1/feedback", word)

    def percentiles(self, *shares: float) -> dict[str, list[float]]:
        """Return how long calls took, by path: at each share of them [s]."""
        return {path: [float(q) for q in np.quantile(s, shares)] for path, s in self.seconds.items()}

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        began = time.perf_counter()
        answer = self._client.post(path, json=body).raise_for_status()
        self.seconds[path].append(time.perf_counter() - began)
        told: dict[str, Any] = answer.json()
        return told
