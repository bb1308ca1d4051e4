"""The state of runs, guidelines, qualification, retention, assignment, and when texts were erased."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

RUN_STATES = ("open", "paused", "closed", "archived")


def upgrade() -> None:
    """Apply."""
    states = ", ".join(repr(state) for state in RUN_STATES)
    # Written out: SQLite adds a column with its constraint, but none to a table that is there.
    op.execute(
        "ALTER TABLE runs ADD COLUMN state VARCHAR(10) DEFAULT 'open' NOT NULL "
        f"CONSTRAINT ck_runs_state CHECK (state IN ({states}))"
    )
    op.add_column("runs", sa.Column("examples", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("runs", sa.Column("qualification", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("qualifying_share", sa.Double(), nullable=False, server_default="0.8"))
    op.add_column("runs", sa.Column("retention_days", sa.Double(), nullable=True))
    op.add_column("queries", sa.Column("erased_at", sa.Double(), nullable=True))
    op.create_table(
        "assignments",
        sa.Column("query_id", sa.String(length=40), nullable=False),
        sa.Column("annotator", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_assignments_query_id")),
        sa.PrimaryKeyConstraint("query_id", "annotator", name=op.f("pk_assignments")),
    )
    op.create_index("ix_assignments_annotator", "assignments", ["annotator"], unique=False)
    op.add_column("queries", sa.Column("assigned", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("ix_queries_waiting", "queries")
    op.create_index(
        "ix_queries_waiting",
        "queries",
        ["run", "assigned", sa.literal_column("priority DESC"), "places", "number"],
        unique=False,
        sqlite_where=sa.text("state = 'open' AND gold IS NULL"),
        postgresql_where=sa.text("state = 'open' AND gold IS NULL"),
    )
    op.create_index("ix_labels_query_id", "labels", ["query_id"], unique=False)
    op.create_index("ix_labels_lease_id", "labels", ["lease_id"], unique=False)
