"""Cancels executions."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import audit
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import DatabaseUnavailableError, NotFoundError
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.executions.states import Status
from celeriac.services.executions.attempt import AttemptRegistry, StopReason
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)

_BATCH = 500


class Cancel:
    """Cancels executions."""

    def __init__(self, database: Database, live: LiveEvents) -> None:
        """Write into `database`; tell the workers through `live`."""
        self._database = database
        self._live = live

    def __call__(self, actor: Actor, execution_ids: Sequence[UUID]) -> dict[UUID, Status]:
        """Ask for the end of each execution; return the status that each has now.

        A running one is `running` until its worker has stopped it. Cancelling what has ended
        changes nothing. Raises NotFoundError, with nothing changed, where one isn't visible.
        """
        with self._database.transaction() as connection:
            seen = queries.statuses(connection, execution_ids, owner=_owner(actor))
            for execution_id in execution_ids:
                if execution_id not in seen:
                    raise NotFoundError("execution", execution_id)
            moved = _request(connection, actor, execution_ids)
        self._after(actor, moved)
        return {**seen, **moved}

    def those(self, actor: Actor, execution_ids: Sequence[UUID]) -> list[UUID]:
        """Cancel executions that the actor may change; return those for which that did something.

        Executions that have ended, and running ones that are to be cancelled already, are passed
        over.
        """
        with self._database.transaction() as connection:
            moved = _request(connection, actor, execution_ids)
        self._after(actor, moved)
        return [each for each in execution_ids if each in moved]

    def all_of(self, actor: Actor, owner_id: UUID) -> int:
        """Cancel every execution of a user; return how many. Raises ForbiddenError."""
        actor.require(Role.ADMIN)
        return self._all(actor, ExecutionFilter(owner_id=owner_id, cancellable=True))

    def all_of_task(self, actor: Actor, task_id: UUID) -> None:
        """Cancel every execution of a task that the actor may change."""
        self._all(actor, ExecutionFilter(task_id=task_id, cancellable=True))

    def _all(self, actor: Actor, wanted: ExecutionFilter) -> int:
        total = 0
        while True:
            with self._database.statement() as connection:
                ids = queries.find_ids(connection, wanted, before=None, limit=_BATCH)
            if not ids:
                return total
            total += len(self.those(actor, ids))

    def _after(self, actor: Actor, moved: Mapping[UUID, Status]) -> None:
        """Notify workers and watchers of cancellations that are committed."""
        self._live.cancel([key for key, status in moved.items() if not status.terminal])
        self._live.changed(list(moved))
        for execution_id in moved:
            logger.info("execution.cancel_requested", execution_id=execution_id, by=actor.name)


def _request(connection: Connection, actor: Actor, ids: Sequence[UUID]) -> dict[UUID, Status]:
    moved = lifecycle.request_cancel(connection, ids, actor.name)
    audit.record(connection, actor, "execution.cancel", "execution", list(moved))
    return moved


class StopCancelled:
    """Stops what runs in this process and is to be cancelled, sooner than the heartbeat would."""

    def __init__(self, database: Database, active: AttemptRegistry) -> None:
        """Look into `database` for attempts in `active`."""
        self._database = database
        self._active = active

    def __call__(self, execution_ids: Sequence[UUID]) -> None:
        """Look at the rows of these executions, and stop those whose end was asked for.

        Without the database nothing is stopped: the heartbeat does it later.
        """
        here = self._active.among(execution_ids)
        if not here:
            return
        try:
            with self._database.statement() as connection:
                asked = queries.cancel_requested(connection, here)
        except DatabaseUnavailableError as error:
            logger.warning("cancel.database_unavailable", error=error.message)
            return
        self._active.stop(asked, StopReason.CANCELLED)


def _owner(actor: Actor) -> UUID | None:
    return None if actor.sees_all else actor.user_id
