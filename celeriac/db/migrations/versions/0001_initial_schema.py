"""Creates the tables, indexes, functions and triggers of the first release."""

import hashlib
import re
from pathlib import Path

from alembic import op

_STATEMENTS = Path(__file__).with_suffix(".sql").read_text("utf-8")


def _digest(statements: str) -> str:
    """Return the hash of the statements without comments and layout."""
    bare = re.sub(r"--.*", "", statements)
    return hashlib.sha256(" ".join(bare.split()).encode()).hexdigest()[:12]


# Until the first release the statements change in place. Databases of other versions are
# recognised by their revision. The first release replaces this by a constant.
revision = f"0001_initial_{_digest(_STATEMENTS)}"
down_revision = None
branch_labels = None
depends_on = None
phase = "pre"


def upgrade() -> None:
    # without parameters psycopg sends several statements at once and leaves % alone
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})
