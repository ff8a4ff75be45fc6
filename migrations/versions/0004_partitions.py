"""Partitions by the decision's id on PostgreSQL, idempotency keys apart, and who may use this schema."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
oldest = "0004"  # programs before it look for idempotency keys where they no longer are

_DECISION = sa.String(length=36).with_variant(sa.String(length=36, collation="C"), "postgresql")
_WEEK_S, _MONDAY_S = 604_800, 345_600  # 1970 began on a Thursday
# By what each table is partitioned, and what is unique in it: before, and from now on.
_TABLES = {
    "decisions": ("id", {"uq": "router, key"}, {"pk": "id"}),
    "texts": ("decision_id", {}, {"pk": "decision_id"}),
    "outcomes": (
        "decision_id",
        {"pk": "seq", "uq": "decision_id, revision"},
        {"pk": "decision_id, revision"},
    ),
    "feedback": ("decision_id", {"pk": "seq", "uq": "id"}, {"pk": "decision_id, id", "ix": "id"}),
    "rewards": (
        "decision_id",
        {"pk": "seq", "uq": "decision_id, revision"},
        {"pk": "decision_id, revision"},
    ),
}
# What is the same in both.
_UNIQUE = {"feedback": "decision_id, key"}
_INDEXES = {
    "decisions": ("router, at_us", 'router, "user"', "router, conversation"),
    "texts": ("router, at_us",),
    "outcomes": ("router, seq",),
    "feedback": ("router, source",),
    "rewards": ("router, seq",),
}
_COUNTED = ("outcomes", "feedback", "rewards")
_REFERRING = ("pending", "judgements")


def upgrade() -> None:
    op.create_table(
        "compatibility",
        sa.Column("oldest", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("oldest", name=op.f("pk_compatibility")),
    )
    op.create_table(
        "decision_keys",
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("decision_id", _DECISION, nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("router", "key", name=op.f("pk_decision_keys")),
    )
    op.create_index(op.f("ix_decision_keys_decision_id"), "decision_keys", ["decision_id"])
    op.execute(
        "INSERT INTO decision_keys (router, key, decision_id, body_hash) "
        "SELECT router, key, id, coalesce(body_hash, '') FROM decisions WHERE key IS NOT NULL"
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in _REFERRING:
            _collate(table, "decision_id", "C")
        for table in _TABLES:
            _partition(table)
    else:
        with op.batch_alter_table("decisions") as batch:
            batch.drop_constraint(op.f("uq_decisions_router_key"), type_="unique")


def _partition(table: str) -> None:
    """Make an empty partitioned table of the same name, and the old one its first partition."""
    column, before, after = _TABLES[table]
    old, bound = f"{table}_first", _next_week()
    for kind, columns in before.items():
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {_name(kind, table, columns)}")
    _collate(table, column, "C")
    if table == "decisions":
        _collate(table, "head", "C")
    _rename_with_indexes(table, old)
    op.execute(f"CREATE TABLE {table} (LIKE {old} INCLUDING DEFAULTS) PARTITION BY RANGE ({column})")
    if table in _COUNTED:
        op.execute(f"ALTER SEQUENCE {table}_seq_seq OWNED BY {table}.seq")
    _constrain(table, after)
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute(  # ids of clocks that are far ahead
        f"WITH later AS (DELETE FROM {old} WHERE {column} >= '{bound}' RETURNING *) "
        f"INSERT INTO {table} SELECT * FROM later"
    )
    if op.get_bind().scalar(sa.text(f"SELECT EXISTS (SELECT FROM {old})")):
        op.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO ('{bound}')"
        )
    else:
        op.execute(f"DROP TABLE {old}")


def _collate(table: str, column: str, collation: str) -> None:
    op.execute(f'ALTER TABLE {table} ALTER COLUMN {column} TYPE varchar(36) COLLATE "{collation}"')


def _rename_with_indexes(table: str, new: str) -> None:
    op.execute(f"ALTER TABLE {table} RENAME TO {new}")
    kept = sa.text(
        "SELECT indexname FROM pg_indexes WHERE tablename = :of AND schemaname = current_schema"
    )
    for name in op.get_bind().scalars(kept, {"of": new}).all():
        op.execute(f"ALTER INDEX {name} RENAME TO {name.replace(table, new, 1)}")


def _constrain(table: str, unique: dict[str, str]) -> None:
    kinds = {"pk": "PRIMARY KEY", "uq": "UNIQUE"}
    if table in _UNIQUE:
        op.execute(_adding(table, "uq", "UNIQUE", _UNIQUE[table]))
    for kind, columns in unique.items():
        if kind == "ix":
            op.execute(f"CREATE INDEX {_name(kind, table, columns)} ON {table} ({columns})")
        else:
            op.execute(_adding(table, kind, kinds[kind], columns))
    for columns in _INDEXES[table]:
        op.execute(f"CREATE INDEX {_name('ix', table, columns)} ON {table} ({columns})")


def _adding(table: str, kind: str, what: str, columns: str) -> str:
    return f"ALTER TABLE {table} ADD CONSTRAINT {_name(kind, table, columns)} {what} ({columns})"


def _name(kind: str, table: str, columns: str) -> str:
    told = "" if kind == "pk" else "_" + columns.replace('"', "").replace(", ", "_")
    return f"{kind}_{table}{told}"


def _next_week() -> str:
    """The least id of next week: UUIDv7s begin with milliseconds since 1970."""
    now = int(op.get_bind().scalar(sa.text("SELECT floor(extract(epoch FROM now()))")))
    ends = (now - _MONDAY_S) // _WEEK_S * _WEEK_S + _MONDAY_S + _WEEK_S
    return str(uuid.UUID(int=ends * 1000 << 80))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in _TABLES:
            _join(table)
        for table in _REFERRING:
            _collate(table, "decision_id", "default")
    else:
        with op.batch_alter_table("decisions") as batch:
            batch.create_unique_constraint(op.f("uq_decisions_router_key"), ["router", "key"])
    op.drop_table("decision_keys")
    op.drop_table("compatibility")


def _join(table: str) -> None:
    """Make one plain table of all partitions."""
    column, before, _ = _TABLES[table]
    old = f"{table}_parts"
    op.execute(f"ALTER TABLE {table} RENAME TO {old}")
    op.execute(f"CREATE TABLE {table} (LIKE {old} INCLUDING DEFAULTS)")
    if table in _COUNTED:
        op.execute(f"ALTER SEQUENCE {table}_seq_seq OWNED BY {table}.seq")
    op.execute(f"INSERT INTO {table} SELECT * FROM {old}")
    op.execute(f"DROP TABLE {old}")
    _collate(table, column, "default")
    if table == "decisions":
        _collate(table, "head", "default")
    _constrain(table, {"pk": column} | before)
