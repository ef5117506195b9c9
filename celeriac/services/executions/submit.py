"""Submit: creates executions. Retries of many, in `bulk.py`, use the same statement."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from celeriac import traces
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import calls, create, lifecycle, queries
from celeriac.db.executions.create import StoredKey
from celeriac.db.hooks import deliveries
from celeriac.domain.accounts import Actor
from celeriac.domain.agents import CrewaiAgent
from celeriac.domain.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidInputError,
    NotFoundError,
)
from celeriac.domain.executions.calls import CallKind
from celeriac.domain.executions.limits import debounce_key, limits_of
from celeriac.domain.executions.model import (
    Cause,
    Execution,
    ExecutionSpec,
    Idempotency,
    QueuedMessage,
    SubmitRequest,
)
from celeriac.domain.executions.options import NO_OPTIONS, RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.labels import NO_LABELS, Labels
from celeriac.domain.limits import KeyedLimit, LimitEnd
from celeriac.domain.prompts import WorkLimit, compiled
from celeriac.domain.publishing import publication_of
from celeriac.domain.repositories import RepositoryChoice, RepositoryRule
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.kit.outbound import OutboundGuard
from celeriac.logs import Step
from celeriac.services.cassettes import check_traffic
from celeriac.services.catalog.schemas import check_variables
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.debounce import create_debounced
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.limits import TaskLimits, admit, refuse
from celeriac.services.reading import present
from celeriac.services.repositories import check_each, check_repository
from celeriac.services.sessions import acquire_session
from celeriac.services.webhooks.targets import check_url

logger = structlog.get_logger(__name__)

STALE_SPEC_TRIES = 3
_ANY_ID = UUID(int=0)
_PUBLIC_ONLY = OutboundGuard()
_ANY_REPOSITORY = RepositoryRule()


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted execution.

    `created` is False if an idempotency key, the Celery task or the delivery to a hook found an
    earlier one.
    """

    execution_id: UUID
    status: Status
    celery_task_id: str | None
    created: bool = True
    session_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """An accepted batch; `execution_ids` are in the order of the given variables.

    If an idempotency key, or the Celery task, found an earlier batch, `created` is False and the
    ids are left out.
    """

    batch_id: UUID
    execution_ids: Sequence[UUID]
    created: bool = True


class Submit:
    """Validates, stores and sends executions."""

    def __init__(
        self,
        database: Database,
        specs: SpecCache,
        dispatch: Dispatch,
        guard: OutboundGuard = _PUBLIC_ONLY,
        limits: TaskLimits | None = None,
        *,
        repositories: RepositoryRule = _ANY_REPOSITORY,
    ) -> None:
        """Work on `database`; `guard` says which hosts callbacks and repositories may have.

        Without `limits` the keeper gives out the slots of limits by key.
        """
        self._limits = limits
        self._guard = guard
        self._repositories = repositories
        self._database = database
        self._specs = specs
        self._dispatch = dispatch

    def __call__(self, actor: Actor, request: SubmitRequest) -> Submitted:
        """Store one execution and, if it is due, send it.

        Raises NotFoundError, TaskInactiveError, VariablesInvalidError, TemplateRenderError,
        IdempotencyMismatchError, or SessionInUseError and SessionDeletedError for the session to
        continue; nothing is stored then. Raises nothing once it is stored: if the broker fails, the
        execution is returned as `pending` and the keeper sends it.
        """
        execution_id = uuid7()
        with traces.span(
            "submit", "producer", execution_id=execution_id, task_id=request.task_id
        ) as span:
            return self._submit(actor, request, execution_id, span)

    def _submit(
        self, actor: Actor, request: SubmitRequest, execution_id: UUID, span: traces.Span
    ) -> Submitted:
        now = request.delay_seconds <= 0
        earlier, messages, limits = self._store(
            actor, request, [execution_id], [request.variables], send=now
        )
        if earlier is not None:
            span.note(execution_id=earlier, created=False)
            return Submitted(earlier, Status.PENDING, None, created=False)
        cause = Cause(actor.request_id, actor.user_id, request.task_id)
        logger.info(Step.EXECUTION_CREATED, **cause.ids(), execution_id=execution_id)
        # no change is published: no client knows the id yet
        if limits and now:
            self._admit(actor, limits[0])
        if messages and self._dispatch.send(messages):
            status, celery_task_id = Status.QUEUED, messages[0].message.celery_task_id
        else:
            status, celery_task_id = Status.PENDING, None
        return Submitted(execution_id, status, celery_task_id, session_id=request.session_id)

    def batch(
        self,
        actor: Actor,
        request: SubmitRequest,
        variables: Sequence[JsonObject],
        repositories: Sequence[RepositoryChoice | None] = (),
    ) -> SubmittedBatch:
        """Store one execution for each of `variables`, all or none, in one statement.

        `repositories` are choices of each, besides that of the request; empty, or as many. They
        take a second statement.

        Sends nothing: call `Dispatch.send_due` afterwards, or leave it to the keeper.
        """
        if not variables:
            raise InvalidInputError("items is empty; give at least one.", field="items")
        if request.session_id is not None and not request.options.fork_session:
            raise InvalidInputError(
                "Only one execution at a time can continue a session; let each fork it.",
                field="fork_session",
            )
        batch_id = uuid7()
        ids = [uuid7() for _ in variables]
        with traces.span(
            "submit batch", "producer", batch_id=batch_id, task_id=request.task_id, count=len(ids)
        ):
            earlier, _, limits = self._store(
                actor,
                request,
                ids,
                variables,
                batch_id=batch_id,
                options=[request.options.choosing(each) for each in repositories],
            )
        if earlier is not None:
            return SubmittedBatch(earlier, (), created=False)
        if self._limits is not None and limits:
            keys = {limit.key for each in limits for limit in each}
            admit(self._limits, actor.workspace_id, sorted(keys)[:_MOST_KEYS])
        logger.info("batch.created", batch_id=batch_id, task_id=request.task_id, count=len(ids))
        return SubmittedBatch(batch_id, ids)

    def prepare(
        self, actor: Actor, request: SubmitRequest, *, fresh: bool = False
    ) -> lifecycle.NewExecutions:
        """Return a checked execution that `add` stores in a transaction of the caller.

        With `fresh` the specification is read, not taken from the cache. The request has no
        session, cassette, key or Celery task. Raises NotFoundError, TaskInactiveError,
        VariablesInvalidError, TemplateRenderError.
        """
        spec = self._specs.current(request.task_id, workspace=actor.workspace_id, fresh=fresh)
        check_all(spec, [request.variables], request.labels, [request.options], batch=False)
        return lifecycle.NewExecutions(spec, request, [uuid7()], [request.variables], origin_ids=[])

    def add(self, connection: Connection, actor: Actor, new: lifecycle.NewExecutions) -> None:
        """Store what `prepare` has returned; it is sent by the next `Dispatch.try_to_send`.

        Raises StaleSpecError if the task was changed meanwhile; nothing is stored then.
        """
        lifecycle.create(connection, new, actor, window=0)

    def repeat(
        self, actor: Actor, execution_id: UUID, idempotency: Idempotency | None = None
    ) -> Submitted:
        """Submit a new execution with the variables of a finished one and the current task.

        Raises NotFoundError, ConflictError while the origin still runs, and what submitting raises.
        """
        with self._database.autocommit() as connection:
            found = queries.get(connection, execution_id, workspace=actor.workspace_id)
        origin = present(found, "execution", execution_id)
        if not origin.status.terminal:
            raise ConflictError(
                f"The execution is {origin.status}; only a finished one can be run again. "
                "Cancel it first.",
                status=origin.status,
            )
        try:
            return self(actor, replace(request_of(origin), idempotency=idempotency))
        except NotFoundError as error:
            if error.details["resource"] != "task":
                raise
            raise task_deleted(origin) from error

    def _admit(self, actor: Actor, limits: Sequence[KeyedLimit]) -> None:
        """Give out slots, and send what has got its own."""
        keys = [limit.key for limit in limits]
        if self._limits is not None and admit(self._limits, actor.workspace_id, keys):
            self._dispatch.try_to_send()

    def _store(
        self,
        actor: Actor,
        request: SubmitRequest,
        ids: Sequence[UUID],
        variables: Sequence[JsonObject],
        *,
        send: bool = False,
        batch_id: UUID | None = None,
        options: Sequence[RunOptions] = (),
    ) -> tuple[UUID | None, Sequence[QueuedMessage], Sequence[Sequence[KeyedLimit]]]:
        """Store; return what an earlier request with the same key created, or what to send.

        And the limits of each, from which they need slots before they are sent.
        """
        if request.options.callback_url is not None:
            check_url(self._guard, request.options.callback_url, "callback_url")
        for attempt in range(STALE_SPEC_TRIES):
            spec = self._specs.current(
                request.task_id, workspace=actor.workspace_id, fresh=attempt > 0
            )
            batch, debounced = batch_id is not None, _is_debounced(spec, request)
            if spec.task.repository or request.options.repository:
                check_repository(self._repositories, self._guard, spec.task, request.options)
            if options:
                check_each(self._repositories, self._guard, spec.task, options)
            each = options or [request.options] * len(ids)
            check_all(spec, variables, request.labels, each, batch=batch, debounced=debounced)
            new = lifecycle.NewExecutions(
                spec,
                request,
                ids,
                variables,
                origin_ids=[] if request.origin_id is None else [request.origin_id],
                batch_id=batch_id,
            )
            window = self._dispatch.capacity(new.queue) if send else 0
            limits = new.limits(actor)
            with suppress(lifecycle.StaleSpecError):
                if not (limits or debounced or options or _needs_check(request)):
                    with self._database.autocommit() as connection:
                        return None, lifecycle.create(connection, new, actor, window=window), ()
                with self._database.transaction() as connection:
                    earlier = _check_stored(connection, actor, new)
                    if earlier is not None:
                        return earlier, (), ()
                    if limits and batch_id is None:
                        refuse(connection, actor.workspace_id, limits[0])
                    make = create_debounced if debounced else _create
                    messages, replaced = make(connection, actor, new, window=window)
                    if options:
                        create.set_options(connection, ids, options)
                if replaced and self._limits is not None:
                    self._limits.ended(replaced, LimitEnd.SUPERSEDED.value)
                return None, messages, limits
        raise ConflictError("The task is being changed; send the request again.")


def _create(
    connection: Connection, actor: Actor, new: lifecycle.NewExecutions, *, window: int
) -> tuple[list[QueuedMessage], list[UUID]]:
    """Do what `create_debounced` does, for those that replace nothing."""
    return lifecycle.create(connection, new, actor, window=window), []


_MOST_KEYS = 16
"""Keys of which a batch gives out slots itself; the keeper does so for all."""


def request_of(origin: Execution) -> SubmitRequest:
    """Return the request that repeats an execution from the beginning, without a session."""
    return SubmitRequest(
        task_id=origin.task_id,
        variables=origin.variables,
        priority=origin.priority,
        queue=origin.queue,
        trigger_type=origin.trigger_type,
        origin_id=origin.id,
        labels=origin.labels,
        options=origin.options.model_copy(
            update={"fork_session": False, "tree": None, "replaced": 0}
        ),
    )


def task_deleted(origin: Execution) -> ConflictError:
    """Return the error for an execution whose task was deleted."""
    return ConflictError(
        f"The task {origin.task_name!r} of this execution was deleted; run another one."
    )


def _is_debounced(spec: ExecutionSpec, request: SubmitRequest) -> bool:
    """Whether it waits for newer ones: its task says so, and it has no delay of its own."""
    delayed = request.delay_seconds or request.available_at is not None
    return spec.task.debounce is not None and not delayed


def _needs_check(request: SubmitRequest) -> bool:
    """Whether more than the executions is read or written."""
    return bool(
        request.idempotency
        or request.call
        or request.delivery
        or request.session_id
        or request.options.uses_cassette
    )


def _check_stored(
    connection: Connection, actor: Actor, new: lifecycle.NewExecutions
) -> UUID | None:
    """Check what names a request, and the session and the cassette that it uses.

    Returns what an earlier request with the same key, for the same Celery task or of the same
    delivery created.
    """
    request, runner = new.request, new.spec.agent.runner
    if request.call is not None:
        known = calls.add(
            connection,
            actor,
            request.call,
            kind=CallKind.BATCH if new.batch_id else CallKind.EXECUTION,
            subject_id=new.batch_id or new.ids[0],
            pending=len(new.ids),
        )
        if known is not None:
            return known.subject_id
    if request.delivery is not None:
        started = deliveries.accept(connection, request.delivery, execution_id=new.ids[0])
        if started is not None:
            return started
    earlier = claim_key(
        connection,
        actor,
        request.idempotency,
        "batch" if new.batch_id else "execution",
        new.batch_id or new.ids[0],
    )
    if earlier is not None:
        return earlier
    if request.session_id is not None:
        fork = request.options.fork_session
        acquire_session(connection, actor, request.session_id, runner=runner, fork=fork)
    if request.options.uses_cassette:
        check_traffic(connection, actor, request.options, runner)
    return None


def claim_key(
    connection: Connection,
    actor: Actor,
    once: Idempotency | None,
    resource_type: str,
    resource_id: UUID,
) -> UUID | None:
    """Return what an earlier request with this key created; None if this request has it now.

    Raises IdempotencyMismatchError if the earlier request was a different one.
    """
    if once is None:
        return None
    earlier = create.claim_key(
        connection,
        actor,
        once.key,
        fingerprint=once.fingerprint,
        resource_type=resource_type,
        resource_id=resource_id,
    )
    return None if earlier is None else same_request(earlier, once)


def same_request(earlier: StoredKey, once: Idempotency) -> UUID:
    """Return what the earlier request with this key created.

    Raises IdempotencyMismatchError if that was a different request.
    """
    if earlier.fingerprint != once.fingerprint:
        raise IdempotencyMismatchError(
            "This Idempotency-Key was used before with another request; use a new key."
        )
    return earlier.resource_id


def check_all(
    spec: ExecutionSpec,
    variables: Sequence[JsonObject],
    labels: Labels,
    options: Sequence[RunOptions],
    *,
    batch: bool,
    debounced: bool = False,
) -> None:
    """Check each of `variables` with its `options`, and their keys if they are `debounced`.

    See `check_one`. Errors of a batch name the item.
    """
    with WorkLimit(len(variables)) as work:
        for index, (values, chosen) in enumerate(zip(variables, options, strict=True)):
            try:
                check_one(spec, values, work, labels, chosen)
                if debounced:
                    ids = {"user_id": spec.owner_id, "workspace_id": spec.workspace_id}
                    debounce_key(spec, values, labels, **ids)
            except InvalidInputError as error:
                if not batch:
                    raise
                raise type(error)(
                    f"Item {index}: {error.message}", **{**error.details, "field": f"items.{index}"}
                ) from error


def check_one(
    spec: ExecutionSpec,
    variables: JsonObject,
    work: WorkLimit,
    labels: Labels = NO_LABELS,
    options: RunOptions = NO_OPTIONS,
    *,
    workflow_id: UUID | None = None,
) -> None:
    """Raise InvalidInputError if the task can't run with these, as a step of this workflow.

    It names the variable, the template or the key of a limit.
    """
    check_variables(spec.task.variables_schema, variables)
    text = compiled(spec.task.prompt).render(variables, work)
    if spec.task.repository is not None:
        repository = options.applied(spec.task).repository
        assert repository is not None
        names = {"task": spec.task_name, "agent": spec.agent_name}
        publication_of(repository, variables, work, execution_id=_ANY_ID, **names)
    if isinstance(spec.agent, CrewaiAgent):
        spec.agent.crew.render(variables, text, work)
    ids = {"user_id": spec.owner_id, "workspace_id": spec.workspace_id}
    limits_of(spec, variables, labels, **ids, workflow_id=workflow_id)
