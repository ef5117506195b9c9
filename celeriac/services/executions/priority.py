"""Changes the priority of an execution that has not ended."""

from uuid import UUID

import structlog

from celeriac.db import audit
from celeriac.db.engine import Database
from celeriac.db.executions import limits, queries
from celeriac.db.executions.create import place_of
from celeriac.db.executions.eligible import set_priority
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import ConflictError
from celeriac.domain.executions.model import Execution
from celeriac.domain.tasks import Priority
from celeriac.services.reading import present

logger = structlog.get_logger(__name__)


class Prioritise:
    """Changes priorities. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, actor: Actor, execution_id: UUID, priority: Priority) -> Execution:
        """Give an execution another priority; return the execution.

        A pending one takes its new place in its queue at once. A message that is sent keeps its
        place at the broker, and a running attempt is not affected; retries have the new
        priority.
        Raises NotFoundError, and ConflictError for an execution that has ended.
        """
        with self._database.transaction() as connection:
            found = queries.get(connection, execution_id, workspace=actor.workspace_id)
            present(found, "execution", execution_id)
            changed = set_priority(connection, execution_id, priority)
            if changed is not None:
                limits.set_place(connection, execution_id, place_of(priority))
                details = {"from": Priority(changed).label, "to": priority.label}
                audit.record(
                    connection, actor, "execution.prioritise", [execution_id], details=details
                )
            found = queries.get(connection, execution_id, workspace=actor.workspace_id)
            after = present(found, "execution", execution_id)
        if changed is None and after.status.terminal:
            raise ConflictError(
                f"The execution is {after.status}; only one that has not ended can get another "
                "priority.",
                status=after.status,
            )
        if changed is not None:
            logger.info(
                "execution.prioritised",
                execution_id=execution_id,
                before=Priority(changed).label,
                after=priority.label,
            )
        return after
