"""bandit-router doctor: each check is well where all is well, and says so where it is not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from click.testing import CliRunner

from bandit_router import EventLog, Model, Router
from bandit_router.cli import cli
from bandit_router.config import Config, Service
from bandit_router.doctor import Finding, diagnose, machine
from bandit_router.doctor import router as routers
from bandit_router.doctor.store import judged
from bandit_router.events import new_id
from bandit_router.log import tables as t
from bandit_router.log.keys import add_key, new_key
from bandit_router.log.rows import decision_row, to_us

MODELS = (
    Model("a", output_usd_per_mtok=1.0, context_tokens=1_000),
    Model("b", output_usd_per_mtok=2.0, context_tokens=1_000),
)
Ask = Callable[..., dict[str, str]]


@pytest.fixture
def embedded(sqlite_url: str) -> Config:
    """A log in a file, with a router in it."""
    with Router.open(sqlite_url, models=MODELS) as router:
        router.choose("hi")
    return Config(log=sqlite_url, models=MODELS)


@pytest.fixture
def servers(postgres_url: str, redis_url: str) -> Config:
    """A log on PostgreSQL, with beliefs in Redis."""
    with Router.open(postgres_url, store=redis_url, models=MODELS) as router:
        router.feedback(router.choose("hi").id, "thumb", True)
    return Config(log=postgres_url, store=redis_url, models=MODELS)


def findings(config: Config, **options: object) -> list[Finding]:
    return list(diagnose(config, **options))  # type: ignore[arg-type]


def told(config: Config, check: str, **options: object) -> list[tuple[str, str]]:
    """What one check says: (state, message)."""
    return [(f.state, f.message) for f in findings(config, **options) if f.check == check]


def change(config: Config, *statements: str) -> None:
    """Do something to a log."""
    engine = sa.create_engine(config.log.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_where_all_is_well(embedded: Config, servers: Config) -> None:
    for config in (embedded, servers):
        found = findings(config)
        bad = [finding for finding in found if finding.state in ("problem", "warning")]
        assert bad == []
        assert {"config", "store", "log", "schema", "keys", "journal", "models", "features"} <= {
            finding.check for finding in found
        }
    assert {finding.check for finding in found} > {"partitions", "clock", "store memory", "beliefs"}
    assert next(f.state for f in found if f.check == "beliefs") == "ok"
    assert ":secret@" not in str(findings(replace(servers, store="redis://:secret@localhost:1/0")))


def test_it_changes_nothing(embedded: Config, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    findings(embedded)
    findings(replace(embedded, log=f"sqlite:///{tmp_path / 'nothing.db'}"))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: after[name] for name in before if name.endswith(".db")} == before
    assert not (tmp_path / "nothing.db").exists()


def test_the_command(embedded: Config, tmp_path: Path) -> None:
    run, out = CliRunner().invoke, tmp_path / "out.json"
    done = run(cli, ["doctor", "--log", embedded.log, "--json", str(out)])
    assert done.exit_code == 0
    assert "ok       models default: 2 to choose from" in done.output
    assert "0 problems" in done.output
    body = json.loads(out.read_text())
    assert body["ok"]
    assert {name: value for name, value in body["checks"][5].items() if name != "message"} == {
        "check": "schema",
        "state": "ok",
        "router": None,
    }
    done = run(cli, ["doctor", "--log", embedded.log, "--router", "nobody", "--json", str(out)])
    assert done.exit_code == 1
    assert "problem  router nobody: the log has none of that name" in done.output
    assert not json.loads(out.read_text())["ok"]
    bad = tmp_path / "bad.toml"
    bad.write_text("[service]\nport = -1")
    done = run(cli, ["doctor", "--config", str(bad)])
    assert (done.exit_code, "problem  config: config" in done.output) == (1, True)


def test_config(embedded: Config) -> None:
    for table, said in [
        ({"alarms": {"join": 1}}, "no entry 'join'"),
        ({"tracing": {"share": 2}}, "share"),
        ({"judge": {"url": "http://x", "model": "m", "api_key_env": "NOT_SET"}}, "NOT_SET"),
    ]:
        ((state, message),) = told(replace(embedded, **table), "config")
        assert state == "problem"
        assert said in message


def test_a_log_that_cannot_be_seen(embedded: Config, tmp_path: Path) -> None:
    for log, said in [
        (f"sqlite:///{tmp_path / 'nothing.db'}", "there is no file"),
        ("postgresql://localhost:1/x", "start it"),
        ("mysql://localhost/x", "expected sqlite or postgresql"),
    ]:
        config = replace(embedded, log=log)
        ((state, message),) = told(config, "log")
        assert (state, said in message) == ("problem", True), message
        assert told(config, "routers")[0][0] == "unseen"


def test_schema(embedded: Config) -> None:
    change(embedded, "UPDATE alembic_version SET version_num = '9999'")
    ((state, message),) = told(embedded, "schema")
    assert (state, "finish the upgrade" in message) == ("warning", True)
    change(embedded, "UPDATE compatibility SET oldest = '9999'")
    ((state, message),) = told(embedded, "schema")
    assert (state, "upgrade bandit-router" in message) == ("problem", True)
    change(embedded, "UPDATE alembic_version SET version_num = '0001'")
    ((state, message),) = told(embedded, "schema")
    assert (state, "bandit-router migrate" in message) == ("problem", True)


def test_partitions(servers: Config) -> None:
    weeks = (
        "SELECT relname FROM pg_class WHERE relname ~ '^(decisions|texts|outcomes|feedback|rewards)_2'"
    )
    engine = sa.create_engine(servers.log.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        names = connection.exec_driver_sql(weeks + " AND relkind = 'r'").scalars().all()
    engine.dispose()
    change(servers, f"DROP TABLE {', '.join(names)}")
    assert told(servers, "partitions")[0][0] == "problem"
    with EventLog.open(servers.log, migrate=False) as log:
        lost = decision_of(servers)
        row = decision_row(lost, input_tokens=1.0, body_hash=None, prompt_hash=None)
        log.write(lambda c: c.execute(sa.insert(t.decisions), row)).result()
    change(servers, "ANALYZE decisions_default")
    assert told(servers, "partitions")[-1][0] == "warning"


def decision_of(config: Config):  # type: ignore[no-untyped-def]  # a Decision
    with Router.open("sqlite://", models=MODELS) as router:
        decision = router.choose("hi")
    far = time.time() + 90 * 86_400
    return replace(decision, id=new_id(far), at=far)


def test_clocks(servers: Config) -> None:
    found = told(servers, "clock", clock=lambda: time.time() + 60)
    assert [state for state, _ in found] == ["problem", "problem"]
    assert "ahead of Redis" in found[0][1]
    assert "ahead of PostgreSQL" in found[1][1]


def test_keys(embedded: Config) -> None:
    open_ = replace(embedded, service=Service(host="0.0.0.0"))
    ((state, message),) = told(open_, "keys")
    assert (state, "every call is refused" in message) == ("problem", True)
    now = time.time()
    with EventLog.open(embedded.log) as log:
        for name, scope, expires in [
            ("old", "route", now - 1),
            ("soon", "route", now + 86_400),
            ("root", "admin", None),
        ]:
            log.write(
                lambda c, n=name, s=scope, e=expires: add_key(
                    c, new_key(), name=n, scopes=[s], now=now, expires=e
                )
            ).result()
    found = told(open_, "keys")
    assert [state for state, _ in found] == ["ok", "warning", "warning"]
    assert "2 of 3 are valid" in found[0][1]
    assert {message.split()[0] for _, message in found[1:]} == {"'soon'", "'root'"}


def test_a_store_that_is_away(embedded: Config) -> None:
    ((state, message),) = told(replace(embedded, store="redis://localhost:1/0"), "store")
    assert (state, "start it" in message) == ("problem", True)
    assert told(replace(embedded, store="redis://localhost:1/0"), "beliefs")[0][0] == "unseen"


def test_a_bad_url_is_a_finding_and_no_password_is_in_it(embedded: Config, servers: Config) -> None:
    at = servers.log.split("@")[1]
    for places, check, state in (
        ({"store": "redis://:hunter2@localhost:port/0"}, "store", "problem"),
        ({"store": "redis://localhost:1/0?password=hunter2"}, "store", "problem"),
        ({"store": "redis:hunter2"}, "store", "problem"),
        ({"log": "postgresql://u:hunter2@localhost:port/x"}, "log", "problem"),
        ({"log": "postgres:hunter2@localhost/x"}, "log", "problem"),
        ({"log": "postgresql://localhost:1/x?password=hunter2"}, "log", "problem"),
        ({"log": f"postgresql://{at}?user=postgres&password=hunter2"}, "log", "ok"),
    ):
        config = replace(embedded, **places)  # type: ignore[arg-type]  # texts
        found = findings(config)
        assert [finding.state for finding in found if finding.check == check] == [state]
        assert ("unseen" in [f.state for f in found if f.check == "routers"]) == (state == "problem")
        assert "hunter2" not in f"{found} {config}"


@pytest.fixture
def client(servers: Config) -> Iterator[redis.Redis]:
    """What a Redis is changed by, and changed back."""
    with closing(redis.Redis.from_url(servers.store)) as client:
        yield client
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def test_how_redis_is_set_up(servers: Config, client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert told(servers, "store memory")[0][0] == "warning"
    client.config_set("maxmemory", 10**9)
    ((state, message),) = told(servers, "store memory")
    assert (state, "set noeviction" in message) == ("problem", True)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", client.info()["used_memory"] + 100_000)
    assert told(servers, "store memory")[0][0] == "warning"
    client.config_set("maxmemory", 0)
    client.replicaof("127.0.0.1", 1)
    assert told(servers, "store role")[0][0] == "problem"


def test_what_no_test_can_do_to_a_server() -> None:
    well = {
        "redis_version": "6.2.7",
        "role": "master",
        "maxmemory_policy": "noeviction",
        "aof_enabled": 1,
    }
    assert {finding.state for finding in judged(well)} == {"ok"}
    for broken in (
        {"redis_version": "5.0.14"},
        {"rdb_last_bgsave_status": "err"},
        {"aof_last_write_status": "err"},
    ):
        found = list(judged(well | broken, "node1"))
        assert [f.message.startswith("node1: ") for f in found if f.state == "problem"] == [True]


def test_beliefs(servers: Config, client: redis.Redis) -> None:
    with Router.open(servers.log, models=MODELS) as apart:  # its beliefs are elsewhere
        apart.feedback(apart.choose("hi").id, "thumb", True)
    assert told(servers, "beliefs")[0][0] == "ok"  # it may be on its way
    change(servers, f"UPDATE rewards SET made_us = {to_us(time.time() - 300)}")
    ((state, message),) = told(servers, "beliefs")
    assert (state, "1 rewards older than" in message) == ("problem", True)
    (head,) = client.keys("*:head")
    client.hset(head, "format", "99")
    ((state, message),) = told(servers, "beliefs")
    assert (state, "finish the upgrade" in message) == ("problem", True)
    client.hset(head, "format", "damaged")
    assert told(servers, "beliefs")[0][0] == "warning"
    client.flushdb()
    assert told(servers, "beliefs")[0][0] == "warning"


def test_models(embedded: Config) -> None:
    with Router.open(embedded.log, models=MODELS) as router:
        router.put_model(Model("free", context_tokens=10))
        router.put_model(Model("long", output_usd_per_mtok=1.0))
        found = told(embedded, "models")
        assert [state for state, _ in found] == ["warning", "warning", "ok"]
        assert found[0][1].startswith("free cost nothing")
        assert found[1][1].startswith("long take prompts of any length")
        for name in ("free", "long", "a"):
            router.retire_model(name)
        assert "only 'b'" in told(embedded, "models")[0][1]
        router.retire_model("b")
        assert told(embedded, "models") == [("problem", "there is none: `bandit-router models put`")]


def test_features(embedded: Config) -> None:
    change(embedded, """UPDATE settings SET body = '{"features": "fitted:none"}'""")
    ((state, message),) = told(embedded, "features")
    assert (state, "no extractor 'none'" in message) == ("problem", True)
    change(embedded, """UPDATE settings SET body = '{"features": "unknown"}'""")
    assert told(embedded, "features")[0][0] == "problem"
    for spec, wanted, said in (
        ("openai:model=m,base_url=http://localhost/v1", "ok", "dim=64"),
        ("openai:model=m,api_key_env=ABSENT_API_KEY", "problem", "no ABSENT_API_KEY"),
        ("openai:model=m,projection=none", "problem", "no extractor 'none'"),
        ("callable:name=n,version=1,dim=8", "unseen", "the host's own"),
    ):
        change(embedded, f"""UPDATE settings SET body = '{{"features": "{spec}"}}'""")
        ((state, message),) = told(embedded, "features")
        assert (state, said in message) == (wanted, True), message


def test_checkpoint(embedded: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with Router.open(embedded.log, models=MODELS) as router:
        router.feedback(router.choose("hi").id, "thumb", True)
    assert told(embedded, "checkpoint")[0][0] == "ok"
    change(embedded, "DELETE FROM checkpoints")
    monkeypatch.setattr(routers, "TAIL", 0)
    ((state, message),) = told(embedded, "checkpoint")
    assert (state, "rewards came since" in message) == ("warning", True)


def test_the_loop(embedded: Config) -> None:
    assert told(embedded, "loop")[0][0] == "unseen"
    with Router.open(embedded.log, models=MODELS) as router:
        decision = router.choose("hi")
    moments = [time.time() - 1_000 - i for i in range(400)]
    again = [replace(decision, id=new_id(at), at=at, model="a") for at in moments]
    rows = [decision_row(d, input_tokens=1.0, body_hash=None, prompt_hash=None) for d in again]
    with EventLog.open(embedded.log) as log:
        log.write(lambda c: c.execute(sa.insert(t.decisions), rows)).result()
    assert told(embedded, "one_model")[0][0] == "warning"
    assert told(embedded, "draws_unlike")[0][0] == "problem"
    assert told(embedded, "loop")[0][0] == "ok"


def test_disk(embedded: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(embedded, "disk")[0][0] == "ok"
    monkeypatch.setattr(machine, "SOME_BYTES", 2**80)
    assert told(embedded, "disk")[0][0] == "warning"
    monkeypatch.setattr(machine, "FEW_BYTES", 2**80)
    assert told(embedded, "disk")[0][0] == "problem"


def test_journal(embedded: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocked = replace(embedded, journal=str(tmp_path / "file" / "journal"))
    assert told(blocked, "journal")[0][0] == "problem"
    assert told(replace(embedded, journal_bytes=2**80), "journal")[0][0] == "warning"
    folder = tmp_path / "waiting"
    folder.mkdir()
    (folder / "1.journal").write_bytes(b"12345")
    (folder / "2.refused").touch()
    found = told(replace(embedded, journal=str(folder)), "journal")
    assert [state for state, _ in found] == ["ok", "warning", "problem"]
    assert "1 files (5 bytes)" in found[1][1]
    assert "2.refused" in found[2][1]
