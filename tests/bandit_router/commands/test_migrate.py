"""``bandit-router migrate``: what is to be done is told before it is, and `--check` does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from click.testing import CliRunner, Result

from bandit_router import LogUnavailableError, LogVersionError
from bandit_router.cli import cli
from bandit_router.log.engine import alembic_config, connect
from bandit_router.log.partitions import read_partitions
from bandit_router.log.tables import HEAD


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A log in a file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'chat.db'}"


def migrate(url: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["migrate", "--log", url, *options], catch_exceptions=False)


def make(url: str, version: str) -> None:
    """A log as an earlier version of the program made it."""
    engine = connect(url)
    with engine.execution_options(writes=True).begin() as connection:
        command.upgrade(alembic_config(connection), version)
    engine.dispose()


def execute(url: str, statement: str) -> None:
    engine = connect(url)
    with engine.execution_options(writes=True).begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_check_tells_what_is_to_be_done_and_does_nothing(url: str) -> None:
    make(url, "0003")
    for _ in range(2):
        checked = migrate(url, "--check")
        assert checked.exit_code == 1
        assert "0004: Partitions" in checked.stdout
        assert "0003:" not in checked.stdout
    assert migrate(url).exit_code == 0
    checked = migrate(url, "--check")
    assert (checked.exit_code, checked.stdout) == (0, "")


def test_who_must_stop_is_told_before(url: str) -> None:
    make(url, "0003")
    done = migrate(url)
    assert "a schema before 0004 no longer work" in done.stdout
    assert "Stop routers of earlier versions" in done.stderr
    assert f"has schema {HEAD}" in done.stdout
    again = migrate(url)
    assert again.stderr == ""
    assert again.stdout.count("\n") == 1


def test_a_new_log_concerns_nobody(url: str) -> None:
    done = migrate(url)
    assert "0001: " in done.stdout
    assert "contracts" not in done.stdout
    assert done.stderr == ""


def test_a_log_that_is_not_there_is_not_made_by_a_check(url: str, tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError, match="no file"):
        migrate(url, "--check")
    assert list(tmp_path.iterdir()) == []


def test_no_password_is_told(postgres_url: str) -> None:
    done = migrate(f"{postgres_url}?password=hunter2")
    assert f"has schema {HEAD}" in done.stdout
    assert "hunter2" not in done.output


def test_a_log_of_a_later_version_is_left_alone(url: str) -> None:
    migrate(url)
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    assert "has schema 9999" in migrate(url).stdout
    execute(url, "UPDATE compatibility SET oldest = '9999'")
    with pytest.raises(LogVersionError, match="schema 9999 or later work"):
        migrate(url)


def test_partitions_are_created_where_the_schema_is_up_to_date_too(postgres_url: str) -> None:
    engine = connect(postgres_url)
    with engine.connect() as connection:
        before = read_partitions(connection)
    execute(postgres_url, f"DROP TABLE {before[3].name}")
    assert migrate(postgres_url, "--check").exit_code == 0
    assert migrate(postgres_url).exit_code == 0
    with engine.connect() as connection:
        assert read_partitions(connection) == before
        assert connection.scalar(sa.text("SELECT oldest FROM compatibility")) <= HEAD
    engine.dispose()
