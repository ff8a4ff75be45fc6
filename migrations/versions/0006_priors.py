"""Priors: what was known of a router's models before it heard of any answer."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
oldest = "0005"  # which believes no prior, and else works on


def upgrade() -> None:
    op.create_table(
        "priors",
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(length=255), nullable=False),
        sa.Column("features_version", sa.String(length=64), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("router", name=op.f("pk_priors")),
    )


def downgrade() -> None:
    op.drop_table("priors")
