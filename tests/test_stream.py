"""One stream, embedded and over HTTP: the beliefs are the fold of the log (through faults: `test_chaos`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import playing
from playing import Embedded, Remote
from serving import Serving, until

from bandit_router import EventLog, Router, Uniform
from bandit_router.log.registration import read_registration
from bandit_router.store import Snapshot, open_store

Open = Callable[..., Router]
DECISIONS = int(os.environ.get("STREAM_DECISIONS", "240"))  # `make stream` plays 5,000


def test_embedded_beliefs_are_the_fold_of_the_log(url: str, open_router: Open) -> None:
    router = open_router(policy=Uniform())
    ledger = playing.play(lambda _: Embedded(router), DECISIONS)
    expected = playing.check_log(url, ledger)
    router.beliefs()
    playing.assert_same_sums(router._worker.learner.view.beliefs.evidence, expected)
    router.close()
    again = open_router()
    playing.assert_same_sums(again._worker.learner.view.beliefs.evidence, expected)


def test_two_workers_over_http_believe_the_same_fold(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    serving = Serving(tmp_path, "--workers", "2", "--log", postgres_url, "--store", redis_url)
    try:
        ledger = playing.play(lambda _: Remote(serving.url), DECISIONS)
        expected = playing.check_log(postgres_url, ledger)
        playing.assert_same_sums(stored(postgres_url, redis_url), expected)
        assert_workers_agree(serving.url)
    finally:
        assert serving.end() == 0


def stored(log_url: str, store_url: str) -> dict[str, playing.Evidence]:
    """What the shared store holds."""
    store = open_store(store_url)
    with EventLog.open(log_url) as log:
        found = log.read(lambda c: read_registration(c, "default"))
    assert found is not None
    snapshot = store.read(found.book, generation=found.generation, after=None)
    store.close()
    assert isinstance(snapshot, Snapshot)
    return dict(snapshot.evidence)


def assert_workers_agree(url: str) -> None:
    """Whichever worker answers, it promises the same for one prompt, once each has chosen its prior anew."""
    until(lambda: len(promises(url)) == 1, "the workers do not agree", 20)


def promises(url: str) -> set[tuple[object, ...]]:
    """What 16 connections hear; that all of them meet one worker of two happens once in 32,768 times."""
    found = set()
    for _ in range(16):
        with httpx.Client(base_url=url, timeout=30) as client:
            answer = client.post("/v1/decisions", json={"prompt": "what do you think of me?"}).json()
        candidates = sorted((c["model"], c["mean"], c["std"]) for c in answer["candidates"])
        found.add(tuple((model, round(mean, 6), round(std, 6)) for model, mean, std in candidates))
    return found
