"""Users' names are nowhere kept by a service that keeps them as hashes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from bandit_router import Model
from bandit_router.config import Config, Limits
from bandit_router.pseudonyms import Pseudonyms

KEY = b"0123456789abcdef"
ANN, BOB, EVE = "ann-xq7", "bob-xq7", "eve-xq7"
Client = Any  # the one of conftest.py


def test_no_name_is_kept_and_all_are_found_by_it(
    serve: Callable[..., Client], tmp_path: Path, redis_url: str
) -> None:
    names, file = Pseudonyms(KEY), tmp_path / "chat.db"
    config = Config(
        log=f"sqlite:///{file}",
        store=redis_url,
        models=(Model("small"), Model("large")),
        limits=Limits(key_per_minute=1e6, user_per_minute=1e6),
        user_key=KEY,
    )
    client = serve(config)
    made = client.post("/v1/decisions", json={"prompt": "x", "user": ANN, "conversation": "talk"}).json()
    of = made["id"]
    token = {"Authorization": f"Bearer {made['feedback_token']}"}

    def say(value: object, headers: Any = None, **more: Any) -> Any:
        body = {"decision_id": of, "name": "thumb", "value": value} | more
        answer = client.post("/v1/feedback", json=body, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    mine = say(True, token)
    assert say(True, source=ANN)["duplicate"] is True  # she is the same at every door
    say(False, source=BOB)
    say(0.5, token, name="rating", comment="fine")
    say(0.5, name="judge", source="judge:gpt")
    story = client.get(f"/v1/decisions/{of}").json()
    assert story["user"] == names.of(ANN)
    assert {word["source"] for word in story["feedback"]} == {names.of(ANN), names.of(BOB), "judge:gpt"}
    assert client.delete(f"/v1/feedback/{mine['id']}", headers=token).status_code == 200
    client.put("/v1/routers/new", json={})  # routers that are made later keep to it
    client.put("/v1/routers/new/models/m", json={})
    client.post("/v1/decisions", json={"prompt": "x", "user": EVE, "router": "new"})
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    kept += client.get("/metrics").content
    with redis.Redis.from_url(redis_url) as server:
        for name in server.keys("*"):
            kept += name + b"\0" + (server.dump(name) or b"")
    assert names.of(ANN).encode() in kept
    for name in (ANN, BOB, EVE):
        assert name.encode() not in kept
    counts = [
        client.delete(f"/v1/users/{name}").json()["decisions"] for name in (names.of(ANN), ANN, EVE)
    ]
    assert counts == [0, 1, 1]
    with sa.create_engine(config.log).connect() as connection:
        left = connection.execute(sa.text('SELECT count(*) FROM decisions WHERE "user" IS NOT NULL'))
        assert left.scalar() == 0
