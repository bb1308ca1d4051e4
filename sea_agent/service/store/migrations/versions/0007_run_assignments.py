"""Runs that are for some annotators only."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "run_assignments",
        sa.Column("run", sa.String(length=100), nullable=False),
        sa.Column("annotator", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_assignments_run")),
        sa.PrimaryKeyConstraint("run", "annotator", name=op.f("pk_run_assignments")),
    )
