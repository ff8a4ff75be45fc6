"""Policies in question: what a SPEC says, as probabilities over the draws of a log.

Those that are fixed go by what the router believed at each decision. One that learns (``learn:``) lives through
the log with beliefs of its own, made of earlier rows only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bandit_router.errors import SettingsError
from bandit_router.policies import Policy, parse_spec, policy_from_spec, with_floor
from bandit_router.values import Array, check_unit
from simulations.offpolicy.batches import choose_many
from simulations.offpolicy.draws import Draws
from simulations.offpolicy.walks import walk

_OWN = ("floor", "half_life", "from")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A policy in question.

    Attributes
    ----------
    spec : str
        As it was asked for.
    policy : Policy, optional
        None is a fixed model, or the log's own probabilities.
    model : str, optional
    floor : float
        Share of exploration over the eligible models.
    learns : {"", "all", "own"}
        Nothing; from every earlier row; or only from those that it would have drawn too (rejection).
    half_life_s : float, optional
        Of its evidence [s].
    """

    spec: str
    policy: Policy | None = None
    model: str | None = None
    floor: float = 0.0
    learns: str = ""
    half_life_s: float | None = None


def target_from_spec(spec: str) -> Target:
    """Return the policy in question that a SPEC names.

    ``logged``, ``fixed:MODEL``, a policy (``linucb:alpha=0.5,floor=0.02``), or ``learn:POLICY`` with
    ``half_life=7d`` and ``from=all`` or ``from=own``.

    Raises
    ------
    SettingsError
        No such policy or option, or a value out of range.

    Examples
    --------
    >>> target_from_spec("learn:thompson:width=0.5,floor=0.02,half_life=7d").half_life_s
    604800.0
    """
    text = spec.strip()
    if text == "logged":
        return Target(spec=text)
    if text.startswith("fixed:"):
        return Target(spec=text, model=text.removeprefix("fixed:"))
    learns = text.startswith("learn:")
    name, options = parse_spec(text.removeprefix("learn:"))
    own: dict[str, str] = {key: options.pop(key) for key in _OWN if key in options}
    rest = ",".join(f"{key}={value}" for key, value in options.items())
    policy = policy_from_spec(f"{name}:{rest}" if rest else name)
    return _with_options(Target(spec=text, policy=policy, learns="all" if learns else ""), own)


def _with_options(target: Target, own: dict[str, str]) -> Target:
    if not target.learns and own.keys() - {"floor"}:
        raise SettingsError(f"{target.spec!r}: half_life and from are for learn:POLICY")
    learns = own.get("from", target.learns)
    if target.learns and learns not in ("all", "own"):
        raise SettingsError(f"{target.spec!r}: from: expected all or own, got {learns!r}")
    try:
        floor = check_unit("floor", float(own.get("floor", 0.0)))
        half_life = _seconds(own["half_life"]) if "half_life" in own else None
    except ValueError as error:
        raise SettingsError(f"{target.spec!r}: {error}") from error
    return replace(target, floor=floor, half_life_s=half_life, learns=learns)


def _seconds(text: str) -> float:
    seconds = float(text.rstrip("smhd")) * _UNITS.get(text[-1:], 1.0)
    if not 0 < seconds < np.inf:
        raise ValueError(f"half_life: expected a time such as 7d, got {text!r}")
    return seconds


def probabilities_of(target: Target, draws: Draws, *, seed: int = 0) -> Array:
    """Return how likely it would have drawn each model, of shape (n, K); zeros where it could draw none.

    Raises
    ------
    SettingsError
        The log has no such model.
    """
    if target.model is not None:
        return _fixed(target.model, draws)
    if target.policy is None:
        return draws.probabilities
    if target.learns:
        return _live(target, target.policy, draws, seed)
    return choose_many(target.policy, draws.mean, draws.std, draws.eligible, floor=target.floor)


def _fixed(model: str, draws: Draws) -> Array:
    if model not in draws.models:
        raise SettingsError(f"fixed:{model}: no such model in the log; there are {list(draws.models)}")
    p = np.zeros_like(draws.probabilities)
    k = draws.models.index(model)
    p[:, k] = draws.eligible[:, k]
    return p


def _live(target: Target, policy: Policy, draws: Draws, seed: int) -> Array:
    """Say at each row how likely each model is, before its reward is learnt from, if it is.

    With "own" a row is learnt from where the policy would have drawn that model: with probability
    ``min(1, w / K)``, which is exact rejection for a log that draws evenly.
    """
    coins, eligible = np.random.default_rng(seed).random(len(draws)), draws.eligible
    p = np.zeros(draws.probabilities.shape)

    def visit(i: int, mean: Array, std: Array) -> bool:
        there = eligible[i]
        p[i, there] = with_floor(policy.probabilities(mean[there], std[there]), target.floor)
        own = coins[i] * there.sum() * draws.logged[i] < p[i, draws.chosen[i]]
        return bool(target.learns == "all" or own)

    walk(draws, visit, half_life_s=target.half_life_s)
    return p
