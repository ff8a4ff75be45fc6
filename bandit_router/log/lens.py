"""Lens: through what evidence is made of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandit_router.drift import Marks, share


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """Through what the fold looks at the log: which features, how forgetful, since when.

    Attributes
    ----------
    born : mapping of str to float
        Decisions before this moment [s] do not count for that model.
    drifts : mapping of str to Marks
        What decisions of a model count less since it has changed.
    """

    router: str
    dim: int
    features_version: str
    half_life_s: float | None
    born: Mapping[str, float] = field(default_factory=dict)
    drifts: Mapping[str, Marks] = field(default_factory=dict)

    def counts(self, model: str, at: float) -> bool:
        """Whether a decision of that moment counts as evidence for the model."""
        return at >= self.born.get(model, 0.0)

    def share(self, model: str, at: float) -> float:
        """What a decision of that moment counts for the model, for it has changed since."""
        return share(self.drifts.get(model, ()), at)
