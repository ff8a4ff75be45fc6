"""What the service needs: keys and secrets, words that wait for their decision, answers for a judge."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("beyond", sa.Text(), nullable=True))
    op.create_table(
        "judgements",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("judge", sa.String(length=255), nullable=False),
        sa.Column("probability", sa.Float(precision=53), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("claimed_us", sa.BigInteger(), nullable=True),
        sa.Column("finished_us", sa.BigInteger(), nullable=True),
        sa.Column("grade", sa.Float(precision=53), nullable=True),
        sa.Column("cost_usd", sa.Float(precision=53), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgements")),
        sa.UniqueConstraint("decision_id", "judge", name=op.f("uq_judgements_decision_id_judge")),
    )
    op.create_index(
        op.f("ix_judgements_judge_claimed_us"), "judgements", ["judge", "claimed_us"], unique=False
    )
    op.create_index(op.f("ix_judgements_state_due_us"), "judgements", ["state", "due_us"], unique=False)
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.String(length=255), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_keys_hash")),
    )
    op.create_table(
        "pending",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=True),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pending")),
        sa.UniqueConstraint("decision_id", "key", name=op.f("uq_pending_decision_id_key")),
    )
    op.create_index(
        op.f("ix_pending_router_received_us"), "pending", ["router", "received_us"], unique=False
    )
    op.create_table(
        "secrets",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("retired_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_secrets")),
    )


def downgrade() -> None:
    for table in ("secrets", "pending", "keys", "judgements"):
        op.drop_table(table)
    with op.batch_alter_table("checkpoints") as batch:
        batch.drop_column("beyond")
