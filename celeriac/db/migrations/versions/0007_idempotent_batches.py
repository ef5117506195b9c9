"""Numbers of batches, and reservations that outlast their release."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "executions", sa.Column("batch_no", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column(
        "budget_reservations", sa.Column("released_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index(
        "ix_budget_reservations_released_at",
        "budget_reservations",
        ["released_at"],
        unique=False,
        postgresql_where=sa.text("released_at IS NOT NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index(
        "ix_budget_reservations_released_at",
        table_name="budget_reservations",
        postgresql_where=sa.text("released_at IS NOT NULL"),
    )
    op.drop_column("budget_reservations", "released_at")
    op.drop_column("executions", "batch_no")
