"""Usage of model calls."""

from datetime import date, timedelta
from uuid import UUID

from celeriac.db import usage
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import queries
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import (
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.paging import Page
from celeriac.domain.usage import MadeCall, UsageBy, UsageFilter, UsageTotal
from celeriac.services.reading import read_page

_DAYS = 30


class Usage:
    """Reads usage, and folds what workers have appended to it. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def calls(
        self, actor: Actor, execution_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[MadeCall]:
        """Return a page of an execution's model calls, the oldest first. Raises NotFoundError."""

        def find(connection: Connection, *, before: UUID | None, limit: int) -> list[MadeCall]:
            if not queries.statuses(connection, [execution_id], workspace=actor.workspace_id):
                raise NotFoundError("execution", execution_id)
            return usage.calls(connection, execution_id, after=before, limit=limit)

        return read_page(self._database, "model-calls", cursor, limit, find)

    def totals(
        self,
        actor: Actor,
        by: UsageBy,
        *,
        since: date | None = None,
        until: date | None = None,
        task_id: UUID | None = None,
        user_id: UUID | None = None,
        limit: int = 50,
    ) -> list[UsageTotal]:
        """Return totals of the workspace's executions; by workspace, those of all workspaces.

        Days are UTC, by the database's clock; default are the last thirty. Raises
        InvalidInputError, and ForbiddenError: only an administrator sums up by workspace.
        """
        every = by is UsageBy.WORKSPACE
        if every:
            actor.require_administrator()
        with self._database.autocommit() as connection:
            until = until or usage.today(connection)
            since = since or until - min(timedelta(days=_DAYS - 1), until - date.min)
            if since > until:
                raise InvalidInputError("since is after until; swap them.", field="since")
            wanted = UsageFilter(
                since=since,
                until=until,
                workspace_id=None if every else actor.workspace_id,
                owner_id=user_id,
                task_id=task_id,
            )
            return usage.totals(connection, by, wanted, limit=limit)

    def fold(self, limit: int) -> int:
        """Fold all deltas into the totals of their days, `limit` at a time; return how many.

        Readers see the same totals before, during and after it.
        """
        total = 0
        while True:
            with self._database.autocommit() as connection:
                count = usage.fold(connection, limit=limit)
            total += count
            if count < limit:
                return total
