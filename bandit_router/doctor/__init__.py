"""Doctor: looks at all that a service needs, and says what is wrong and what to do.

It reads; it makes and changes nothing, and may run beside live workers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from bandit_router.config import Config
from bandit_router.doctor.finding import Finding, ok, problem, unseen
from bandit_router.doctor.log import (
    check_clock,
    check_keys,
    check_log,
    check_partitions,
    check_schema,
)
from bandit_router.doctor.machine import check_disk, check_journal
from bandit_router.doctor.reader import Reader
from bandit_router.doctor.router import check_checkpoint, check_features, check_loop, check_models
from bandit_router.doctor.store import check_beliefs, check_store
from bandit_router.errors import BanditRouterError
from bandit_router.log.registration import read_registration, router_names
from bandit_router.store import PosteriorStore, open_store
from feedback.thresholds import Thresholds, thresholds_from_json

__all__ = ["Finding", "diagnose"]


def diagnose(
    config: Config,
    *,
    router: str | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Look at everything, and yield what each check says as soon as it is known.

    Parameters
    ----------
    config : Config
    router : str, optional
        Look at this router only; by default at all that the log has.
    environ : mapping of str to str
    clock : callable
        Returns seconds since 1970.
    """
    yield from _guarded("config", lambda: _check_config(config, environ))
    try:
        thresholds = thresholds_from_json(config.alarms)
    except BanditRouterError:  # said above
        thresholds = Thresholds()
    yield from _guarded("store", lambda: check_store(config.store, thresholds, clock=clock))
    try:
        reader = Reader.open(config.log)
    except BanditRouterError as error:
        yield problem(
            "log", f"{str(error).removeprefix('log: ')}: correct its URL, or `bandit-router migrate`"
        )
        yield unseen("routers", "nothing of them can be seen without the log")
        return
    try:
        yield from _check_log(reader, config, thresholds, router, environ, clock)
    finally:
        reader.close()


def _check_config(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    from bandit_router.service.tracing import check_tracing

    thresholds_from_json(config.alarms)
    check_tracing(config.tracing)
    if config.judge:
        from feedback.judge import find_api_key, judge_settings_from_json

        find_api_key(judge_settings_from_json(config.judge), environ)
    yield ok("config", "it can be read")


def _check_log(
    reader: Reader,
    config: Config,
    thresholds: Thresholds,
    router: str | None,
    environ: Mapping[str, str],
    clock: Callable[[], float],
) -> Iterator[Finding]:
    url, now = reader.engine.url, clock()
    yield from _guarded("disk", lambda: check_disk(url))
    yield from _guarded("journal", lambda: check_journal(config, url, environ))
    there = check_log(reader)
    yield there
    fits = problem("schema", "") if there.state == "problem" else check_schema(reader)
    if fits.state == "problem":
        yield from () if there.state == "problem" else (fits,)
        yield unseen("routers", "nothing of them can be seen without a log that answers and fits")
        return
    yield fits
    yield from _guarded("partitions", lambda: check_partitions(reader, now=now))
    yield from _guarded("clock", lambda: check_clock(reader, thresholds, clock=clock))
    yield from _guarded("keys", lambda: check_keys(reader, config, now=now))
    try:
        store = open_store(config.store)
    except BanditRouterError:  # said above
        yield unseen("routers", "nothing of them is looked at before the store's URL is right")
        return
    try:
        for name in [router] if router is not None else reader.read(router_names):
            yield from _guarded("router", partial(_check_router, reader, store, name, thresholds, now))
    finally:
        store.close()


def _check_router(
    reader: Reader, store: PosteriorStore, name: str, thresholds: Thresholds, now: float
) -> Iterator[Finding]:
    registration = reader.read(partial(read_registration, router=name))
    if registration is None:
        yield problem("router", "the log has none of that name: `bandit-router models put`", router=name)
        return
    yield from check_models(registration)
    yield check_features(reader, registration)
    yield check_checkpoint(reader, registration, now=now)
    yield check_beliefs(reader, store, registration, now=now)
    yield from check_loop(reader, registration, thresholds, now=now)


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check says; one that cannot be done says so, and the next ones are done all the same."""
    try:
        yield from look()
    except BanditRouterError as error:
        yield problem(check, str(error))
    except OSError as error:
        yield unseen(check, str(error))
