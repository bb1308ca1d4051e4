"""Implicit choices: with which side of a duel a conversation went on that nobody answered."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "implicit_choices",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("completion_id", sa.String(length=40), nullable=False),
        sa.Column("outcome", sa.String(length=10), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.CheckConstraint("outcome IN ('first', 'second')", name=op.f("ck_implicit_choices_outcome")),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"], name=op.f("fk_implicit_choices_completion_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_implicit_choices")),
        sa.UniqueConstraint("completion_id", name=op.f("uq_implicit_choices_completion_id")),
    )
    op.create_index(
        "ix_completions_asked",
        "completions",
        ["run", "conversation"],
        unique=False,
        sqlite_where=sa.text("asked IS NOT NULL"),
        postgresql_where=sa.text("asked IS NOT NULL"),
    )
