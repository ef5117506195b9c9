"""The deletion of a workspace, as far as it needs no database."""

import re

from celeriac.db import workspaces
from celeriac.db.schema import metadata


def test_each_table_of_a_workspace_is_ended_or_kept() -> None:
    """Who adds a table says what happens to its rows: nobody would find them any more."""
    tables = {each.name for each in metadata.tables.values() if "workspace_id" in each.columns}
    statements = f"{workspaces._DELETE_CATALOG} {workspaces._DELETE}"
    ended = set(re.findall(r"(?:UPDATE|DELETE FROM) (\w+)", statements))
    assert tables - ended == set(workspaces.KEPT)
