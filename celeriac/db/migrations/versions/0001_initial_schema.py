"""Creates the tables, indexes, functions and triggers of the first release."""

from pathlib import Path

from alembic import op

revision = "0001_initial"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_suffix(".sql").read_text("utf-8")
    # without parameters psycopg sends several statements at once and leaves % alone
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
