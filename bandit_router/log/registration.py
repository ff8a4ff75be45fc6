"""Routers, their models and their settings: rows that every change of theirs counts up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from bandit_router.drift import Drift
from bandit_router.errors import LogUnavailableError, SettingsError
from bandit_router.events import Model
from bandit_router.log import tables as t
from bandit_router.log.drifts import read_drifts
from bandit_router.log.rows import from_us, to_us
from bandit_router.settings import Settings, model_from_log, model_to_json, understood


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A router as the log has it.

    Attributes
    ----------
    created_us : int
        When it was made [us since 1970].
    revision : int
        Grows with every change of models or settings.
    generation : int
        Grows when beliefs must be folded again.
    models, retired : tuple of Model
        Those to choose from, and those that only keep their evidence.
    born : dict of str to float
        Since when decisions count as evidence for a model [s since 1970].
    drifts : tuple of Drift
        Which models have changed, and when, the earliest first.
    """

    name: str
    created_us: int
    revision: int
    generation: int
    settings: Settings
    models: tuple[Model, ...]
    retired: tuple[Model, ...] = ()
    born: dict[str, float] = field(default_factory=dict)
    drifts: tuple[Drift, ...] = ()

    @property
    def book(self) -> str:
        """Under what a store keeps its beliefs: those of another log's router have another name."""
        return f"{self.name}@{self.created_us}"

    @property
    def known(self) -> dict[str, Model]:
        """All models by name, retired ones too."""
        return {model.name: model for model in (*self.models, *self.retired)}


def versions(connection: sa.Connection, router: str) -> tuple[int, int] | None:
    """Return (revision, generation), or None if there is no such router."""
    c = t.routers.c
    row = connection.execute(sa.select(c.revision, c.generation).where(c.name == router)).first()
    return None if row is None else (row.revision, row.generation)


def router_names(connection: sa.Connection) -> list[str]:
    """Return the names of all routers, sorted."""
    return list(connection.execute(sa.select(t.routers.c.name).order_by(t.routers.c.name)).scalars())


def read_registration(connection: sa.Connection, router: str) -> Registration | None:
    """Return a router with its models and settings, or None.

    Raises
    ------
    LogUnavailableError
        Its rows hold something that this program does not understand.
    """
    own = sa.select(t.routers).where(t.routers.c.name == router)
    found = connection.execute(own).first()
    if found is None:
        return None
    c = t.models.c
    rows = connection.execute(sa.select(t.models).where(c.router == router).order_by(c.place)).all()
    body = _last_settings(connection, router)
    try:
        models = [(row.retired, model_from_log(json.loads(row.body))) for row in rows]
        settings = Settings.from_json(understood(json.loads(body or "{}"))[0])
    except (SettingsError, json.JSONDecodeError) as error:
        raise LogUnavailableError(f"log: router {router!r}: {error}") from error
    return Registration(
        name=router,
        created_us=found.created_us,
        revision=found.revision,
        generation=found.generation,
        settings=settings,
        models=tuple(model for retired, model in models if not retired),
        retired=tuple(model for retired, model in models if retired),
        born={row.name: from_us(row.born_us) for row in rows if row.born_us},
        drifts=read_drifts(connection, router),
    )


def create_router(
    connection: sa.Connection, router: str, models: Sequence[Model], settings: Settings, now: float
) -> Registration:
    """Return the router, made with these models and settings if there is none yet."""
    if versions(connection, router) is None:
        row = {"name": router, "created_us": to_us(now), "revision": 0, "generation": 0}
        connection.execute(sa.insert(t.routers), row)
        write_settings(connection, router, settings, now)
        for model in models:
            put_model(connection, router, model)
    found = read_registration(connection, router)
    assert found is not None
    return found


def hold(connection: sa.Connection, router: str) -> None:
    """Hold a router against other writers until the transaction ends."""
    c = t.routers.c
    connection.execute(sa.select(c.name).where(c.name == router).with_for_update())


def write_settings(connection: sa.Connection, router: str, settings: Settings, now: float) -> None:
    """Write a new revision of a router's settings; what a newer program has added to them stays."""
    revision = _count_up(connection, router)
    _, added = understood(json.loads(_last_settings(connection, router) or "{}"))
    row = {
        "router": router,
        "revision": revision,
        "at_us": to_us(now),
        "body": json.dumps({**added, **settings.to_json()}),
    }
    connection.execute(sa.insert(t.settings), row)


def _last_settings(connection: sa.Connection, router: str) -> str | None:
    s = t.settings.c
    mine = sa.select(s.body).where(s.router == router).order_by(s.revision.desc()).limit(1)
    return connection.execute(mine).scalar()


def fix_cost_unit(connection: sa.Connection, router: str, unit_usd: float, now: float) -> None:
    """Write down the dollars that a price weight is per, unless that was done before."""
    hold(connection, router)
    found = read_registration(connection, router)
    if found is not None and found.settings.cost_unit_usd is None:
        write_settings(connection, router, replace(found.settings, cost_unit_usd=unit_usd), now)


def put_model(
    connection: sa.Connection, router: str, model: Model, *, reset: float | None = None
) -> None:
    """Add, change or resume a model.

    Parameters
    ----------
    reset : float, optional
        Forget what it learnt from decisions before this moment [s].
    """
    hold(connection, router)
    c = t.models.c
    mine = (c.router == router, c.name == model.name)
    values = {"body": json.dumps(model_to_json(model)), "retired": False}
    if reset is not None:
        values["born_us"] = to_us(reset)
        begin_generation(connection, router)
    if connection.execute(sa.update(t.models).where(*mine).values(values)).rowcount == 0:
        last = connection.execute(sa.select(sa.func.max(c.place)).where(c.router == router)).scalar()
        place = 0 if last is None else last + 1
        row = {"router": router, "name": model.name, "place": place, "born_us": 0} | values
        connection.execute(sa.insert(t.models), row)
    _count_up(connection, router)


def retire_model(connection: sa.Connection, router: str, name: str) -> bool:
    """Take a model out of the choice; return whether it was there to take."""
    c = t.models.c
    mine = (c.router == router, c.name == name, c.retired.is_(False))
    found = connection.execute(sa.update(t.models).where(*mine).values(retired=True)).rowcount > 0
    if found:
        _count_up(connection, router)
    return found


def begin_generation(connection: sa.Connection, router: str, *, after: int = 0) -> int:
    """Make every worker fold this router's beliefs again; return the new generation, which is after another."""
    c = t.routers.c
    last = sa.case((c.generation > after, c.generation), else_=after)
    connection.execute(sa.update(t.routers).where(c.name == router).values(generation=last + 1))
    _count_up(connection, router)
    return int(connection.execute(sa.select(c.generation).where(c.name == router)).scalar_one())


def _count_up(connection: sa.Connection, router: str) -> int:
    c = t.routers.c
    connection.execute(sa.update(t.routers).where(c.name == router).values(revision=c.revision + 1))
    return int(connection.execute(sa.select(c.revision).where(c.name == router)).scalar_one())


def keep_extractor(connection: sa.Connection, version: str, artefact: bytes, now: float) -> None:
    """Keep a fitted feature extractor; a version that is there already stays as it is."""
    c = t.extractors.c
    if connection.execute(sa.select(c.version).where(c.version == version)).first() is None:
        row = {"version": version, "at_us": to_us(now), "artefact": artefact}
        connection.execute(sa.insert(t.extractors), row)


def find_extractor(connection: sa.Connection, version: str) -> bytes | None:
    """Return the artefact of a fitted feature extractor, or None."""
    c = t.extractors.c
    return connection.execute(sa.select(c.artefact).where(c.version == version)).scalar()
