"""Policies in question: what a SPEC says, as probabilities over the draws of a log.

Those that are fixed go by what the router believed at each decision. One that learns (``learn:``) lives through
the log with beliefs of its own, made of earlier rows only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heappop, heappush

import numpy as np

from bandit_router.errors import SettingsError
from bandit_router.policies import Policy, parse_spec, policy_from_spec, with_floor
from bandit_router.posterior import Beliefs
from bandit_router.values import Array, check_unit
from simulations.offpolicy.batches import choose_many
from simulations.offpolicy.draws import Draws
from simulations.replay import Mind, observation

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
    """Walk through the rows: first say how likely each model is, then learn, if it may.

    The reward of a conversation is learnt when its last turn is over, not at its first. With "own" a row is
    learnt from where the policy would have drawn that model: with probability
    ``min(1, w / K)``, which is exact rejection for a log that draws evenly.
    """
    x = draws.x.astype(np.float64)
    mind = Mind(Beliefs(draws.models, x.shape[1], half_life=target.half_life_s))
    coins, there, heard = np.random.default_rng(seed).random(len(x)), draws.eligible, draws.heard
    p = np.zeros(draws.probabilities.shape)
    over_at = draws.at if draws.over_at is None else draws.over_at
    waiting: list[tuple[float, int]] = []
    for i, k in enumerate(draws.chosen.tolist()):
        while waiting and waiting[0][0] <= draws.at[i]:
            _learn(mind, draws, x, heappop(waiting)[1])
        mean, std = mind.beliefs.predict(x[i])
        p[i, there[i]] = with_floor(policy.probabilities(mean[there[i]], std[there[i]]), target.floor)
        likely = target.learns == "all" or coins[i] * there[i].sum() * draws.logged[i] < p[i, k]
        if heard[i] and likely:
            heappush(waiting, (float(over_at[i]), i))
    return p


def _learn(mind: Mind, draws: Draws, x: Array, i: int) -> None:
    weight = 1.0 if draws.weight is None else float(draws.weight[i])
    seen = observation(x[i], float(draws.reward[i]), weight)
    mind.learn(draws.models[int(draws.chosen[i])], replace(seen, at=float(draws.at[i])))
