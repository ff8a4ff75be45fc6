"""How far each rater counts: what of a rater's allowance is used, and each word's share of a full one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("feedback", sa.Column("share", sa.Float(precision=53), nullable=True))
    op.add_column("feedback", sa.Column("channel", sa.String(length=255), nullable=True))
    op.add_column("keys", sa.Column("influence", sa.Float(precision=53), nullable=True))
    op.create_table(
        "raters",
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("rater", sa.String(length=255), nullable=False),
        sa.Column("used", sa.Float(precision=53), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("router", "rater", name=op.f("pk_raters")),
    )


def downgrade() -> None:
    op.drop_table("raters")
    for table, column in (("keys", "influence"), ("feedback", "channel"), ("feedback", "share")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
