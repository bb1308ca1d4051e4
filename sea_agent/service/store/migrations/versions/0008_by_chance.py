"""Whether chance alone decided which response of a live duel its user saw first; of earlier ones nobody knows."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("completions", sa.Column("by_chance", sa.Boolean(), server_default=sa.false(), nullable=False))
