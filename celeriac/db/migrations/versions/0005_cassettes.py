"""Cassettes: recorded model traffic."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "cassettes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=True),
        sa.Column("interactions", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cassettes")),
    )
    op.create_index(op.f("ix_cassettes_owner_id_id"), "cassettes", ["owner_id", "id"], unique=False)
    op.create_index(
        "ix_cassettes_uploaded",
        "cassettes",
        ["owner_id", "digest"],
        unique=True,
        postgresql_where=sa.text("execution_id IS NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("cassettes")
