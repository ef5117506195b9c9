"""Answers why an execution has not ended yet."""

from uuid import UUID

from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.db.executions import why as rows
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.why import Facts, Why, why
from celeriac.services.executions.dispatch import WORKER_SEEN_WITHIN
from celeriac.services.reading import present


class ExplainWaiting:
    """Says what an execution waits for. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, actor: Actor, execution_id: UUID) -> Why:
        """Return what an execution waits for, in order. Raises NotFoundError.

        Costs four statements, or five if it waits for a slot of a limit, however many executions
        wait.
        """
        with self._database.autocommit() as connection:
            found = queries.get(connection, execution_id, workspace=actor.workspace_id)
            execution = present(found, "execution", execution_id)
            if execution.status.terminal:
                return why(Facts(execution))
            return why(rows.facts(connection, execution, within_seconds=WORKER_SEEN_WITHIN))
