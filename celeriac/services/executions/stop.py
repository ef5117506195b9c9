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

    def all_of(self, actor: Actor, owner_id: UUID) -> int:
        """Ask for the end of every execution of a user; return how many. Raises ForbiddenError."""
        actor.require(Role.ADMIN)
        total, after = 0, None
        while True:
            with self._database.transaction() as connection:
                ids = queries.open_ids(connection, owner_id, after=after, limit=_BATCH)
                moved = _request(connection, actor, ids)
            self._after(actor, moved)
            total += len(moved)
            if len(ids) < _BATCH:
                return total
            after = ids[-1]

    def all_of_task(self, actor: Actor, task_id: UUID) -> None:
        """Ask for the end of every execution of a task that the actor may change."""
        while True:
            with self._database.transaction() as connection:
                ids = queries.open_of_task(connection, task_id, limit=_BATCH)
                moved = _request(connection, actor, ids)
            self._after(actor, moved)
            if not moved:
                return

    def newest(
        self, actor: Actor, wanted: ExecutionFilter, *, before: UUID | None, limit: int
    ) -> tuple[list[UUID], list[UUID]]:
        """Ask for the end of up to `limit` executions of `wanted`, the newest first.

        They have smaller ids than `before`. Returns the ids of all that were looked at, and of
        those that were cancelled or asked to stop: others have ended in between.
        """
        with self._database.transaction() as connection:
            ids = queries.find_ids(connection, wanted, before=before, limit=limit)
            moved = _request(connection, actor, ids)
        self._after(actor, moved)
        return ids, [each for each in ids if each in moved]

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
