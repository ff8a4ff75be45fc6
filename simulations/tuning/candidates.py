"""What is searched: a policy with its exploration, the floor, and how fast evidence fades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bandit_router.policies import policy_from_spec

if TYPE_CHECKING:
    from optuna.trial import Trial

WIDTHS = {  # of each policy's parameter, searched on a logarithmic scale
    "thompson": ("width", 0.1, 2.0),
    "linucb": ("alpha", 0.05, 2.0),
    "igw": ("gamma", 5.0, 500.0),
    "egreedy": ("epsilon", 0.005, 0.3),
}
FLOORS = (0.01, 0.2)  # never less: a log without exploration can never be tuned again


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Settings that may be recommended.

    Attributes
    ----------
    policy : str
        A SPEC of the router's own policies.
    floor : float
        Share of exploration over the eligible models.
    half_life_s : float, optional
        Of the evidence [s].

    Examples
    --------
    >>> print(Candidate(policy="thompson:width=0.5", floor=0.02).toml())
    [settings]
    policy = "thompson:width=0.5"
    floor = 0.02
    <BLANKLINE>
    """

    policy: str
    floor: float
    half_life_s: float | None = None

    def toml(self) -> str:
        """Return the lines that go into the config."""
        lines = ["[settings]", f'policy = "{self.policy}"', f"floor = {self.floor:g}"]
        if self.half_life_s is not None:
            lines.append(f"half_life_s = {self.half_life_s:g}")
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:  # Any: JSON
        """Return it as plain JSON."""
        return {"policy": self.policy, "floor": self.floor, "half_life_s": self.half_life_s}


def suggest(trial: Trial, half_lives: tuple[float | None, ...] = (None,)) -> Candidate:
    """Return the candidate that a trial of a study proposes.

    Parameters
    ----------
    trial : Trial
    half_lives : tuple of (float or None)
        Those to choose from [s].
    """
    name = trial.suggest_categorical("policy", list(WIDTHS))
    parameter, low, high = WIDTHS[name]
    value = trial.suggest_float(f"{name}:{parameter}", low, high, log=True)
    floor = trial.suggest_float("floor", *FLOORS, log=True)
    which = trial.suggest_categorical("half_life", list(range(len(half_lives))))
    spec = f"{name}:{parameter}={value:.3g}"
    policy_from_spec(spec)  # what cannot be configured is never searched
    return Candidate(policy=spec, floor=float(f"{floor:.3g}"), half_life_s=half_lives[which])
