"""Runs an execution that has ended again."""

from dataclasses import replace
from uuid import UUID

from celeriac.db.engine import Database
from celeriac.db.executions import queries
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import ConflictError, NotFoundError
from celeriac.domain.executions.model import Execution
from celeriac.services.executions.submit import Idempotency, Submit, SubmitRequest, Submitted


class Replay:
    """Runs one execution again."""

    def __init__(self, database: Database, submit: Submit) -> None:
        """Read from `database`, submit through `submit`."""
        self._database = database
        self._submit = submit

    def __call__(
        self, actor: Actor, execution_id: UUID, idempotency: Idempotency | None = None
    ) -> Submitted:
        """Submit a new execution with the variables of a finished one and the task as it is now.

        Raises NotFoundError, ConflictError while the origin still runs, and what submitting raises.
        """
        with self._database.statement() as connection:
            origin = queries.get(connection, execution_id, owner=actor.scope)
        if origin is None:
            raise NotFoundError("execution", execution_id)
        if not origin.status.terminal:
            raise ConflictError(
                f"The execution is {origin.status}; only a finished one can be run again. "
                "Cancel it first.",
                status=origin.status,
            )
        try:
            return self._submit.one(actor, replace(request_of(origin), idempotency=idempotency))
        except NotFoundError as error:
            if error.details["resource"] != "task":
                raise
            raise task_deleted(origin) from error


def request_of(origin: Execution) -> SubmitRequest:
    """Return what runs an execution's work again, from the beginning and in no session."""
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
    """Return the error for an execution whose task is gone."""
    return ConflictError(
        f"The task {origin.task_name!r} of this execution was deleted; run another one."
    )
