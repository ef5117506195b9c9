"""Usage: what model calls used, within what the actor may see."""

from datetime import date, timedelta
from uuid import UUID

from celeriac.db import executions, usage
from celeriac.db.engine import Database
from celeriac.db.usage import UsageFilter
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import InvalidInputError, NotFoundError
from celeriac.domain.paging import Page, read_cursor
from celeriac.domain.usage import MadeCall, UsageBy, UsageTotal

_CALLS = "model-calls"
_DAYS = 30


class Usage:
    """Answers questions about usage. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        """Read from `database`."""
        self._database = database

    def calls(
        self, actor: Actor, execution_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[MadeCall]:
        """Return a page of an execution's model calls, the oldest first. Raises NotFoundError."""
        after = read_cursor(_CALLS, cursor)
        with self._database.statement() as connection:
            if not executions.statuses(connection, [execution_id], owner=actor.scope):
                raise NotFoundError("execution", execution_id)
            found = usage.calls(connection, execution_id, after=after, limit=limit + 1)
        return Page.cut(found, limit=limit, kind=_CALLS, key=lambda call: call.id)

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
        """Return totals: of everybody for an admin, else of the actor's own executions.

        Days are UTC, by the database's clock; unless told otherwise they are the last thirty.
        Raises InvalidInputError.
        """
        owner = user_id if actor.sees_all else actor.user_id
        with self._database.statement() as connection:
            until = until or usage.today(connection)
            since = since or until - min(timedelta(days=_DAYS - 1), until - date.min)
            if since > until:
                raise InvalidInputError("since lies after until; swap them.", field="since")
            wanted = UsageFilter(since=since, until=until, owner_id=owner, task_id=task_id)
            return usage.totals(connection, by, wanted, limit=limit)
