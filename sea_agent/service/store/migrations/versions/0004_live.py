"""Live mode: completions, feedback on them, publications of weights, users, and the runs that are live."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "live_runs",
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("frozen", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("erasures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("forced", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_live_runs_run")),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_live_runs")),
    )
    op.create_table(
        "live_users",
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("user_hash", sa.String(length=64), nullable=False),
        sa.Column("asks", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("erased_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_live_users_run")),
        sa.PrimaryKeyConstraint("run", "user_hash", name=op.f("pk_live_users")),
    )
    op.create_table(
        "publications",
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("decided_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "state IN ('offered', 'canary', 'live', 'retired', 'rejected', 'withdrawn')",
            name=op.f("ck_publications_state"),
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_publications_run")),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_publications")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_publications_run_version", "publications", ["run", "version"], unique=False)
    op.create_index(
        "uq_publications_live",
        "publications",
        ["run"],
        unique=True,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_table(
        "completions",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("user_hash", sa.String(length=64), nullable=True),
        sa.Column("conversation", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("stored", sa.Boolean(), nullable=False),
        sa.Column("heldout", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("eligible", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("asked", sa.String(length=10), nullable=True),
        sa.Column("query_id", sa.String(length=40), nullable=True),
        sa.Column("information", sa.Double(), nullable=True),
        sa.Column("regret", sa.Double(), nullable=True),
        sa.Column("policy_version", sa.BigInteger(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("first_token_at", sa.Double(), nullable=True),
        sa.Column("done_at", sa.Double(), nullable=True),
        sa.Column("erased_at", sa.Double(), nullable=True),
        sa.Column("erasure", sa.Integer(), nullable=True),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("responses", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.CheckConstraint("asked IN ('duel', 'audit')", name=op.f("ck_completions_asked")),
        sa.CheckConstraint("state IN ('begun', 'done', 'failed')", name=op.f("ck_completions_state")),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_completions_key_id")),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_completions_query_id")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_completions_run")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_completions")),
        sa.UniqueConstraint("id", name=op.f("uq_completions_id")),
    )
    op.create_index("ix_completions_query_id", "completions", ["query_id"], unique=False)
    op.create_index("ix_completions_created_at", "completions", ["run", "created_at"], unique=False)
    op.create_index(
        "ix_completions_kept",
        "completions",
        ["run", "created_at"],
        unique=False,
        sqlite_where=sa.text("erased_at IS NULL"),
        postgresql_where=sa.text("erased_at IS NULL"),
    )
    op.create_index(
        "ix_completions_erasure",
        "completions",
        ["run", "erasure"],
        unique=False,
        sqlite_where=sa.text("erasure IS NOT NULL"),
        postgresql_where=sa.text("erasure IS NOT NULL"),
    )
    op.create_index("ix_completions_run_number", "completions", ["run", "number"], unique=False)
    op.create_index("ix_completions_user", "completions", ["run", "user_hash", "number"], unique=False)
    op.create_index(
        "uq_completions_idempotency",
        "completions",
        ["key_id", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "feedback",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("completion_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("is_current", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.CheckConstraint("kind IN ('choice', 'thumbs', 'edit', 'used')", name=op.f("ck_feedback_kind")),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"], name=op.f("fk_feedback_completion_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_feedback")),
    )
    op.create_index(
        "uq_feedback_current",
        "feedback",
        ["completion_id", "kind"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    op.create_index("ix_feedback_completion_id", "feedback", ["completion_id"], unique=False)
