"""Routers, models and settings as rows: also those that a newer program has written."""

from __future__ import annotations

import json

import sqlalchemy as sa

from bandit_router import EventLog, Model
from bandit_router.log import registration
from bandit_router.log import tables as t
from bandit_router.log.writer import committed
from bandit_router.settings import Settings


def newest(connection: sa.Connection) -> dict[str, object]:
    s = t.settings.c
    body = connection.execute(sa.select(s.body).order_by(s.revision.desc()).limit(1)).scalar()
    return dict(json.loads(body or "{}"))


def test_what_a_newer_program_has_added_is_left_aside_and_carried_along(url: str) -> None:
    with EventLog.open(url) as log:
        made = lambda c: registration.create_router(c, "r", [Model("small")], Settings(), 1.0)  # noqa: E731
        committed(log.write(made))

        def newer(connection: sa.Connection) -> None:
            body = newest(connection)
            body |= {"mood": "calm", "preference": {"price_weight": 0.5, "beauty_weight": 1.0}}
            body |= {"metrics": {"stars": {"low": 1.0, "high": 5.0, "colour": "gold"}}}
            connection.execute(sa.update(t.settings).values(body=json.dumps(body)))
            model = {"name": "small", "output_usd_per_mtok": 2.0, "voice": True}
            connection.execute(sa.update(t.models).values(body=json.dumps(model)))

        committed(log.write(newer))
        found = log.read(lambda c: registration.read_registration(c, "r"))
        assert found is not None
        assert found.settings.preference.price_weight == 0.5
        assert found.settings.metrics["stars"].high == 5.0
        assert found.models == (Model("small", output_usd_per_mtok=2.0),)
        changed = found.settings.with_changes({"floor": 0.2}, now=2.0)
        committed(log.write(lambda c: registration.write_settings(c, "r", changed, 2.0)))
        body = log.read(newest)
    assert (body["mood"], body["floor"]) == ("calm", 0.2)
