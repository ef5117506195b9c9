"""Cancels executions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from celeriac.db import audit, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import children, lifecycle, queries
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.services.executions.attempt import AttemptRegistry, StopReason
from celeriac.services.ports import LiveEvents
from celeriac.services.reading import present

logger = structlog.get_logger(__name__)

_BATCH = 500

_TURNS = 4
"""How many batches of children one request cancels itself."""

_PARENT = "parent"
"""Who cancels children."""

DELETED_WORKSPACE = "deleted workspace"
"""Who cancels what was submitted to a workspace while it was deleted."""

DELETED_SECONDS = 3_600.0
"""How long after the deletion of a workspace such executions and runs are looked for."""

AfterEnds = Callable[[Sequence[UUID]], None]
"""Does what follows when executions have ended, after the commit; raises nothing."""


class Cancel:
    """Cancels executions."""

    def __init__(
        self, database: Database, live: LiveEvents, ended: AfterEnds | None = None
    ) -> None:
        """Cancel executions of `database`; `ended` is called for those that this has ended."""
        self._database = database
        self._live = live
        self._ended = ended

    def __call__(self, actor: Actor, execution_ids: Sequence[UUID]) -> dict[UUID, Status]:
        """Request the cancellation of each execution; return the status that each has now.

        A running one is `running` until its worker has stopped it. Cancelling an ended one changes
        nothing. All descendants are cancelled too, at once or by the keeper. Raises NotFoundError,
        with nothing changed, if one isn't visible.
        """
        with self._database.transaction() as connection:
            seen = queries.statuses(connection, execution_ids, workspace=actor.workspace_id)
            for execution_id in execution_ids:
                present(seen.get(execution_id), "execution", execution_id)
            moved = _request(connection, actor, execution_ids)
        self._publish(actor.name, moved)
        self.children(_BATCH, turns=_TURNS)
        return {**seen, **moved}

    def those(self, actor: Actor, execution_ids: Sequence[UUID]) -> list[UUID]:
        """Cancel executions that the actor may change; return those that this has changed.

        Executions that have ended, and running ones whose cancellation is requested already, are
        skipped.
        """
        with self._database.transaction() as connection:
            moved = self.within(connection, actor, execution_ids)
        self.announce(actor, moved)
        return [each for each in execution_ids if each in moved]

    def within(
        self, connection: Connection, actor: Actor, execution_ids: Sequence[UUID]
    ) -> dict[UUID, Status]:
        """Do in a transaction of the caller what `those` does; return the new status of each.

        Call `announce` with them after the commit.
        """
        return _request(connection, actor, execution_ids)

    def announce(self, actor: Actor, moved: Mapping[UUID, Status]) -> None:
        """Notify workers and watchers of committed cancellations, and cancel the descendants."""
        self._publish(actor.name, moved)
        self.children(_BATCH, turns=_TURNS)

    def because(self, execution_ids: Sequence[UUID], by: str) -> None:
        """Request the cancellation of executions of any owner; `by` says why."""
        with self._database.transaction() as connection:
            moved = lifecycle.request_cancel(connection, execution_ids, by)
        self._publish(by, moved)
        self.children(_BATCH, turns=_TURNS)

    def all_of(self, actor: Actor, owner_id: UUID) -> int:
        """Cancel all executions of a user, in all workspaces; return how many.

        Raises ForbiddenError.
        """
        actor.require_administrator()
        total = 0
        while True:
            with self._database.autocommit() as connection:
                found = queries.cancellable_of(connection, owner_id=owner_id, limit=_BATCH)
            if not found:
                return total
            for workspace_id, ids in found.items():
                # the trail of each workspace has its own
                total += len(self.those(replace(actor, workspace_id=workspace_id), ids))

    def all_of_task(self, actor: Actor, task_id: UUID) -> int:
        """Cancel all executions of a task that the actor may change; return how many."""
        return self._all(actor, ExecutionFilter(task_id=task_id, cancellable=True))

    def all_of_workspace(self, actor: Actor, workspace_id: UUID) -> int:
        """Cancel all executions of a workspace; return how many. Raises ForbiddenError."""
        actor.require_administrator()
        wanted = ExecutionFilter(workspace_id=workspace_id, cancellable=True)
        return self._all(replace(actor, workspace_id=workspace_id), wanted)

    def _all(self, actor: Actor, wanted: ExecutionFilter) -> int:
        total = 0
        while True:
            with self._database.autocommit() as connection:
                ids = queries.find_ids(connection, wanted, before=None, limit=_BATCH)
            if not ids:
                return total
            total += len(self.those(actor, ids))

    def children(self, limit: int, *, turns: int = 1) -> int:
        """Cancel executions whose parents have ended or are being cancelled; return how many.

        Up to `limit` in each of `turns`: first the children, then theirs. What is left is for the
        keeper.
        """
        total = 0
        for _ in range(turns):
            with self._database.transaction() as connection:
                found = children.orphans(connection, limit=limit)
                moved = lifecycle.request_cancel(connection, found, _PARENT) if found else {}
                if not found:
                    children.forget_parents(connection, limit=limit)
            self._publish(_PARENT, moved)
            total += len(moved)
            if not moved:
                break
        return total

    def of_deleted_workspaces(self, limit: int) -> int:
        """Cancel executions that were stored while their workspace was deleted; return how many."""
        with self._database.transaction() as connection:
            found = workspaces.left_executions(connection, seconds=DELETED_SECONDS, limit=limit)
            moved = lifecycle.request_cancel(connection, found, DELETED_WORKSPACE) if found else {}
        self._publish(DELETED_WORKSPACE, moved)
        return len(moved)

    def _publish(self, by: str, moved: Mapping[UUID, Status]) -> None:
        """Notify workers and watchers of committed cancellations."""
        self._live.cancel([key for key, status in moved.items() if not status.terminal])
        self._live.changed(list(moved))
        for execution_id in moved:
            logger.info("execution.cancel_requested", execution_id=execution_id, by=by)
        if self._ended is not None:
            self._ended([key for key, status in moved.items() if status.terminal])


def _request(
    connection: Connection, actor: Actor, execution_ids: Sequence[UUID]
) -> dict[UUID, Status]:
    moved = lifecycle.request_cancel(connection, execution_ids, actor.name)
    audit.record(connection, actor, "execution.cancel", list(moved))
    return moved


def stop_cancelled(
    database: Database, attempts: AttemptRegistry, execution_ids: Sequence[UUID]
) -> None:
    """Stop those attempts of this process whose cancellation is requested.

    Sooner than the heartbeat, which stops them later if the database is unavailable.
    """
    here = attempts.among(execution_ids)
    if not here:
        return
    try:
        with database.autocommit() as connection:
            requested = queries.cancel_requested(connection, here)
    except DatabaseUnavailableError as error:
        logger.warning("cancel.database_unavailable", error=error.message)
        return
    attempts.stop(requested, StopReason.CANCELLED)
