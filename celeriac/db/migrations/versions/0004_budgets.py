"""Budgets, reservations, and totals of usage by day."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "budget_reservations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("budget_id", sa.Uuid(), nullable=False),
        sa.Column("window_key", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Numeric(precision=24, scale=9), nullable=False),
        sa.Column("tokens", sa.BIGINT(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", "budget_id", name=op.f("pk_budget_reservations")),
    )
    op.create_table(
        "budget_windows",
        sa.Column("budget_id", sa.Uuid(), nullable=False),
        sa.Column("window_key", sa.Text(), nullable=False),
        sa.Column(
            "spent_cost", sa.Numeric(precision=24, scale=9), server_default="0", nullable=False
        ),
        sa.Column("spent_tokens", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column(
            "reserved_cost", sa.Numeric(precision=24, scale=9), server_default="0", nullable=False
        ),
        sa.Column("reserved_tokens", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column(
            "extra_cost", sa.Numeric(precision=24, scale=9), server_default="0", nullable=False
        ),
        sa.Column("extra_tokens", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column("raised", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("budget_id", "window_key", name=op.f("pk_budget_windows")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("max_cost", sa.Numeric(precision=24, scale=9), nullable=True),
        sa.Column("max_tokens", sa.BIGINT(), nullable=True),
        sa.Column("on_budget", sa.Text(), nullable=False),
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
        sa.CheckConstraint("on_budget IN ('stop', 'ask')", name=op.f("ck_budgets_on_budget_known")),
        sa.CheckConstraint("period IN ('day', 'month')", name=op.f("ck_budgets_period_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
        sa.UniqueConstraint("subject_id", "period", name=op.f("uq_budgets_subject_id_period")),
    )
    op.create_index(op.f("ix_budgets_owner_id_id"), "budgets", ["owner_id", "id"], unique=False)
    op.create_table(
        "usage_days",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("calls", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column("unpriced_calls", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.BIGINT(), server_default="0", nullable=False),
        sa.Column("cost", sa.Numeric(precision=24, scale=9), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint(
            "owner_id", "day", "task_id", "provider", "model", name=op.f("pk_usage_days")
        ),
    )
    op.create_index(op.f("ix_usage_days_day"), "usage_days", ["day"], unique=False)
    op.create_index(
        op.f("ix_usage_days_task_id_day"), "usage_days", ["task_id", "day"], unique=False
    )
    op.create_index(
        "ix_approvals_budget",
        "approvals",
        ["key"],
        unique=False,
        postgresql_where=sa.text("kind = 'budget' AND status = 'open'"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index(
        "ix_approvals_budget",
        table_name="approvals",
        postgresql_where=sa.text("kind = 'budget' AND status = 'open'"),
    )
    op.drop_index(op.f("ix_usage_days_task_id_day"), table_name="usage_days")
    op.drop_index(op.f("ix_usage_days_day"), table_name="usage_days")
    op.drop_table("usage_days")
    op.drop_index(op.f("ix_budgets_owner_id_id"), table_name="budgets")
    op.drop_table("budgets")
    op.drop_table("budget_windows")
    op.drop_table("budget_reservations")
