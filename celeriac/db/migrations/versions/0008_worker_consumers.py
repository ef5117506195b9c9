"""What a worker listens to, and whether its consumer works."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    names = postgresql.ARRAY(sa.Text())
    empty = sa.text("'{}'")
    op.add_column("workers", sa.Column("queues", names, server_default=empty, nullable=False))
    op.add_column("workers", sa.Column("consuming", sa.Boolean(), nullable=True))
    op.add_column(
        "workers", sa.Column("messages_dropped", sa.BIGINT(), server_default="0", nullable=False)
    )
    op.add_column(
        "workers", sa.Column("unknown_tasks", names, server_default=empty, nullable=False)
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("workers", "unknown_tasks")
    op.drop_column("workers", "messages_dropped")
    op.drop_column("workers", "consuming")
    op.drop_column("workers", "queues")
