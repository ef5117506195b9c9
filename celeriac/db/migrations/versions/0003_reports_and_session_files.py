"""Reports as they were made; sessions whose files are gone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "reports",
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("format IN ('markdown', 'html')", name=op.f("ck_reports_format_known")),
        sa.PrimaryKeyConstraint("execution_id", "format", name=op.f("pk_reports")),
    )
    op.add_column(
        "sessions", sa.Column("files_removed_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index(
        "ix_sessions_doomed",
        "sessions",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status = 'deleted' AND files_removed_at IS NULL"),
    )
    op.create_index(
        "ix_sessions_idle",
        "sessions",
        ["updated_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('ended', 'failed')"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index(
        "ix_sessions_idle",
        table_name="sessions",
        postgresql_where=sa.text("status IN ('ended', 'failed')"),
    )
    op.drop_index(
        "ix_sessions_doomed",
        table_name="sessions",
        postgresql_where=sa.text("status = 'deleted' AND files_removed_at IS NULL"),
    )
    op.drop_column("sessions", "files_removed_at")
    op.drop_table("reports")
