"""Migrations of a later release, which is made up."""

import os
import shutil
from pathlib import Path

from alembic.script import ScriptDirectory

import celeriac.db.migrate
from celeriac.version import __version__
from tests.support.programs import REPOSITORY

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
    op.execute("DROPS")
'''

_COLUMN = "ALTER TABLE executions DROP COLUMN request_id"
_INDEX = "DROP INDEX ix_executions_truncated"


def next_release(directory: Path) -> dict[str, str]:
    """Make a release after this one in `directory`, and return the environment of its programs.

    It has the programs of this release, another version, and the three migrations; what
    `0004_drops` drops is an index that its programs can do without.
    """
    package = directory / "celeriac"
    shutil.copytree(REPOSITORY / "celeriac", package)
    version = package / "version.py"
    version.write_text(version.read_text().replace(__version__, "99.0.0"))
    write_migrations(package / "db" / "migrations" / "versions", drops=_INDEX)
    return {"PYTHONPATH": os.pathsep.join(map(str, (directory, REPOSITORY)))}


def write_migrations(directory: Path, *, more: str = "", drops: str = _COLUMN) -> Path:
    """Write `0002_adds`, `0003_indexes` and `0004_drops`, and `more`, into `directory`."""
    here = Path(celeriac.db.migrate.__file__).parent / "migrations"
    head = ScriptDirectory(str(here)).get_current_head()
    first = LATER.replace("BEFORE", str(head))
    last = _DROPS.replace("DROPS", drops)
    for number, module in enumerate([first, _INDEXES, last, *([more] if more else [])]):
        (directory / f"later_{number}.py").write_text(module)
    return directory
