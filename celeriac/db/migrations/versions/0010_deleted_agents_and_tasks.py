"""Agents and tasks can be deleted: they stay for their executions, and their names are free."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLES = ("agents", "tasks")


def upgrade() -> None:
    """Apply."""
    for table in _TABLES:
        op.add_column(table, sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        op.drop_constraint(f"uq_{table}_owner_id_name", table, type_="unique")
        op.create_index(
            f"uq_{table}_owner_id_name",
            table,
            ["owner_id", "name"],
            unique=True,
            postgresql_where=sa.text("deleted_at IS NULL"),
        )


def downgrade() -> None:
    """Go back: the names of what was deleted get their id behind them."""
    for table in _TABLES:
        op.execute(f"UPDATE {table} SET name = name || '-' || id WHERE deleted_at IS NOT NULL")  # noqa: S608
        op.drop_index(f"uq_{table}_owner_id_name", table)
        op.create_unique_constraint(f"uq_{table}_owner_id_name", table, ["owner_id", "name"])
        op.drop_column(table, "deleted_at")
