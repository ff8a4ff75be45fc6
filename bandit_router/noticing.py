"""Noticing that a model has changed: from the log's rewards to an event that every worker takes up.

Rewards are compared with what was promised when the decision was made, which the log has. So whoever looks,
and however often, finds the same; and of two who look at once one records it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import sqlalchemy as sa

from bandit_router.drift import (
    FADING,
    FADINGS,
    KEEP,
    LEARNT,
    SETTLED,
    Drift,
    changed_at,
    fading,
    surprise,
)
from bandit_router.errors import ConflictError, StaleGenerationError, UnknownModelError
from bandit_router.learner import Learner
from bandit_router.log import EventLog
from bandit_router.log.bases import has_bases
from bandit_router.log.checkpoints import scale_checkpoints
from bandit_router.log.drifts import (
    KNOWS_DRIFTS,
    Promised,
    decided_since,
    read_drifts,
    read_promised,
    write_drift,
)
from bandit_router.log.engine import need_program
from bandit_router.log.registration import Registration, begin_generation, hold, versions
from bandit_router.log.writer import committed
from bandit_router.rebuilding import refolded, take_over
from bandit_router.view import find_registration, lens_of

NEWEST = 5_000  # reward rows that are looked at
TRIES = 5
Take = Callable[[sa.Connection], None]  # believes of the archives what was refolded of them


def record(log: EventLog, learner: Learner, drift: Drift, *, seen: int | None = None) -> Drift | None:
    """Write down that a model has changed, and fold anew; return it, or None where others were first.

    Parameters
    ----------
    log : EventLog
    learner : Learner
    drift : Drift
    seen : int, optional
        How many changes of this model were known to whoever says so: with more it says nothing new.

    Raises
    ------
    UnknownModelError
        The router has no such model.
    ConflictError
        A change of this model at that moment is known.
    ArchiveError
        Decisions of before and after that moment are in one archive, whose files are out of reach.
    """
    for attempt in range(TRIES):
        registration = find_registration(log, learner.view.registration.name)
        if drift.model not in registration.known:
            raise UnknownModelError(f"no model {drift.model!r} in router {registration.name!r}")
        try:
            with _archived(log, learner, registration, drift) as take:
                job = partial(_write, registration=registration, drift=drift, seen=seen, take=take)
                written = committed(log.write(job))
            break
        except StaleGenerationError:  # another worker folded anew meanwhile
            if attempt == TRIES - 1:
                raise
    learner.take_up()
    return drift if written else None


@contextmanager
def _archived(
    log: EventLog, learner: Learner, registration: Registration, drift: Drift
) -> Iterator[Take]:
    """Refold those archives that have decisions of before and after the change."""
    if not log.read(lambda connection: has_bases(connection, registration.name)):
        yield lambda connection: None
        return
    features = learner.extractors.find(log, registration.settings.features)
    lens = lens_of(replace(registration, drifts=(*registration.drifts, drift)), features)
    with refolded(log, lens) as others:
        yield partial(take_over, lens=lens, others=others)


def _write(
    connection: sa.Connection, registration: Registration, drift: Drift, seen: int | None, take: Take
) -> bool:
    name = registration.name
    hold(connection, name)
    known = [other for other in read_drifts(connection, name) if other.model == drift.model]
    if seen is not None and len(known) != seen:
        return False
    if any(other.at == drift.at for other in known):
        raise ConflictError(f"a change of {drift.model!r} at that moment is known")
    current = versions(connection, name)
    if current is None or current[1] != registration.generation:
        raise StaleGenerationError(f"log: router {name!r} was folded anew meanwhile")
    need_program(connection, KNOWS_DRIFTS)
    take(connection)
    write_drift(connection, name, drift)
    into = begin_generation(connection, name)
    scale_checkpoints(connection, name, drift, generation=registration.generation, into=into)
    return True


# -- looking for changes ----------------------------------------------------------------------------


def find(log: EventLog, learner: Learner, *, now: float) -> list[Drift]:
    """Look for changes in the newest rewards, record them, and return those that nobody had."""
    registration = find_registration(log, learner.view.registration.name)
    active = [model.name for model in registration.models]
    since = {model: _told_at(registration, model) for model in active}
    read = partial(read_promised, router=registration.name, since=since, newest=NEWEST)
    promised, noise = log.read(read), learner.view.beliefs.prior.noise
    found = []
    for model in active:
        own = [one for one in promised if one.model == model]
        seen = sum(known.model == model for known in registration.drifts)
        sure = own if seen else own[LEARNT:]
        drift = _changed(sure, noise, now) or _unsettled(log, registration, model, own, now)
        if drift is not None and (recorded := record(log, learner, drift, seen=seen)) is not None:
            found.append(recorded)
    return found


def _told_at(registration: Registration, model: str) -> float:
    """Since when decisions have been made by somebody who knew of the model's last change [s]."""
    told = (d.created for d in registration.drifts if d.model == model and d.origin != "unsettled")
    return max(told, default=registration.born.get(model, 0.0))


def _changed(own: Sequence[Promised], noise: float, now: float) -> Drift | None:
    surprises = [surprise(one.value, one.mean, one.std, noise=noise, weight=one.weight) for one in own]
    place = changed_at(surprises)
    if place is None:
        return None
    new = surprises[place:]
    why = (
        f"{len(new)} rewards were {sum(new) / len(new):+.2f} standard deviations from what was promised"
    )
    return Drift(
        model=own[place].model, at=own[place].at, factor=KEEP, origin="surprise", why=why, created=now
    )


def _unsettled(
    log: EventLog, registration: Registration, model: str, own: Sequence[Promised], now: float
) -> Drift | None:
    """What is known of a model fades after a change until it has been tried often enough again."""
    drifts = sorted(
        (d for d in registration.drifts if d.model == model), key=lambda d: (d.created, d.at)
    )
    if not drifts or len(own) >= SETTLED:
        return None
    fadings = 0
    while drifts[-1 - fadings].origin == "unsettled":
        fadings += 1
    if fadings >= FADINGS or drifts[-1 - fadings].origin != "surprise":
        return None
    count = partial(decided_since, router=registration.name, moment=drifts[-1].created, most=FADING)
    if log.read(count) < FADING:
        return None
    why = f"{len(own)} rewards since it changed: it is to be tried again"
    return Drift(model=model, at=now, factor=fading(FADING), origin="unsettled", why=why, created=now)
