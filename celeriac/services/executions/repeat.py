"""Repeats an execution that has ended."""

from dataclasses import replace
from uuid import UUID

from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import ConflictError, NotFoundError
from celeriac.domain.executions.model import Execution, Idempotency, SubmitRequest
from celeriac.services.executions.submit import Submit, Submitted
from celeriac.services.reading import present


class Replay:
    """Repeats one execution."""

    def __init__(self, database: Database, submit: Submit) -> None:
        """Read from `database`, submit through `submit`."""
        self._database = database
        self._submit = submit

    def __call__(
        self, actor: Actor, execution_id: UUID, idempotency: Idempotency | None = None
    ) -> Submitted:
        """Submit a new execution with the variables of a finished one and the current task.

        Raises NotFoundError, ConflictError while the origin still runs, and what submitting raises.
        """
        with self._database.autocommit() as connection:
            found = queries.get(connection, execution_id, owner=actor.scope)
        origin = present(found, "execution", execution_id)
        if not origin.status.terminal:
            raise ConflictError(
                f"The execution is {origin.status}; only a finished one can be run again. "
                "Cancel it first.",
                status=origin.status,
            )
        try:
            return self._submit(actor, replace(request_of(origin), idempotency=idempotency))
        except NotFoundError as error:
            if error.details["resource"] != "task":
                raise
            raise task_deleted(origin) from error


def request_of(origin: Execution) -> SubmitRequest:
    """Return the request that repeats an execution from the beginning, without a session."""
    return SubmitRequest(
        task_id=origin.task_id,
        variables=origin.variables,
        priority=origin.priority,
        queue=origin.queue,
        trigger_type=origin.trigger_type,
        origin_id=origin.id,
        options=origin.options.model_copy(update={"fork_session": False}),
    )


def task_deleted(origin: Execution) -> ConflictError:
    """Return the error for an execution whose task was deleted."""
    return ConflictError(
        f"The task {origin.task_name!r} of this execution was deleted; run another one."
    )
