"""Submit: the only way by which executions come into the world (DESIGN section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db.engine import Database
from celeriac.db.executions import create as keys
from celeriac.db.executions import lifecycle
from celeriac.db.executions.create import StoredKey
from celeriac.domain.accounts import Actor
from celeriac.domain.agents import CrewaiAgent
from celeriac.domain.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.executions.model import (
    NO_OPTIONS,
    Cause,
    ExecutionSpec,
    RunOptions,
    TriggerType,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.prompts import WorkLimit, compiled
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.logs import Step
from celeriac.services.cassettes import check_traffic
from celeriac.services.catalog.plans import SpecCache
from celeriac.services.catalog.schemas import check_variables
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.sessions import acquire_session

logger = structlog.get_logger(__name__)

_STALE_PLAN_TRIES = 3


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key and the fingerprint of the request that it was sent with."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """What to run. Values left None are taken from the task."""

    task_id: UUID
    variables: JsonObject = field(default_factory=dict)
    priority: int | None = None
    queue: str | None = None
    delay_seconds: float = 0.0
    """Not before so long from now, by the database's clock."""
    available_at: datetime | None = None
    """Not before this time; instead of `delay_seconds`."""
    trigger_type: TriggerType = TriggerType.MANUAL
    execution_mode: str = "async"
    origin_id: UUID | None = None
    session_id: UUID | None = None
    """An earlier session to go on with, or with `options.fork_session` to go on with a copy of."""
    options: RunOptions = NO_OPTIONS
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted execution; `created` is False where an idempotency key found an earlier one."""

    execution_id: UUID
    status: Status
    celery_task_id: str | None
    created: bool = True
    session_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """An accepted batch; `execution_ids` are in the order of the given variables.

    Where an idempotency key found an earlier batch, `created` is False and the ids are left out.
    """

    batch_id: UUID
    execution_ids: Sequence[UUID]
    created: bool = True


@dataclass(frozen=True, slots=True)
class _Stored:
    """What became of a request: stored with this address, or made by an `earlier` request."""

    queue: str
    priority: int
    celery_task_id: str | None = None
    earlier: UUID | None = None


class Submit:
    """Validates, stores and hands over executions."""

    def __init__(self, database: Database, plans: SpecCache, dispatch: Dispatch) -> None:
        """Work on `database`; send through `dispatch`."""
        self._database = database
        self._plans = plans
        self._dispatch = dispatch

    def one(self, actor: Actor, request: SubmitRequest) -> Submitted:
        """Accept one execution and, where it is due, send it.

        Raises NotFoundError, TaskInactiveError, VariablesInvalidError, TemplateRenderError,
        IdempotencyMismatchError, or SessionInUseError and SessionDeletedError for the session to go
        on with; nothing is stored then. Once it is stored nothing is raised: if the
        broker doesn't answer, the execution is returned as `pending` and the keeper sends it.
        """
        execution_id = uuid7()
        now = request.delay_seconds <= 0
        stored = self._store(actor, request, [execution_id], [request.variables], send=now)
        if stored.earlier is not None:
            return Submitted(stored.earlier, Status.PENDING, None, created=False)
        cause = Cause(actor.request_id, actor.user_id, request.task_id)
        logger.info(Step.EXECUTION_CREATED, **cause.ids(), execution_id=execution_id)
        sent = stored.celery_task_id is not None and self._dispatch.send_new(
            execution_id, stored.celery_task_id, stored.queue, stored.priority, cause
        )
        status, address = (Status.QUEUED, stored.celery_task_id) if sent else (Status.PENDING, None)
        return Submitted(execution_id, status, address, session_id=request.session_id)

    def many(
        self, actor: Actor, request: SubmitRequest, variables: Sequence[JsonObject]
    ) -> SubmittedBatch:
        """Accept one execution for each of `variables`, all or none, in one statement.

        Nothing is sent yet: call `Dispatch.due` afterwards, or leave it to the keeper.
        """
        if not variables:
            raise InvalidInputError("items is empty; give at least one.", field="items")
        if request.session_id is not None and not request.options.fork_session:
            raise InvalidInputError(
                "Only one execution at a time goes on with a session; let each fork it.",
                field="fork_session",
            )
        batch_id = uuid7()
        ids = [uuid7() for _ in variables]
        stored = self._store(actor, request, ids, variables, batch_id=batch_id)
        if stored.earlier is not None:
            return SubmittedBatch(stored.earlier, (), created=False)
        logger.info("batch.created", batch_id=batch_id, task_id=request.task_id, count=len(ids))
        return SubmittedBatch(batch_id, ids)

    def _store(
        self,
        actor: Actor,
        request: SubmitRequest,
        ids: Sequence[UUID],
        variables: Sequence[JsonObject],
        *,
        send: bool = False,
        batch_id: UUID | None = None,
    ) -> _Stored:
        for attempt in range(_STALE_PLAN_TRIES):
            plan = self._plans.current(request.task_id, fresh=attempt > 0)
            _check(actor, plan, variables, batch=batch_id is not None)
            new = new_executions(plan, request, ids, variables, batch_id)
            window = self._dispatch.window(new.queue) if send else 0
            if _depends_on_nothing(request):
                with self._database.statement() as connection:
                    created = lifecycle.create(connection, new, actor, window=window)
            else:
                earlier, created = self._store_checked(actor, plan, new, request, window)
                if earlier is not None:
                    return _Stored(new.queue, new.priority, earlier=earlier)
            if created is not None:
                return _Stored(new.queue, new.priority, created.celery_task_id)
        raise ConflictError("The task is being changed; send the request again.")

    def _store_checked(
        self,
        actor: Actor,
        plan: ExecutionSpec,
        new: lifecycle.NewExecutions,
        request: SubmitRequest,
        window: int,
    ) -> tuple[UUID | None, lifecycle.Created | None]:
        """Store what depends on another row: on an idempotency key, a session, a cassette."""
        with self._database.transaction() as connection:
            if request.idempotency is not None:
                earlier = claim_key(
                    connection,
                    actor,
                    request.idempotency,
                    "batch" if new.batch_id else "execution",
                    new.batch_id or new.ids[0],
                )
                if earlier is not None:
                    return earlier, None
            if request.session_id is not None:
                acquire_session(
                    connection,
                    actor,
                    request.session_id,
                    runner=plan.agent.runner,
                    fork=request.options.fork_session,
                )
            if request.options.uses_cassette:
                check_traffic(connection, actor, request.options, plan.agent.runner)
            created = lifecycle.create(connection, new, actor, window=window)
            if created is None:
                connection.rollback()
            return None, created


def _depends_on_nothing(request: SubmitRequest) -> bool:
    """Whether one statement may store it, with nothing to look up before."""
    return (
        request.idempotency is None
        and request.session_id is None
        and not request.options.uses_cassette
    )


def claim_key(
    connection: Connection,
    actor: Actor,
    once: Idempotency,
    resource_type: str,
    resource_id: UUID,
) -> UUID | None:
    """Return what an earlier request with this key has made, or None now that it is ours.

    Raises IdempotencyMismatchError.
    """
    earlier = keys.claim_key(
        connection,
        owner_id=actor.user_id,
        key=once.key,
        fingerprint=once.fingerprint,
        resource_type=resource_type,
        resource_id=resource_id,
    )
    return None if earlier is None else same_request(earlier, once)


def same_request(earlier: StoredKey, once: Idempotency) -> UUID:
    """Return what the request that used the key before has made.

    Raises IdempotencyMismatchError where that was another request.
    """
    if earlier.fingerprint != once.fingerprint:
        raise IdempotencyMismatchError(
            "This Idempotency-Key was used before with another request; use a new key."
        )
    return earlier.resource_id


def _check(
    actor: Actor, plan: ExecutionSpec, variables: Sequence[JsonObject], *, batch: bool
) -> None:
    check_owner(actor, plan)
    with WorkLimit(len(variables)) as work:
        for index, values in enumerate(variables):
            try:
                check_one(plan, values, work)
            except InvalidInputError as error:
                if not batch:
                    raise
                raise type(error)(
                    f"Item {index}: {error.message}", **{**error.details, "field": f"items.{index}"}
                ) from error


def check_owner(actor: Actor, plan: ExecutionSpec) -> None:
    """Raise NotFoundError where the actor may not run the task."""
    if plan.owner_id != actor.user_id and not actor.sees_all:
        raise NotFoundError("task", plan.task_id)


def check_one(plan: ExecutionSpec, variables: JsonObject, work: WorkLimit) -> None:
    """Raise VariablesInvalidError or TemplateRenderError where the task can't run with these."""
    check_variables(plan.task.variables_schema, variables)
    text = compiled(plan.task.prompt).render(variables, work)
    if isinstance(plan.agent, CrewaiAgent):
        plan.agent.crew.render(variables, text, work)


def new_executions(
    plan: ExecutionSpec,
    request: SubmitRequest,
    ids: Sequence[UUID],
    variables: Sequence[JsonObject],
    batch_id: UUID | None,
) -> lifecycle.NewExecutions:
    """Return the executions that `request` makes, one for each of `variables`."""
    return lifecycle.NewExecutions(
        ids=ids,
        variables=variables,
        task_id=plan.task_id,
        task_version_id=plan.task_version_id,
        agent_version_id=plan.agent_version_id,
        queue=request.queue or plan.task.queue,
        priority=plan.task.priority if request.priority is None else request.priority,
        max_crashes=plan.task.max_crashes,
        trigger_type=request.trigger_type,
        execution_mode=request.execution_mode,
        delay_seconds=request.delay_seconds,
        available_at=request.available_at,
        origin_ids=() if request.origin_id is None else [request.origin_id],
        batch_id=batch_id,
        session_id=request.session_id,
        options=request.options,
    )
