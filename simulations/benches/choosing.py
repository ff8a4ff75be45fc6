"""Deciding: the arithmetic beside bare numpy, the whole of `Router.choose` beside the peers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from bandit_router.choosing import Offer, weigh
from bandit_router.errors import PeerError
from bandit_router.events import Model
from bandit_router.evidence import Observation
from bandit_router.policies import LinUCB, Policy, ThompsonSampling, draw
from bandit_router.posterior import Beliefs
from bandit_router.router import Router
from simulations.benches.rows import Bar, Effort, Round, Row, interleaved, median_us
from simulations.compare.dialogue import Dialogue
from simulations.compare.environments import PEERS, Peer, command

SIZES = ((26, 4), (64, 10), (128, 10))  # numbers of features, of models
POLICIES: tuple[Policy, ...] = (LinUCB(), ThompsonSampling())
TIMING = Path(__file__).with_name("timing.py")
BARS = {"linucb": Bar(limit=0.75), "thompson": Bar(limit=1.5)}


def arithmetic(effort: Effort) -> Iterator[Row]:
    """Beliefs to a drawn model, beside the stacked products alone."""
    for dim, models in SIZES:
        beliefs, x = _learnt(dim, models)
        contestants = {p.spec: _arithmetic(effort, p, beliefs, x) for p in POLICIES}
        contestants["numpy"] = _floor(effort, dim, models)
        found = interleaved(contestants, effort.rounds)
        for policy in POLICIES:
            yield Row(
                bench="arithmetic",
                what=f"{_name(policy)} of ready features, {dim} x {models}",
                unit="us",
                ours=found[policy.spec],
                against="numpy: all scored by stacked products",
                theirs=found["numpy"],
                bar=Bar(limit=2.0),
            )


def _learnt(dim: int, models: int) -> tuple[Beliefs, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    rng = np.random.default_rng(0)
    beliefs = Beliefs([f"model-{k}" for k in range(models)], dim)
    for name in beliefs.models:
        beliefs.learn_all(
            (name, Observation.of([1.0, *rng.normal(size=dim - 1)], float(rng.random())))
            for _ in range(20)
        )
    return beliefs, np.concatenate([[1.0], rng.normal(size=dim - 1)])


def _arithmetic(
    effort: Effort,
    policy: Policy,
    beliefs: Beliefs,
    x: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> Round:
    models, nought = tuple(Model(name) for name in beliefs.models), np.zeros(len(beliefs.models))
    rest = {"cost_usd": nought, "worst_usd": nought, "latency_s": nought}

    def choose() -> int:
        mean, std = beliefs.predict(x)
        offer = Offer(models=models, mean=mean, std=std, utility=mean, **rest)
        return draw(weigh(policy, offer, floor=0.01, pacer=None), 0.5)

    return lambda: median_us(choose, effort.calls)


def _floor(effort: Effort, dim: int, models: int) -> Round:
    rng = np.random.default_rng(1)
    weights, flat, x = (rng.normal(size=s) for s in ((models, dim), (models * dim, dim), (dim,)))

    def score() -> int:
        spread = (flat @ x).reshape(models, dim) @ x
        return int((weights @ x + np.sqrt(np.abs(spread))).argmax())

    return lambda: median_us(score, effort.calls)


def in_memory(effort: Effort) -> Iterator[Row]:
    """`Router.choose` that returns at hand-off to the log, beside the peers' choices."""
    for dim, models in SIZES:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            routers = [
                stack.enter_context(_router(Path(folder), policy, dim, models, durable=False))
                for policy in POLICIES
            ]
            ours = {p.spec: _choosing(effort, r, dim) for p, r in zip(POLICIES, routers, strict=True)}
            peers, absent = _peers(stack, effort, dim, models)
            found = interleaved(ours | peers, effort.rounds)
        for policy in POLICIES:
            for peer in PEERS:
                promised = BARS[_name(policy)] if peer.name == "paretobandit" else None
                yield Row(
                    bench="choose",
                    what=f"{_name(policy)} choose, in memory, {dim} x {models}",
                    unit="us",
                    ours=found[policy.spec],
                    against=f"{peer.name} {peer.version}",
                    theirs=found.get(peer.name),
                    bar=promised,
                    note=absent.get(peer.name, ""),
                )


def durable(effort: Effort) -> Iterator[Row]:
    """`Router.choose` that returns when SQLite has committed, beside paretobandit's SQLite store."""
    dim, models = SIZES[0]
    peer = next(peer for peer in PEERS if peer.name == "paretobandit")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        router = stack.enter_context(_router(Path(folder), LinUCB(), dim, models, durable=True))
        ours = {"ours": _choosing(effort, router, dim)}
        there = str(Path(folder) / "peer.db")
        theirs, absent = _peers(stack, effort, dim, models, peers=(peer,), store=there)
        found = interleaved(ours | theirs, effort.rounds)
    yield Row(
        bench="durable",
        what=f"linucb choose, committed to SQLite, {dim} x {models}, one caller",
        unit="us",
        ours=found["ours"],
        against=f"{peer.name} {peer.version}, its SQLite store",
        theirs=found.get(peer.name),
        bar=Bar(limit=0.25),
        note=absent.get(peer.name, ""),
    )


def _name(policy: Policy) -> str:
    return policy.spec.partition(":")[0]


@contextmanager
def _router(folder: Path, policy: Policy, dim: int, models: int, *, durable: bool) -> Iterator[Router]:
    log = f"sqlite:///{folder}/{_name(policy)}-{dim}-{durable}.db"
    known = [Model(f"model-{k}", output_usd_per_mtok=1.0 + k) for k in range(models)]
    vectors = f"vectors:dim={dim - 1}"  # the constant is ours
    with Router.open(log, models=known, policy=policy, features=vectors, durable=durable) as router:
        yield router


def _choosing(effort: Effort, router: Router, dim: int) -> Round:
    x = np.random.default_rng(0).normal(size=dim - 1)
    return lambda: median_us(lambda: router.choose(features=x), effort.calls)


def _peers(
    stack: ExitStack,
    effort: Effort,
    dim: int,
    models: int,
    *,
    peers: tuple[Peer, ...] = PEERS,
    store: str = "",
) -> tuple[dict[str, Round], dict[str, str]]:
    """The peers that can be had, and why others are absent."""
    there: dict[str, Round] = {}
    absent: dict[str, str] = {}
    for peer in peers:
        try:
            there[peer.name] = _peer(stack, effort, peer, {"arms": models, "dim": dim, "store": store})
        except PeerError as error:
            absent[peer.name] = f"absent: {error}"
    return there, absent


def _peer(stack: ExitStack, effort: Effort, peer: Peer, begin: dict[str, object]) -> Round:
    if not effort.peers:
        raise PeerError(f"{peer.name}: not asked")
    python = command(peer, effort.environments)[0]
    dialogue = stack.enter_context(Dialogue(peer.name, (python, str(TIMING), peer.name)))
    dialogue.ask({"begin": begin})
    return lambda: float(dialogue.ask({"time": effort.calls})["us"])
