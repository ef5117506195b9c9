"""When people are told of questions, indexes of open ones, and forms in their own order."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for name in ("arguments", "schema"):
        op.alter_column("approvals", name, type_=sa.JSON(), postgresql_using=f"{name}::json")
    op.add_column(
        "approvals",
        sa.Column(
            "notify_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
        ),
    )
    op.add_column(
        "approvals",
        sa.Column("notify_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    op.create_index(
        "ix_approvals_unanswered",
        "approvals",
        ["owner_id", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_index(
        "ix_approvals_unnotified",
        "approvals",
        ["notify_at"],
        unique=False,
        postgresql_where=sa.text("status = 'open' AND notified_at IS NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index(
        "ix_approvals_unnotified",
        table_name="approvals",
        postgresql_where=sa.text("status = 'open' AND notified_at IS NULL"),
    )
    op.drop_index(
        "ix_approvals_unanswered",
        table_name="approvals",
        postgresql_where=sa.text("status = 'open'"),
    )
    op.drop_column("approvals", "notify_count")
    op.drop_column("approvals", "notify_at")
    for name in ("arguments", "schema"):
        op.alter_column(
            "approvals", name, type_=postgresql.JSONB(), postgresql_using=f"{name}::jsonb"
        )
