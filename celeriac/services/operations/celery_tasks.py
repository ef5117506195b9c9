"""Celery tasks over HTTP: sending allowed ones, and the state of any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID, uuid4

import structlog

from celeriac.db import audit
from celeriac.db.engine import Database
from celeriac.db.executions import calls, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import AuditFilter
from celeriac.domain.errors import InvalidInputError, NotFoundError
from celeriac.domain.executions.calls import Call, CallKind
from celeriac.domain.executions.model import Execution, Idempotency
from celeriac.domain.executions.states import CeleryState, celery_state
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.logs.redact import redact
from celeriac.services.executions.submit import claim_key
from celeriac.services.reading import present

logger = structlog.get_logger(__name__)

_RESOURCE = "celery_task"


@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryTaskState:
    """The state of a Celery task; unknown values are None."""

    task_id: str
    state: CeleryState
    name: str | None = None
    execution_id: UUID | None = None
    args: Sequence[JsonValue] | None = None
    """The arguments, secrets masked; None if they are not stored."""
    kwargs: JsonObject | None = None
    """The named arguments, or an execution's variables, secrets masked."""
    result: JsonValue = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    worker: str | None = None
    retries: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTask:
    """A plain Celery task to send; without `queue` the task's route applies."""

    name: str
    args: Sequence[JsonValue] = ()
    kwargs: JsonObject | None = None
    queue: str | None = None


class PlainTasks(Protocol):
    """Celery's tasks and results; implemented in the adapters, which alone import Celery."""

    def send(self, task: PlainTask, task_id: str) -> None:
        """Publish; raises BrokerUnavailableError."""
        ...

    def state(self, task_id: str) -> CeleryTaskState:
        """Return the state in the result backend; an unknown id is PENDING, as in Celery.

        Raises UnavailableError, ResultUnreadableError.
        """
        ...


class CeleryTasks:
    """Celery tasks over HTTP. Safe to share between threads."""

    def __init__(
        self, database: Database, plain: PlainTasks, *, allowed: Sequence[str], run_task: str
    ) -> None:
        """Send tasks named in `allowed` through `plain`; `run_task` runs executions."""
        self._database = database
        self._plain = plain
        self._allowed = frozenset(allowed)
        self._run_task = run_task

    def send(
        self, actor: Actor, task: PlainTask, once: Idempotency | None = None
    ) -> tuple[CeleryTaskState, bool]:
        """Send a plain task; return its state and whether this request sent it.

        Raises ForbiddenError, InvalidInputError for a name that isn't allowed,
        IdempotencyMismatchError and, with nothing stored, BrokerUnavailableError.
        """
        actor.require(Role.OPERATOR)
        if task.name not in self._allowed:
            known = ", ".join(sorted(self._allowed)) or "none"
            raise InvalidInputError(
                f"The task {task.name!r} is not on the list of those that may be sent over HTTP: "
                f"{known}. An operator adds it with CELERIAC_API_CELERY_TASK_ALLOW_LIST.",
                field="name",
            )
        task_id = uuid4()
        with self._database.transaction() as connection:
            earlier = claim_key(connection, actor, once, _RESOURCE, task_id)
            if earlier is None:
                details = {"name": task.name}
                audit.record(connection, actor, "celery_task.send", [task_id], details=details)
                # before the commit: a failed send must not be recorded as sent
                self._plain.send(task, str(task_id))
        if earlier is not None:
            return self._plain_state(actor, str(earlier)), False
        logger.info("celery_task.sent", celery_task_id=task_id, name=task.name)
        state = CeleryTaskState(task_id=str(task_id), state=CeleryState.PENDING, name=task.name)
        return state, True

    def get(self, actor: Actor, task_id: UUID) -> CeleryTaskState:
        """Return the state of an execution's Celery task, or of another one of the workspace.

        Those are the ones that started executions, and plain ones that members sent. Administrators
        also see those that no workspace has sent; an unknown id is PENDING, as in Celery. Raises
        NotFoundError, UnavailableError, ResultUnreadableError.
        """
        with self._database.autocommit() as connection:
            execution = queries.of_celery_task(connection, task_id)
            call = None if execution else calls.find(connection, str(task_id))
        owned = execution or call
        if owned is None:
            return self._plain_state(actor, str(task_id))
        if owned.workspace_id != actor.workspace_id:
            raise NotFoundError("Celery task", task_id)
        if call is not None:
            return self._of_call(call, actor)
        return self._of_execution(present(execution, "Celery task", task_id), str(task_id))

    def _of_call(self, call: Call, actor: Actor) -> CeleryTaskState:
        """Return the state of a Celery task that has started an execution or a batch."""
        if call.kind is CallKind.EXECUTION:
            with self._database.autocommit() as connection:
                found = queries.get(connection, call.subject_id, workspace=actor.workspace_id)
            if found is not None:
                state = self._of_execution(found, call.celery_task_id)
                return replace(state, name=call.task_name)
        elif call.message is not None:  # it has not ended
            return CeleryTaskState(
                task_id=call.celery_task_id, state=CeleryState.STARTED, name=call.task_name
            )
        return self._plain.state(call.celery_task_id)

    def _plain_state(self, actor: Actor, task_id: str) -> CeleryTaskState:
        wanted = AuditFilter(resource_type=_RESOURCE, resource_id=task_id)
        with self._database.autocommit() as connection:
            sent = audit.find(connection, wanted, before=None, limit=1)
        seen = sent[0].workspace_id == actor.workspace_id if sent else actor.administrator
        if not seen:
            raise NotFoundError("Celery task", task_id)
        return self._plain.state(task_id)

    def _of_execution(self, execution: Execution, task_id: str) -> CeleryTaskState:
        details = execution.error_details or {}
        return CeleryTaskState(
            task_id=task_id,
            state=celery_state(execution.status, attempt=execution.attempt),
            name=self._run_task,
            execution_id=execution.id,
            kwargs=redact(execution.variables),
            result=execution.result,
            error_type=details.get("type"),
            error_message=execution.error_message,
            traceback=details.get("traceback"),
            worker=execution.worker_hostname,
            retries=execution.retry_count,
            started_at=execution.started_at,
            completed_at=execution.completed_at,
        )
