"""When duels were ended that neither an answer nor their time ended."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("queries", sa.Column("ended_at", sa.Double(), nullable=True))
