"""The table of leads."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "leads",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.String(254), nullable=False, unique=True),
        sa.Column("company", sa.String(200), nullable=False),
        sa.Column("employees", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("fit", sa.String(10)),
        sa.Column("reason", sa.Text),
        sa.Column("score", sa.Integer),
        sa.Column("industry", sa.String(20)),
        sa.Column("summary", sa.Text),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("leads")
