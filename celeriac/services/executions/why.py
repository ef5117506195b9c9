"""Answers why an execution has not ended yet."""

from dataclasses import replace
from uuid import UUID

from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.db.executions import why as rows
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.ageing import raised_at
from celeriac.domain.executions.why import Facts, Why, why
from celeriac.services.executions.dispatch import WORKER_SEEN_WITHIN
from celeriac.services.reading import present


class ExplainWaiting:
    """Says what an execution waits for. Safe to share between threads."""

    def __init__(self, database: Database, *, ageing_seconds: float = 0.0) -> None:
        """With the keeper's setting of ageing it says when a priority will be raised."""
        self._database = database
        self._ageing_seconds = ageing_seconds

    def __call__(self, actor: Actor, execution_id: UUID) -> Why:
        """Return what an execution waits for, in order. Raises NotFoundError.

        Costs four statements, or five if it waits for a slot of a limit or was submitted for later,
        however many executions wait.
        """
        with self._database.autocommit() as connection:
            seen = queries.get(connection, execution_id, workspace=actor.workspace_id)
            execution = present(seen, "execution", execution_id)
            if execution.status.terminal:
                return why(Facts(execution))
            found = rows.facts(connection, execution, within_seconds=WORKER_SEEN_WITHIN)
        due, priority = execution.available_at, execution.priority
        return why(replace(found, raised_at=raised_at(priority, due, self._ageing_seconds)))
