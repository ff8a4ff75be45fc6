"""One router: its models, its features, its checkpoints, and whether its loop learns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa

from bandit_router.doctor.finding import Finding, ok, problem, unseen, warning
from bandit_router.doctor.reader import Reader
from bandit_router.embeddings import EmbeddedFeatures, Function, artefact_of, extractor_from_spec
from bandit_router.errors import BanditRouterError
from bandit_router.log import tables as t
from bandit_router.log.registration import Registration, find_extractor
from bandit_router.log.rows import from_us
from feedback.health import alarms_of, examine
from feedback.thresholds import Thresholds

TAIL = 100_000  # reward rows beyond the last checkpoint, which a start must read
DAY_S = 86_400.0


def check_models(registration: Registration) -> Iterator[Finding]:
    """Whether there is something to choose from, with prices and sizes."""
    name, models, settings = registration.name, registration.models, registration.settings
    if not models:
        yield problem("models", "there is none: `bandit-router models put`", router=name)
        return
    free = [m.name for m in models if not m.input_usd_per_mtok and not m.output_usd_per_mtok]
    priced = settings.preference.price_weight > 0 or settings.budget_usd_per_request is not None
    if free and (priced or len(free) < len(models)):
        said = f"{', '.join(free)} cost nothing by their prices"
        known = "put them with their prices, unless they are free or their outcomes report cost_usd"
        yield warning("models", f"{said}: {known}", router=name)
    unlimited = [m.name for m in models if m.context_tokens is None]
    if unlimited and len(unlimited) < len(models):
        said = f"{', '.join(unlimited)} take prompts of any length, as they have no context_tokens"
        yield warning("models", f"{said}: put them with it", router=name)
    if len(models) == 1:
        yield warning("models", f"there is only {models[0].name!r}: nothing is chosen", router=name)
    yield ok("models", f"{len(models)} to choose from", router=name)


def check_features(reader: Reader, registration: Registration) -> Finding:
    """Whether the features that the router decides by can be made here."""
    name, spec = registration.name, registration.settings.features
    try:
        found = reader.read(lambda c: extractor_from_spec(spec, partial(find_extractor, c)))
        if isinstance(found, EmbeddedFeatures):
            return _check_embeddings(found, name)
        artefact = artefact_of(found)
        kept = "" if artefact is None else f", {len(artefact[1]):,} bytes in the log"
        return ok("features", f"{spec}{kept}", router=name)
    except BanditRouterError as error:
        said = f"{error}: `Router.rebuild` with other features, where it cannot be brought back"
        return problem("features", said, router=name)


def _check_embeddings(features: EmbeddedFeatures, router: str) -> Finding:
    if isinstance(features.source, Function):
        said = f"{features.spec}: a function of the host's own, which only a host can give"
        return unseen("features", said, router=router)
    features.warm()
    return ok("features", features.spec, router=router)


def check_checkpoint(reader: Reader, registration: Registration, *, now: float) -> Finding:
    """Whether a start must read much of the log."""
    name = registration.name
    at, beyond = reader.read(lambda connection: checkpoint_of(connection, registration))
    if beyond > TAIL:
        return warning(
            "checkpoint",
            f"more than {TAIL:,} rewards came since the last one: every start reads them; see why "
            "workers keep none (`bandit-router rebuild` makes one)",
            router=name,
        )
    if at is None:
        return ok("checkpoint", f"none yet, and {beyond:,} rewards", router=name)
    return ok(
        "checkpoint", f"{(now - at) / DAY_S:.1f} days old, and {beyond:,} rewards since", router=name
    )


def checkpoint_of(connection: sa.Connection, registration: Registration) -> tuple[float | None, int]:
    """Return when a router's last checkpoint was made [s since 1970], and how many rewards came since."""
    c, r = t.checkpoints.c, t.rewards.c
    last = (
        sa.select(c.at_us, c.reward_seq)
        .where(c.router == registration.name, c.generation == registration.generation)
        .order_by(c.id.desc())
        .limit(1)
    )
    row = connection.execute(last).first()
    since = 0 if row is None else row.reward_seq
    beyond = sa.select(r.seq).where(r.router == registration.name, r.seq > since).limit(TAIL + 1)
    n = connection.execute(sa.select(sa.func.count()).select_from(beyond.subquery())).scalar_one()
    return (None if row is None else from_us(row.at_us)), n


def check_loop(
    reader: Reader, registration: Registration, thresholds: Thresholds, *, now: float
) -> Iterator[Finding]:
    """Whether the loop learns: the alarms that a running service would raise."""
    name = registration.name
    vitals, _ = examine(reader.read, registration, thresholds, now=now)
    hours = f"{thresholds.window_h:g} h"
    for alarm in alarms_of(vitals, thresholds):
        say = problem if alarm.severity == "critical" else warning
        yield say(alarm.code, alarm.message, router=name)
    if vitals.sampled < thresholds.decisions:
        few = f"{vitals.sampled:,} decisions in {hours}: shares are told from {thresholds.decisions} on"
        yield unseen("loop", few, router=name)
    else:
        said = f"{vitals.sampled:,} decisions of {hours} were looked at; of those older than 15 minutes"
        yield ok("loop", f"{said}, {vitals.joined} have feedback", router=name)
