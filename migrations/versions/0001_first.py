"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("features_version", sa.String(length=64), nullable=False),
        sa.Column("half_life_s", sa.Float(precision=53), nullable=True),
        sa.Column("reward_seq", sa.BigInteger(), nullable=False),
        sa.Column("outcome_seq", sa.BigInteger(), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.Column("predictions", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_checkpoints_router_id"), "checkpoints", ["router", "id"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("probability", sa.Float(precision=53), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("policy", sa.String(length=255), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.Column("features_version", sa.String(length=64), nullable=False),
        sa.Column("candidates", sa.Text(), nullable=False),
        sa.Column("input_tokens", sa.Float(precision=53), nullable=False),
        sa.Column("predicted_usd", sa.Float(precision=53), nullable=True),
        sa.Column("cost_unit_usd", sa.Float(precision=53), nullable=True),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("conversation", sa.String(length=255), nullable=True),
        sa.Column("head", sa.String(length=36), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("body_hash", sa.String(length=64), nullable=True),
        sa.Column("prompt_hash", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
        sa.UniqueConstraint("router", "key", name=op.f("uq_decisions_router_key")),
    )
    op.create_index(op.f("ix_decisions_router_at_us"), "decisions", ["router", "at_us"], unique=False)
    op.create_index(
        op.f("ix_decisions_router_conversation"), "decisions", ["router", "conversation"], unique=False
    )
    op.create_index(op.f("ix_decisions_router_user"), "decisions", ["router", "user"], unique=False)
    op.create_table(
        "extractors",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("artefact", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_extractors")),
    )
    op.create_table(
        "feedback",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.Column("retracted_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_feedback")),
        sa.UniqueConstraint("decision_id", "key", name=op.f("uq_feedback_decision_id_key")),
        sa.UniqueConstraint("id", name=op.f("uq_feedback_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_feedback_router_source"), "feedback", ["router", "source"], unique=False)
    op.create_table(
        "models",
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("retired", sa.Boolean(), nullable=False),
        sa.Column("born_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("router", "name", name=op.f("pk_models")),
    )
    op.create_table(
        "outcomes",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reported_usd", sa.Float(precision=53), nullable=True),
        sa.Column("cost_usd", sa.Float(precision=53), nullable=True),
        sa.Column("latency_s", sa.Float(precision=53), nullable=True),
        sa.Column("ttft_s", sa.Float(precision=53), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outcomes")),
        sa.UniqueConstraint("decision_id", "revision", name=op.f("uq_outcomes_decision_id_revision")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_outcomes_router_seq"), "outcomes", ["router", "seq"], unique=False)
    op.create_table(
        "rewards",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("weight", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_rewards")),
        sa.UniqueConstraint("decision_id", "revision", name=op.f("uq_rewards_decision_id_revision")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_rewards_router_seq"), "rewards", ["router", "seq"], unique=False)
    op.create_table(
        "routers",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_routers")),
    )
    op.create_table(
        "settings",
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("router", "revision", name=op.f("pk_settings")),
    )
    op.create_table(
        "texts",
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("router", sa.String(length=255), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_texts")),
    )
    op.create_index(op.f("ix_texts_router_at_us"), "texts", ["router", "at_us"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_texts_router_at_us"), table_name="texts")
    op.drop_table("texts")
    op.drop_table("settings")
    op.drop_table("routers")
    op.drop_index(op.f("ix_rewards_router_seq"), table_name="rewards")
    op.drop_table("rewards")
    op.drop_index(op.f("ix_outcomes_router_seq"), table_name="outcomes")
    op.drop_table("outcomes")
    op.drop_table("models")
    op.drop_index(op.f("ix_feedback_router_source"), table_name="feedback")
    op.drop_table("feedback")
    op.drop_table("extractors")
    op.drop_index(op.f("ix_decisions_router_user"), table_name="decisions")
    op.drop_index(op.f("ix_decisions_router_conversation"), table_name="decisions")
    op.drop_index(op.f("ix_decisions_router_at_us"), table_name="decisions")
    op.drop_table("decisions")
    op.drop_index(op.f("ix_checkpoints_router_id"), table_name="checkpoints")
    op.drop_table("checkpoints")
