"""Migrations of a later release, which is made up."""

from pathlib import Path

from alembic.script import ScriptDirectory

import celeriac.db.migrate

LATER = '''
"""A column for executions."""

from alembic import op

revision = "0002_adds"
down_revision = "BEFORE"
phase = "pre"


def upgrade():
    op.execute("ALTER TABLE executions ADD COLUMN later integer NOT NULL DEFAULT 7")
'''

_INDEXES = '''
"""Indexes, beside all other work."""

from celeriac.db.concurrently import create_index

revision = "0003_indexes"
down_revision = "0002_adds"
phase = "pre"


def concurrently(connection):
    create_index(connection, "ix_executions_later", "executions (later, id)")
    create_index(connection, "ix_users_later", "users (role)")


def upgrade():
    pass
'''

_DROPS = '''
"""What only older programs needed."""

from alembic import op

revision = "0004_drops"
down_revision = "0003_indexes"
phase = "post"


def upgrade():
    op.execute("ALTER TABLE executions DROP COLUMN request_id")
'''


def write_migrations(directory: Path, *, more: str = "") -> Path:
    """Write `0002_adds`, `0003_indexes` and `0004_drops`, and `more`, into `directory`."""
    here = Path(celeriac.db.migrate.__file__).parent / "migrations"
    head = ScriptDirectory(str(here)).get_current_head()
    first = LATER.replace("BEFORE", str(head))
    for number, module in enumerate([first, _INDEXES, _DROPS, *([more] if more else [])]):
        (directory / f"later_{number}.py").write_text(module)
    return directory
