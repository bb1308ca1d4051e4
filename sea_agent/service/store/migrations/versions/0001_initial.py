"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("annotator", sa.String(length=200), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("runs", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("parent", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["parent"], ["keys.id"], name=op.f("fk_keys_parent")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_keys_digest")),
    )
    op.create_index(op.f("ix_keys_parent"), "keys", ["parent"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column("votes_needed", sa.Integer(), nullable=False),
        sa.Column("repeat_share", sa.Double(), nullable=False),
        sa.Column("gold_share", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_table(
        "queries",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("client_key", sa.String(length=200), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=True),
        sa.Column("rule", sa.String(length=200), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("votes_needed", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("gold", sa.String(length=10), nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("first", sa.Text(), nullable=False),
        sa.Column("second", sa.Text(), nullable=False),
        sa.CheckConstraint("gold IN ('first', 'second')", name=op.f("ck_queries_gold")),
        sa.CheckConstraint("state IN ('open', 'answered', 'cancelled', 'expired')", name=op.f("ck_queries_state")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_queries_run")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_queries")),
        sa.UniqueConstraint("id", name=op.f("uq_queries_id")),
        sa.UniqueConstraint("run", "client_key", name=op.f("uq_queries_run_client_key")),
    )
    op.create_index(
        "ix_queries_gold",
        "queries",
        ["run", "number"],
        unique=False,
        sqlite_where=sa.text("gold IS NOT NULL"),
        postgresql_where=sa.text("gold IS NOT NULL"),
    )
    op.create_index(
        "ix_queries_passing",
        "queries",
        ["run", "expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'open' AND expires_at IS NOT NULL"),
        postgresql_where=sa.text("state = 'open' AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_queries_waiting",
        "queries",
        ["run", sa.literal_column("priority DESC"), "places", "number"],
        unique=False,
        sqlite_where=sa.text("state = 'open' AND gold IS NULL"),
        postgresql_where=sa.text("state = 'open' AND gold IS NULL"),
    )
    op.create_table(
        "requests",
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("annotator", sa.String(length=200), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_requests_run")),
        sa.PrimaryKeyConstraint("run", "annotator", "idempotency_key", name=op.f("pk_requests")),
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("query_id", sa.String(length=40), nullable=False),
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("annotator", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("swapped", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.CheckConstraint("kind IN ('vote', 'repeat', 'gold')", name=op.f("ck_leases_kind")),
        sa.CheckConstraint(
            "state IN ('live', 'labelled', 'skipped', 'released', 'expired')", name=op.f("ck_leases_state")
        ),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_leases_query_id")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_leases_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        sa.UniqueConstraint("query_id", "annotator", "kind", name=op.f("uq_leases_query_id_annotator_kind")),
        sa.UniqueConstraint("run", "annotator", "number", name=op.f("uq_leases_run_annotator_number")),
    )
    op.create_index(
        "ix_leases_ending",
        "leases",
        ["run", "expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_index(
        "uq_leases_live",
        "leases",
        ["run", "annotator"],
        unique=True,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_table(
        "labels",
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("query_id", sa.String(length=40), nullable=False),
        sa.Column("lease_id", sa.String(length=40), nullable=True),
        sa.Column("annotator", sa.String(length=200), nullable=False),
        sa.Column("entered_by", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("outcome", sa.String(length=10), nullable=False),
        sa.Column("swapped", sa.Boolean(), nullable=True),
        sa.Column("strength", sa.Integer(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("elapsed_ms", sa.Integer(), nullable=True),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("revises", sa.String(length=40), nullable=True),
        sa.Column("body_digest", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.CheckConstraint("kind IN ('vote', 'repeat', 'gold')", name=op.f("ck_labels_kind")),
        sa.CheckConstraint("outcome IN ('first', 'second', 'tie', 'both_bad')", name=op.f("ck_labels_outcome")),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_labels_lease_id")),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_labels_query_id")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_labels_run")),
        sa.PrimaryKeyConstraint("run", "seq", name=op.f("pk_labels")),
        sa.UniqueConstraint("id", name=op.f("uq_labels_id")),
    )
    op.create_index("ix_labels_annotator", "labels", ["run", "annotator"], unique=False)
    op.create_index(
        "ix_labels_revises",
        "labels",
        ["revises"],
        unique=False,
        sqlite_where=sa.text("revises IS NOT NULL"),
        postgresql_where=sa.text("revises IS NOT NULL"),
    )
    op.create_index(
        "uq_labels_lease",
        "labels",
        ["lease_id"],
        unique=True,
        sqlite_where=sa.text("revises IS NULL"),
        postgresql_where=sa.text("revises IS NULL"),
    )
    op.create_index(
        "uq_labels_vote",
        "labels",
        ["query_id", "annotator", "kind"],
        unique=True,
        sqlite_where=sa.text("revises IS NULL"),
        postgresql_where=sa.text("revises IS NULL"),
    )
