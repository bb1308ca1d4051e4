"""In whose stead a gold duel or a repeat is shown: its lease takes the place of an ordinary duel."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # Written out: SQLite adds a column with its constraint, but none to a table that is there.
    op.execute(
        "ALTER TABLE leases ADD COLUMN instead_of VARCHAR(40) CONSTRAINT fk_leases_instead_of REFERENCES queries (id)"
    )
    op.create_index(
        "ix_leases_instead_of",
        "leases",
        ["instead_of"],
        unique=False,
        sqlite_where=sa.text("instead_of IS NOT NULL"),
        postgresql_where=sa.text("instead_of IS NOT NULL"),
    )
