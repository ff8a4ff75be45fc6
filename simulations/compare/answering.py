"""The peers' side of a dialogue: a program for a peer's own environment.

It needs the standard library and the one peer that it is started with: ``python answering.py vowpalwabbit``.
On every line of its input stands one JSON object, and some want an answer on a line of its output::

    {"begin": {"arms", "dim", "seed", "setting", "features"}}   -> {"version"}   a new life
    {"choose": row}                                            -> {"arm"}
    {"learn": row, "arm": k, "reward": r}                      no answer

`features` is a file of float64, one row of `dim` numbers per row of the table. A peer knows one reward only.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import sys
from array import array
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol


class Answering(Protocol):
    """A peer's bandit, as the dialogue needs it."""

    def choose(self, x: array[float]) -> int:
        """Return the arm for features of shape (dim,)."""
        ...

    def learn(self, x: array[float], arm: int, reward: float) -> None:
        """Be told what that arm was worth for these features."""
        ...


class ParetoBandit:
    """paretobandit's ``BanditRouter`` without a prior, its own features or a cost penalty.

    What calls cost is in the reward, so that its own penalty, which knows prices but not this table's
    weight of them, is off. Its bias stands last, ours first.

    Parameters
    ----------
    arms, dim, seed : int
    setting : str
        ``default``; ``stationary``: its own best cold values for a world that stands still.
    """

    SETTINGS: ClassVar[dict[str, dict[str, float]]] = {
        "default": {},
        "stationary": {"alpha": 0.05, "forgetting_factor": 1.0},
    }

    def __init__(self, arms: int, dim: int, seed: int, setting: str) -> None:
        theirs = importlib.import_module("pareto_bandit")
        self._numpy = importlib.import_module("numpy")
        price = {"input_cost_per_m": 1.0, "output_cost_per_m": 1.0}
        self.router = theirs.BanditRouter.create(
            model_registry={str(arm): price for arm in range(arms)},
            feature_service=theirs.FeatureService.for_precomputed(dim),
            priors="none",
            cost_penalty=0.0,
            bandit_seed=seed,
            # A reward less a price may be below 0, which the default would cut off.
            config=theirs.RouterConfig(reward_min=-1e9),
            **self.SETTINGS[setting],
        )
        self._request = ""

    def choose(self, x: array[float]) -> int:
        """As `Answering.choose`."""
        arm, log = self.router.route(self._numpy.roll(x, -1))
        self._request = log.request_id
        return int(arm)

    def learn(self, x: array[float], arm: int, reward: float) -> None:
        """As `Answering.learn`."""
        self.router.process_feedback(self._request, reward)


class VowpalWabbit:
    """vowpalwabbit's ``cb_explore_adf`` as its tutorial has it: features of the prompt times the arm's name.

    It adds a constant of its own, so that ours is left out.

    Parameters
    ----------
    arms, dim, seed : int
    setting : str
        ``default`` explores epsilon-greedily; ``squarecb``; ``elim``: SquareCB over plausible arms only,
        the variant that its documentation praises.
    """

    SETTINGS: ClassVar[dict[str, str]] = {
        "default": "",
        "squarecb": "--squarecb",
        "elim": "--squarecb --elim",
    }

    def __init__(self, arms: int, dim: int, seed: int, setting: str) -> None:
        theirs = importlib.import_module("vowpalwabbit")
        options = f"--cb_explore_adf -q sa --quiet --random_seed {seed} {self.SETTINGS[setting]}"
        self.workspace = theirs.Workspace(options)
        self.arms = [f"|a arm{arm}" for arm in range(arms)]
        self._rng = random.Random(seed)
        self._shared, self._probability = "", 1.0

    def choose(self, x: array[float]) -> int:
        """As `Answering.choose`."""
        self._shared = "shared |s " + " ".join(f"{i}:{v!r}" for i, v in enumerate(x) if i and v)
        p = self.workspace.predict([self._shared, *self.arms])
        arm = self._rng.choices(range(len(p)), weights=p)[0]
        self._probability = p[arm]
        return arm

    def learn(self, x: array[float], arm: int, reward: float) -> None:
        """As `Answering.learn`; vowpalwabbit expects costs in [0, 1]."""
        lines = [self._shared, *self.arms]
        lines[arm + 1] = f"0:{1.0 - reward}:{self._probability} {self.arms[arm]}"
        self.workspace.learn(lines)


class MABWiser:
    """mabwiser's linear policies; each arm is tried once, as it must have seen some before it predicts.

    Parameters
    ----------
    arms, dim, seed : int
    setting : str
        ``default``: LinUCB as it comes; ``lints``: LinTS with the mildest exploration of its examples;
        ``calm``: ours, LinUCB with a tenth of the exploration.
    """

    SETTINGS: ClassVar[dict[str, tuple[str, dict[str, float]]]] = {
        "default": ("LinUCB", {}),
        "lints": ("LinTS", {"alpha": 0.5}),
        "calm": ("LinUCB", {"alpha": 0.1}),
    }

    def __init__(self, arms: int, dim: int, seed: int, setting: str) -> None:
        theirs = importlib.import_module("mabwiser.mab")
        self._numpy = importlib.import_module("numpy")
        policy, options = self.SETTINGS[setting]
        learning = getattr(theirs.LearningPolicy, policy)(**options)
        self.bandit = theirs.MAB(list(range(arms)), learning, seed=seed)
        self._untried = random.Random(seed).sample(range(arms), arms)

    def choose(self, x: array[float]) -> int:
        """As `Answering.choose`."""
        return self._untried.pop() if self._untried else int(self.bandit.predict(self._numpy.array([x])))

    def learn(self, x: array[float], arm: int, reward: float) -> None:
        """As `Answering.learn`."""
        self.bandit.partial_fit([arm], [reward], self._numpy.array([x]))


class River:
    """river's ``LinUCBDisjoint``.

    Parameters
    ----------
    arms, dim, seed : int
    setting : str
        ``default``; ``calm``: ours, as it documents none: the noise of a quality in [0, 1], and a prior
        that shrinks.
    """

    SETTINGS: ClassVar[dict[str, dict[str, float]]] = {
        "default": {},
        "calm": {"alpha": 10.0, "beta": 10.0},
    }

    def __init__(self, arms: int, dim: int, seed: int, setting: str) -> None:
        theirs = importlib.import_module("river.bandit")
        self.bandit = theirs.LinUCBDisjoint(seed=seed, **self.SETTINGS[setting])
        self.arms = list(range(arms))

    def choose(self, x: array[float]) -> int:
        """As `Answering.choose`."""
        return int(self.bandit.pull(self.arms, dict(enumerate(x))))

    def learn(self, x: array[float], arm: int, reward: float) -> None:
        """As `Answering.learn`."""
        self.bandit.update(arm, dict(enumerate(x)), reward)


Begin = Callable[[int, int, int, str], Answering]

PEERS: dict[str, Begin] = {
    "paretobandit": ParetoBandit,
    "vowpalwabbit": VowpalWabbit,
    "mabwiser": MABWiser,
    "river": River,
}


def main(name: str) -> None:
    """Answer on standard output what standard input asks, until it ends."""
    # What a peer prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.WARNING)
    peer: Answering | None = None
    features, dim = array("d"), 0
    for line in sys.stdin:
        said: dict[str, Any] = json.loads(line)  # Any: JSON
        if "begin" in said:
            life = said["begin"]
            dim, features = life["dim"], _features(life["features"])
            peer = PEERS[name](life["arms"], dim, life["seed"], life["setting"])
            answer: dict[str, Any] | None = {"version": version(name)}
        else:
            assert peer is not None, "expected begin first"
            answer = _answer(peer, said, features, dim)
        if answer is not None:
            print(json.dumps(answer), file=answers, flush=True)


def _answer(
    peer: Answering, said: dict[str, Any], features: array[float], dim: int
) -> dict[str, Any] | None:  # Any: JSON
    row: int = said["choose"] if "choose" in said else said["learn"]
    x = features[row * dim : (row + 1) * dim]
    if "choose" in said:
        return {"arm": peer.choose(x)}
    peer.learn(x, said["arm"], said["reward"])
    return None


def _features(path: str) -> array[float]:
    features = array("d")
    features.frombytes(Path(path).read_bytes())
    return features


if __name__ == "__main__":
    main(sys.argv[1])
