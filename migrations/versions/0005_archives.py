"""Archives: what left the log, what of it is still believed, and who was erased."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
oldest = "0004"  # which works on, as long as nothing is archived

_DECISION = sa.String(length=36).with_variant(sa.String(length=36, collation="C"), "postgresql")
_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("first", _DECISION, nullable=False),
        sa.Column("before", _DECISION, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("closed_us", sa.BigInteger(), nullable=False),
        sa.Column("archived_us", sa.BigInteger(), nullable=True),
        sa.Column("files", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archives")),
    )
    op.create_index(op.f("ix_archives_state"), "archives", ["state"])
    op.create_table(
        "archived",
        sa.Column("id", _SEQ, autoincrement=True, nullable=False),
        sa.Column("archive", sa.String(length=36), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("first", _DECISION, nullable=False),
        sa.Column("last", _DECISION, nullable=False),
        sa.Column("prints", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archived")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_archived_kind_last"), "archived", ["kind", "last"])
    op.create_index(op.f("ix_archived_archive"), "archived", ["archive"])
    op.create_table(
        "bases",
        sa.Column("archive", sa.String(length=36), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("features_version", sa.String(length=64), nullable=False),
        sa.Column("half_life_s", sa.Float(precision=53), nullable=True),
        sa.Column("plain", sa.Boolean(), nullable=False),
        sa.Column("told", sa.Text(), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.Column("predictions", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("archive", "router", name=op.f("pk_bases")),
    )
    op.create_index(op.f("ix_bases_router"), "bases", ["router"])
    op.create_table(
        "erasures",
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("user_hash", sa.String(length=64), nullable=False),
        sa.Column("asked_us", sa.BigInteger(), nullable=False),
        sa.Column("done_us", sa.BigInteger(), nullable=True),
        sa.Column("left", sa.Text(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("router", "user_hash", name=op.f("pk_erasures")),
    )


def downgrade() -> None:
    for table in ("erasures", "bases", "archived", "archives"):
        op.drop_table(table)
