"""Replay: run a finished execution's work again, as a new execution that names its origin."""

from uuid import UUID

from celeriac.db import executions
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import ConflictError, NotFoundError
from celeriac.services.submit import Idempotency, Request, Submit, Submitted


class Replay:
    """Runs executions again."""

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
            origin = executions.get(
                connection, execution_id, owner=None if actor.sees_all else actor.user_id
            )
        if origin is None:
            raise NotFoundError("execution", execution_id)
        if not origin.status.terminal:
            raise ConflictError(
                f"The execution is {origin.status}; only a finished one can be run again. "
                "Cancel it first.",
                status=origin.status,
            )
        request = Request(
            task_id=origin.task_id,
            variables=origin.variables,
            priority=origin.priority,
            queue=origin.queue,
            trigger_type=origin.trigger_type,
            origin_id=origin.id,
            options=origin.options.model_copy(update={"fork_session": False}),
            idempotency=idempotency,
        )
        try:
            return self._submit.one(actor, request)
        except NotFoundError as error:
            if error.details["resource"] != "task":
                raise
            raise ConflictError(
                f"The task {origin.task_name!r} of this execution was deleted; run another one."
            ) from error
