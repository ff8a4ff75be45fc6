"""The peers' side of a bench: a program for a peer's own environment.

It needs the standard library and the one peer that it is started with: ``python timing.py paretobandit``.
On every line of its input stands one JSON object, and each is answered on a line of its output::

    {"begin": {"arms", "dim", "store"}}   -> {"version"}   `store` is a file of SQLite, or empty for memory
    {"time": calls}                       -> {"us"}        the median time of one choice
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

Choose = Callable[[], object]


def paretobandit(arms: int, dim: int, store: str) -> Choose:
    """Its ``route()`` of ready vectors, without a prior; contexts kept in memory, or in its SQLite store."""
    theirs, numpy = importlib.import_module("pareto_bandit"), importlib.import_module("numpy")
    price = {"input_cost_per_m": 1.0, "output_cost_per_m": 1.0}
    kept = {"context_store": theirs.SqliteContextStore(store)} if store else {}
    router = theirs.BanditRouter.create(
        model_registry={str(arm): price for arm in range(arms)},
        feature_service=theirs.FeatureService.for_precomputed(dim),
        priors="none",
        **kept,
    )
    x = numpy.random.default_rng(0).normal(size=dim)
    x[-1] = 1.0  # its bias stands last
    return lambda: router.route(x)


def vowpalwabbit(arms: int, dim: int, store: str) -> Choose:
    """Its SquareCB, of examples that are ready as text."""
    theirs = importlib.import_module("vowpalwabbit")
    workspace = theirs.Workspace("--cb_explore_adf -q sa --quiet --squarecb")
    rng = random.Random(0)
    lines = ["shared |s " + " ".join(f"{i}:{rng.gauss(0, 1):.6f}" for i in range(dim))]
    lines += [f"|a arm{arm}" for arm in range(arms)]
    return lambda: workspace.predict(lines)


def mabwiser(arms: int, dim: int, store: str) -> Choose:
    """Its LinUCB, each arm told of once."""
    theirs, numpy = importlib.import_module("mabwiser.mab"), importlib.import_module("numpy")
    bandit = theirs.MAB(list(range(arms)), theirs.LearningPolicy.LinUCB(), seed=0)
    x = numpy.random.default_rng(0).normal(size=(arms, dim))
    bandit.fit(list(range(arms)), [0.5] * arms, x)
    return lambda: bandit.predict(x[:1])


def river(arms: int, dim: int, store: str) -> Choose:
    """Its ``LinUCBDisjoint``."""
    theirs = importlib.import_module("river.bandit")
    bandit, rng = theirs.LinUCBDisjoint(seed=0), random.Random(0)
    known, x = list(range(arms)), {i: rng.gauss(0, 1) for i in range(dim)}
    return lambda: bandit.pull(known, x)


PEERS: dict[str, Callable[[int, int, str], Choose]] = {
    "paretobandit": paretobandit,
    "vowpalwabbit": vowpalwabbit,
    "mabwiser": mabwiser,
    "river": river,
}


def main(name: str) -> None:
    """Answer on standard output what standard input asks, until it ends."""
    # What a peer prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.WARNING)
    choose: Choose = list
    for line in sys.stdin:
        said: dict[str, Any] = json.loads(line)  # Any: JSON
        if "begin" in said:
            life = said["begin"]
            choose = PEERS[name](life["arms"], life["dim"], life["store"])
            answer: dict[str, Any] = {"version": version(name)}
        else:
            answer = {"us": _median_us(choose, said["time"])}
        print(json.dumps(answer), file=answers, flush=True)


def _median_us(call: Choose, calls: int) -> float:
    took = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - began)
    return median(took) / 1000


if __name__ == "__main__":
    main(sys.argv[1])
