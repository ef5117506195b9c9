"""Sessions, approvals, and executions that wait."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "approvals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=True),
        sa.Column("arguments", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("schema", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("on_expiry", sa.Text(), nullable=False),
        sa.Column("default", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=True),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answered_by", sa.Text(), nullable=True),
        sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('tool', 'question', 'form', 'budget')", name=op.f("ck_approvals_kind_known")
        ),
        sa.CheckConstraint(
            "on_expiry IN ('deny', 'approve', 'fail')", name=op.f("ck_approvals_on_expiry_known")
        ),
        sa.CheckConstraint(
            "status IN ('open', 'answered', 'expired', 'withdrawn')",
            name=op.f("ck_approvals_status_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
        sa.UniqueConstraint("execution_id", "key", name=op.f("uq_approvals_execution_id_key")),
    )
    op.create_index(
        "ix_approvals_open",
        "approvals",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_index(op.f("ix_approvals_owner_id_id"), "approvals", ["owner_id", "id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("runner", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("state", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "status IN ('active', 'ended', 'failed', 'deleted')",
            name=op.f("ck_sessions_status_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_execution_id"), "sessions", ["execution_id"], unique=False)
    op.create_index(op.f("ix_sessions_owner_id_id"), "sessions", ["owner_id", "id"], unique=False)
    op.add_column(
        "executions", sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )
    op.add_column("executions", sa.Column("waiting_for", sa.Text(), nullable=True))
    op.add_column(
        "executions", sa.Column("waiting_until", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index(
        "ix_executions_parked",
        "executions",
        ["waiting_until"],
        unique=False,
        postgresql_where=sa.text("status = 'waiting' AND waiting_until IS NOT NULL"),
    )
    op.create_index(
        "ix_executions_session",
        "executions",
        ["session_id", "id"],
        unique=False,
        postgresql_where=sa.text("session_id IS NOT NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index(
        "ix_executions_session",
        table_name="executions",
        postgresql_where=sa.text("session_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_executions_parked",
        table_name="executions",
        postgresql_where=sa.text("status = 'waiting' AND waiting_until IS NOT NULL"),
    )
    op.drop_column("executions", "waiting_until")
    op.drop_column("executions", "waiting_for")
    op.drop_column("executions", "options")
    op.drop_index(op.f("ix_sessions_owner_id_id"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_execution_id"), table_name="sessions")
    op.drop_table("sessions")
    op.drop_index(op.f("ix_approvals_owner_id_id"), table_name="approvals")
    op.drop_index(
        "ix_approvals_open", table_name="approvals", postgresql_where=sa.text("status = 'open'")
    )
    op.drop_table("approvals")
