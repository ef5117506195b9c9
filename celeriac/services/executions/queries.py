"""Queries: reading executions, their events and the audit trail, within what the actor may see."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from celeriac.db import audit
from celeriac.db.engine import Database
from celeriac.db.executions import events
from celeriac.db.executions import queries as executions
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import AuditEntry, AuditFilter
from celeriac.domain.errors import NotFoundError
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Execution, ExecutionFilter
from celeriac.domain.paging import Page, read_cursor

_EXECUTIONS = "executions"
_AUDIT = "audit"


class Queries:
    """Answers questions; changes nothing. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        """Read from `database`."""
        self._database = database

    def execution(self, actor: Actor, execution_id: UUID) -> Execution:
        """Return an execution. Raises NotFoundError."""
        with self._database.statement() as connection:
            found = executions.get(connection, execution_id, owner=actor.scope)
        if found is None:
            raise NotFoundError("execution", execution_id)
        return found

    def executions(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        *,
        cursor: str | None = None,
        limit: int = 50,
        include: Collection[str] = (),
    ) -> Page[Execution]:
        """Return a page of the executions that the actor may see. Raises CursorInvalidError.

        What may be large is None but for what `include` names (`db.executions.BULKY`).
        """
        before = read_cursor(_EXECUTIONS, cursor)
        if actor.scope is not None:
            wanted = replace(wanted, owner_id=actor.scope)
        with self._database.statement() as connection:
            found = executions.find(
                connection, wanted, before=before, limit=limit + 1, include=include
            )
        return Page.cut(
            found.items, limit=limit, kind=_EXECUTIONS, key=lambda each: each.id, more=found.more
        )

    def batch(self, actor: Actor, batch_id: UUID) -> list[UUID]:
        """Return the ids of a batch's executions in their order. Raises NotFoundError."""
        with self._database.statement() as connection:
            ids = executions.of_batch(connection, batch_id, owner=actor.scope)
        if not ids:
            raise NotFoundError("batch", batch_id)
        return ids

    def events(
        self, actor: Actor, execution_id: UUID, *, after: int = 0, limit: int = 500
    ) -> list[Event]:
        """Return up to `limit` events numbered above `after`. Raises NotFoundError."""
        with self._database.statement() as connection:
            if not executions.statuses(connection, [execution_id], owner=actor.scope):
                raise NotFoundError("execution", execution_id)
            return events.after(connection, execution_id, after, limit)

    def log(self, execution_id: UUID, *, after: int, limit: int) -> list[Event]:
        """Like `events`, for a caller who was found to see the execution a moment ago."""
        with self._database.statement() as connection:
            return events.after(connection, execution_id, after, limit)

    def positions(self, execution_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """Return the number of the latest event of each, for callers who were found to see it."""
        with self._database.statement() as connection:
            return executions.positions(connection, execution_ids)

    def audit(
        self, actor: Actor, wanted: AuditFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[AuditEntry]:
        """Return a page of the audit trail: everybody's for an admin, else one's own doings."""
        actor.require(Role.VIEWER)
        before = read_cursor(_AUDIT, cursor)
        if actor.scope is not None:
            wanted = replace(wanted, actor_id=actor.scope)
        with self._database.statement() as connection:
            found = audit.find(connection, wanted, before=before, limit=limit + 1)
        return Page.cut(found, limit=limit, kind=_AUDIT, key=lambda entry: entry.id)
