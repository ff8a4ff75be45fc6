"""Drifts: a model has changed, so that what was learnt of it before counts less."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
oldest = "0005"  # which works on until the first event: that needs a program that knows events


def upgrade() -> None:
    op.create_table(
        "drifts",
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("factor", sa.Float(precision=53), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("router", "model", "at_us", name=op.f("pk_drifts")),
    )


def downgrade() -> None:
    op.drop_table("drifts")
