"""Searches executions for a text, as far back as a bounded time allows."""

import time
from dataclasses import replace
from typing import Final
from uuid import UUID

from celeriac.db.engine import Database
from celeriac.db.executions import queries, search
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.search import SearchWindow
from celeriac.domain.paging import read_cursor, write_cursor

MOST_ROWS: Final = 20_000
"""The most executions that one request looks at."""
SECONDS: Final = 0.03
"""After this time no further rows are read: the request ends with what it has."""

_LIST = "search"


class Search:
    """Finds executions by a text. Safe to share between threads."""

    def __init__(self, database: Database, *, seconds: float = SECONDS) -> None:
        self._database = database
        self._seconds = seconds

    def window(
        self, actor: Actor, wanted: ExecutionFilter, text: str, *, cursor: str | None, limit: int
    ) -> SearchWindow:
        """Look for `text` from the newest execution, or from the cursor, to older ones.

        It ends with `limit` finds, after a bounded time, or with the oldest execution. Raises
        CursorInvalidError.
        """
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        last = read_cursor(_LIST, cursor)
        until = time.monotonic() + self._seconds
        found: list[UUID] = []
        looked, back_to, more = 0, None, True
        with self._database.autocommit() as connection:
            while more and len(found) < limit and looked < MOST_ROWS:
                part = search.look(connection, wanted, text, before=last)
                more = part.more
                for number, (execution_id, created_at, has) in enumerate(part.ids, start=1):
                    looked, last, back_to = looked + 1, execution_id, created_at
                    if has:
                        found.append(execution_id)
                    if len(found) == limit:
                        more = more or number < len(part.ids)
                        break
                if time.monotonic() >= until:
                    break
            its = ExecutionFilter(workspace_id=actor.workspace_id, ids=found)
            items = queries.find(connection, its, before=None, limit=limit).items if found else ()
        return SearchWindow(items, looked, back_to, _cursor(last) if more else None)


def _cursor(last: UUID | None) -> str | None:
    return None if last is None else write_cursor(_LIST, last)
