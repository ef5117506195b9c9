"""Reads executions, their events and the audit trail, as far as the actor may see them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from celeriac.db import audit
from celeriac.db.engine import Database
from celeriac.db.executions import children, events
from celeriac.db.executions import queries as executions
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import AuditEntry, AuditFilter
from celeriac.domain.errors import InvalidInputError, NotFoundError
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Execution, ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.domain.paging import Page, read_cursor, write_cursor
from celeriac.kit.words import counted
from celeriac.services.reading import present, read_page

_LIST = "executions"


@dataclass(frozen=True, slots=True)
class ExportEnd:
    """The last execution of an export, and the cursor after it; None if no more match."""

    last: UUID | None
    next_cursor: str | None


class Queries:
    """Read-only queries. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def execution(self, actor: Actor, execution_id: UUID) -> Execution:
        """Return an execution. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            found = executions.get(connection, execution_id, workspace=actor.workspace_id)
        return present(found, "execution", execution_id)

    def child_counts(self, execution: Execution) -> Mapping[Status, int]:
        """Return how many executions it has started itself, by status, without a check."""
        if execution.attempt == 0:
            return {}
        with self._database.autocommit() as connection:
            return children.counts(connection, execution.id)

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

        The fields in `BULKY` are None, except those in `include`.
        """
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        find = partial(executions.find, wanted=wanted, include=include)
        return read_page(self._database, _LIST, cursor, limit, find)

    def export_end(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        *,
        cursor: str | None,
        limit: int,
        whole: bool,
    ) -> ExportEnd:
        """Return where an export of at most `limit` executions ends.

        Raises CursorInvalidError, and InvalidInputError if it is to be the `whole` and more match.
        """
        before = read_cursor(_LIST, cursor)
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        with self._database.autocommit() as connection:
            last = executions.end_of(connection, wanted, before=before, limit=limit)
        if last is None:
            return ExportEnd(None, None)
        if whole:
            raise InvalidInputError(
                f"More than {counted(limit, 'execution')} match. Give `limit`, at most "
                f"{limit:,}, and continue with the cursor that the response has in a header; or "
                "narrow the filter, such as with created_after.",
                field="limit",
            )
        return ExportEnd(last, write_cursor(_LIST, last))

    def batch(self, actor: Actor, batch_id: UUID) -> list[UUID]:
        """Return the ids of a batch's executions in their order. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            ids = list(executions.of_batch(connection, batch_id, workspace=actor.workspace_id))
        if not ids:
            raise NotFoundError("batch", batch_id)
        return ids

    def events(
        self, actor: Actor, execution_id: UUID, *, after: int = 0, limit: int = 500
    ) -> list[Event]:
        """Return up to `limit` events numbered above `after`. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            if not executions.statuses(connection, [execution_id], workspace=actor.workspace_id):
                raise NotFoundError("execution", execution_id)
            return events.after(connection, execution_id, after, limit)

    def log(self, execution_id: UUID, *, after: int, limit: int) -> list[Event]:
        """Like `events`, without a check: for callers that have checked a moment ago."""
        with self._database.autocommit() as connection:
            return events.after(connection, execution_id, after, limit)

    def positions(self, execution_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """Return the number of each execution's latest event, without a check."""
        with self._database.autocommit() as connection:
            return executions.positions(connection, execution_ids)

    def audit(
        self, actor: Actor, wanted: AuditFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[AuditEntry]:
        """Return a page of the audit trail. Raises CursorInvalidError.

        Administrators see all of it, admins that of their workspace, others what they did there.
        """
        if not actor.administrator:
            everybody = actor.role.includes(Role.ADMIN)
            wanted = replace(
                wanted,
                workspace_id=actor.workspace_id,
                actor_id=wanted.actor_id if everybody else actor.user_id,
            )
        return read_page(self._database, "audit", cursor, limit, partial(audit.find, wanted=wanted))
