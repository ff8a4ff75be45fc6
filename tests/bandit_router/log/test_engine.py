"""Connecting and migrating: code and migrations make one schema, and versions run side by side."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from bandit_router import (
    ConflictError,
    Decision,
    EventLog,
    LogUnavailableError,
    LogVersionError,
    Model,
    Outcome,
    Router,
    SettingsError,
    Uniform,
)
from bandit_router.log.engine import (
    alembic_config,
    connect,
    pending_steps,
    schema_fits,
    schema_version,
    upgrade,
)
from bandit_router.log.partitions import read_partitions
from bandit_router.log.tables import HEAD, PARTITIONED, metadata

AHEAD = "0fffffff-ffff-7fff-8fff-ffffffffffff"  # an id of a clock that is far ahead
NEXT = "9000"  # a migration of a later version of the program
_EXPANDS = """
def upgrade():
    op.add_column("decisions", sa.Column("region", sa.String(16), nullable=True))
    op.create_table("regions", sa.Column("name", sa.String(16), primary_key=True))
"""
_CONTRACTS = """
def upgrade():
    op.drop_column("feedback", "share")
"""


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A log in a file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'chat.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes logs without tables."""
    numbers = count()
    if request.param == "sqlite":
        yield lambda: f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    with ExitStack() as stack:
        name = f"engine_{id(stack)}"
        yield lambda: stack.enter_context(server.new_database(f"{name}_{next(numbers)}"))


@contextmanager
def connected(url: str, *, to: str | None = None) -> Iterator[sa.Engine]:
    """An engine of a log, migrated up to some version; by default as it is."""
    engine = connect(url)
    try:
        if to is not None:
            with engine.execution_options(writes=True).begin() as connection:
                command.upgrade(alembic_config(connection), to)
        yield engine
    finally:
        engine.dispose()


def test_upgrade_from_nothing_equals_the_tables_in_code(new_url: Callable[[], str]) -> None:
    with connected(new_url(), to="head") as engine, connected(new_url()) as other:
        with engine.connect() as connection:
            options = {"compare_type": True, "include_object": _is_of(engine)}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, metadata) == []
        metadata.create_all(other)
        assert _schema(engine) - {"alembic_version"} == _schema(other)


def _is_of(engine: sa.Engine) -> Callable[..., bool]:
    """Whether a database of that kind should have something; Alembic does not ask."""

    def is_of(
        item: Any, name: str | None, *_: object
    ) -> bool:  # Any: a table, a constraint, an index ...
        if isinstance(item, sa.Table) and (name or "").endswith("_default"):
            return False  # made with the table that it is a part of
        condition = getattr(item, "_ddl_if", None)
        return condition is None or condition.dialect == engine.dialect.name

    return is_of


def _schema(engine: sa.Engine) -> set[str]:
    inspector = sa.inspect(engine)
    found = set()
    for table in inspector.get_table_names():
        found.add(table)
        if table == "alembic_version":
            continue
        found |= {
            f"{table}.{c['name']} {c['type']!r} {c['nullable']} {c['default']}"
            for c in inspector.get_columns(table)
        }
        found |= {f"{table} {i['name']} {i['column_names']}" for i in inspector.get_indexes(table)}
        found |= {
            f"{table} {u['name']} {u['column_names']}" for u in inspector.get_unique_constraints(table)
        }
        found |= {f"{table} {inspector.get_pk_constraint(table)['constrained_columns']}"}
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            found |= {str(partition) for partition in read_partitions(connection)}
    return found


def test_the_newest_migration_is_the_one_that_the_code_names() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_migrations_go_back_too(new_url: Callable[[], str]) -> None:
    with connected(new_url(), to="0003") as before, connected(new_url(), to="head") as engine:
        for version in ("0003", "base"):
            with engine.execution_options(writes=True).begin() as connection:
                command.downgrade(alembic_config(connection), version)
            if version == "0003":
                assert _schema(engine) == _schema(before)
        assert set(sa.inspect(engine).get_table_names()) <= {"alembic_version", "sqlite_sequence"}


def test_a_log_with_rows_is_migrated_and_believes_the_same(new_url: Callable[[], str]) -> None:
    """Its rows are those that a router of today writes, in the tables of a router before partitions."""
    first, old = new_url(), new_url()
    upgrade_and_close(first)
    with Router.open(first, models=[Model("a"), Model("b")], policy=Uniform()) as router:
        _play(router)
        story, believed = _told(router, _keyed(router).id), _sums(router)
    with connected(first) as engine, connected(old, to="0003") as older:
        _copy_rows(engine, older)
    upgrade_and_close(old)
    with Router.open(old) as router:
        again = _keyed(router)
        assert again.duplicate
        assert _told(router, again.id) == story
        assert _sums(router) == pytest.approx(believed, rel=1e-9)
        with pytest.raises(ConflictError):
            router.choose("another", key="k", user="user:1")
        router.feedback(router.choose("new").id, "thumb", True)
        router.feedback(again.id, "rating", 0.3, source="user:2")
        after = _sums(router)
        assert after != believed
        router.rebuild()
        assert _sums(router) == pytest.approx(after, rel=1e-9)


def upgrade_and_close(url: str) -> None:
    with connected(url) as engine:
        upgrade(engine)


def _keyed(router: Router) -> Decision:
    return router.choose("the same", key="k", user="user:1")


def _told(router: Router, decision_id: str) -> tuple[object, ...]:
    story = router.decision(decision_id)
    heard = (story.outcome, story.feedback, story.reward, story.revisions, story.reward_seq)
    return (story.decision.candidates, story.prompt, story.answer, *heard)


def _play(router: Router) -> None:
    """Decisions, outcomes, and words, some changed and taken back."""
    router.feedback(_keyed(router).id, "thumb", True)
    for k in range(12):
        decision = router.choose(f"prompt {k}", conversation=f"c{k // 3}", user=f"user:{k}")
        router.report(
            decision.id, Outcome(input_tokens=10 + k, output_tokens=k, latency_s=1.0), answer="x"
        )
        router.feedback(decision.id, "thumb", k % 2 == 0)
        if k % 3 == 0:
            router.report(decision.id, Outcome(input_tokens=10, output_tokens=5 * k, latency_s=2.0))
            router.feedback(decision.id, "thumb", k % 2 == 1)
    router.retract(router.feedback(decision.id, "rating", 0.7, source="user:2").id)


def _sums(router: Router) -> dict[str, float]:
    """How much is believed of each model, and how well of it."""
    return {
        f"{name} {what}": belief[what] or 0.0
        for name, belief in router.beliefs().items()
        for what in ("n", "mean_reward")
    }


def _copy_rows(new: sa.Engine, old: sa.Engine) -> None:
    """Copy what the tables of an old schema have room for, and let one decision be of the far future."""
    before = sa.MetaData()
    before.reflect(old)
    with new.connect() as source, old.execution_options(writes=True).begin() as target:
        for table in before.sorted_tables:
            if table.name == "alembic_version":
                continue
            rows = source.execute(sa.select(metadata.tables[table.name])).mappings().all()
            names = [column.name for column in table.c]
            kept = [{name: row[name] for name in names} for row in rows]
            if kept:
                target.execute(sa.insert(table), kept)
            if old.dialect.name == "postgresql" and "seq" in table.c:
                last = sa.select(sa.func.max(table.c.seq)).scalar_subquery()
                target.execute(sa.select(sa.func.setval(f"{table.name}_seq_seq", last + 1)))
        last = target.scalar(sa.select(sa.func.max(before.tables["decisions"].c.id)))
        for table, column in PARTITIONED.items():
            mine = table.c[column] == last
            target.execute(sa.update(table).where(mine).values({column: AHEAD}))


def test_a_router_goes_on_while_a_later_version_migrates_its_log(
    new_url: Callable[[], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, later = new_url(), _later_version(tmp_path, _EXPANDS)
    upgrade_and_close(url)
    with ExitStack() as stack:
        running = stack.enter_context(
            Router.open(url, models=[Model("a"), Model("b")], policy=Uniform())
        )
        _play(running)
        with connected(url) as engine:
            (step,) = pending_steps(engine, scripts=later)
            assert (step.version, step.contracts) == (NEXT, False)
            upgrade(engine, scripts=later)
            assert schema_version(engine) == NEXT
            assert schema_fits(engine) is None
        _play(running)
        assert not caplog.records
        beside = stack.enter_context(Router.open(url))
        assert f"version {NEXT}, newer than this program's {HEAD}, and fits" in caplog.text
        beside.feedback(running.choose("p").id, "thumb", True)
        running.feedback(beside.choose("p").id, "thumb", False)
        beside.rebuild()
        assert _sums(beside) == pytest.approx(_sums(running), rel=1e-9)


def test_a_router_is_refused_where_a_later_version_has_contracted(
    new_url: Callable[[], str], tmp_path: Path
) -> None:
    url, later = new_url(), _later_version(tmp_path, _CONTRACTS, oldest=NEXT)
    upgrade_and_close(url)
    with connected(url) as engine:
        (step,) = pending_steps(engine, scripts=later)
        assert (step.oldest, step.contracts) == (NEXT, True)
        upgrade(engine, scripts=later)
        assert "upgrade bandit-router" in (schema_fits(engine) or "")
        with pytest.raises(LogVersionError, match="not this one"):
            pending_steps(engine)
    with pytest.raises(LogVersionError, match=f"schema {NEXT} or later work, not this one of {HEAD}"):
        Router.open(url, models=[Model("a")])


def _later_version(folder: Path, body: str, *, oldest: str | None = None) -> Path:
    """The migrations of a program that is one version ahead; by default programs may be as old as before."""
    head = ScriptDirectory.from_config(alembic_config()).get_revision(HEAD)
    scripts = folder / "migrations"
    shutil.copytree(str(alembic_config().get_main_option("script_location")), scripts)
    told = {"revision": NEXT, "down_revision": HEAD, "branch_labels": None, "depends_on": None}
    lines = ["import sqlalchemy as sa", "from alembic import op"]
    lines += [
        f"{name} = {value!r}" for name, value in {**told, "oldest": oldest or head.module.oldest}.items()
    ]
    (scripts / "versions" / "9000_next.py").write_text("\n".join(lines) + body, "utf-8")
    return scripts


def test_an_embedded_log_is_made_and_found_again(url: str, tmp_path: Path) -> None:
    EventLog.open(url).close()
    assert (tmp_path / "chat.db").exists()
    with EventLog.open(url, migrate=False) as log:
        assert schema_version(log.engine) == HEAD


def test_a_missing_schema_is_refused_where_nobody_may_migrate(url: str) -> None:
    with pytest.raises(LogVersionError, match="bandit-router migrate"):
        EventLog.open(url, migrate=False)


def test_a_newer_log_that_does_not_say_who_may_use_it_is_refused(url: str, tmp_path: Path) -> None:
    EventLog.open(url).close()
    with sqlite3.connect(tmp_path / "chat.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.execute("DROP TABLE compatibility")
    raw.close()
    with pytest.raises(LogVersionError, match="upgrade bandit-router"):
        Router.open(url, models=[Model("a")])


def test_a_database_of_other_origin_is_refused(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "chat.db") as raw:
        raw.execute("CREATE TABLE routers (id INTEGER)")
    raw.close()
    with pytest.raises(LogVersionError, match="other origin"):
        EventLog.open(url)


def test_a_file_that_is_no_database_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_bytes(
        b"This is not a database, and it is long enough to be sure. " * 50
    )
    with pytest.raises(LogUnavailableError):
        EventLog.open(url)


def test_a_place_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError):
        EventLog.open(f"sqlite:///{tmp_path / 'nowhere' / 'chat.db'}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mongodb://u:hunter2@x",
        "sqlite:///x.db?synchronous=OFF",
        "postgres:hunter2@host/db",
        "postgresql://u:hunter2@host:port/db",
        "postgresql://u:hunter2@[::1/db",
        "postgresql+nope://u:hunter2@host/db",
    ],
)
def test_a_bad_url_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        EventLog.open(url)
    assert "hunt" not in "".join(traceback.format_exception(caught.value))


def test_a_password_is_not_shown_wherever_it_stands_in_the_url(postgres_url: str) -> None:
    user, at = postgres_url.split("://")[1].split("@")
    for url in (
        f"postgresql://{user}:hunter2@{at}",
        f"postgresql://{user}@{at}?password=hunter2",
        f"postgresql://{at}?user={user}&password=hunter2",
    ):
        with EventLog.open(url) as log:
            assert "hunter2" in log.url
            assert "hunter2" not in repr(log)


@pytest.mark.parametrize(("query", "level"), [("", 1), ("?synchronous=FULL", 2)])
def test_sqlite_is_set_up_for_many_processes(url: str, query: str, level: int) -> None:
    with EventLog.open(url + query) as log, log.reading() as connection:
        pragmas = {"journal_mode": "wal", "synchronous": level, "busy_timeout": 30_000}
        for pragma, wanted in pragmas.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == wanted


def test_the_memory_url_is_a_temporary_file_of_its_own() -> None:
    with EventLog.open("sqlite://") as one, EventLog.open("sqlite://") as two:
        assert one.engine.url.database != two.engine.url.database
        folder = Path(str(one.engine.url.database)).parent
        assert folder.is_dir()


def test_many_threads_may_open_at_once(url: str) -> None:
    errors: list[BaseException] = []

    def open_() -> None:
        try:
            EventLog.open(url).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
