"""`POST /api/v1/tasks/{task}/execute` and `execute-batch`."""

import time
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Operator, still_allowed
from celeriac.api.core.parameters import IdempotencyKey, Services, Shared
from celeriac.api.core.requests import REPLAYED, JsonRoute, idempotency
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.api.v1.catalog import TaskPath
from celeriac.api.v1.executions.schemas import Execute, ExecuteBatch, ResponseMode, StartOptions
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import DatabaseUnavailableError, TooLargeError, UnauthenticatedError
from celeriac.domain.executions.model import Execution, Idempotency
from celeriac.domain.executions.model import SubmitRequest as Work
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.tasks import TaskSpec, backoff
from celeriac.kit.words import counted
from celeriac.logs import Step
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.submit import Submitted, SubmittedBatch
from celeriac.wiring.api import ApiServices
from celeriac.wiring.core import CoreServices

MAX_WAIT_SECONDS = 3600.0
_CHECK_SECONDS = 1.0
"""Seconds between checks that the client is connected and that time is left."""


def longest_wait(task: TaskSpec) -> float:
    """Return the time limit of a task's execution in seconds, with all retries."""
    pauses = (backoff(task.retry, number, 1.0) for number in range(task.retry.max_retries))
    return min(
        task.limits.hard_seconds * (task.retry.max_retries + 1) + sum(pauses), MAX_WAIT_SECONDS
    )


async def wait_for_terminal(
    request: Request,
    shared: CoreServices,
    services: ApiServices,
    actor: Actor,
    execution_id: UUID,
    *,
    seconds: float,
) -> Execution | None:
    """Return the execution when it has ended, or its state after `seconds`.

    None if the client has disconnected, or if the database was unavailable when the time was up.
    Raises UnauthenticatedError when the key is not valid any more.
    """
    deadline = time.monotonic() + seconds
    found: Execution | None = None
    watching = shared.watcher.changes(
        execution_id,
        position=lambda: -1 if found is None else found.event_seq,
        idle_seconds=_CHECK_SECONDS,
    )
    async with watching as changes:
        async for change in changes:
            if not await still_allowed(request):
                raise UnauthenticatedError("The API key is not valid any more; create a new one.")
            if change.delta is None and not change.idle:
                try:
                    found = await run_in_threadpool(services.queries.execution, actor, execution_id)
                except DatabaseUnavailableError:
                    found = None  # the execution is stored: keep waiting
            if found is not None and found.status.terminal:
                return found
            if time.monotonic() > deadline or await request.is_disconnected():
                return found
    return found


logger = structlog.get_logger(__name__)

router = APIRouter(prefix="/tasks", tags=["executions"], route_class=JsonRoute)


@router.post(
    "/{task}/execute",
    status_code=202,
    response_model=wire.Accepted,
    summary="Run a task",
    responses=problem_responses(409)
    | {200: {"model": wire.Execution, "description": "It has ended (sync mode)."}},
)
async def execute_task(
    request: Request,
    task: TaskPath,
    actor: Operator,
    shared: Shared,
    services: Services,
    body: Execute | None = None,
    key: IdempotencyKey = None,
) -> Response:
    """Create an execution of a task.

    It is stored before the answer is sent. In `sync` mode the answer waits until the execution has
    ended, at most for the task's time limits. It is 200 with the whole execution, or 202 as in
    `async` mode if the execution has not ended.
    """
    body = body or Execute()
    mode = body.execution_mode or (
        ResponseMode.ASYNC if shared.settings.enable_async_task_execution else ResponseMode.SYNC
    )

    def submit(task_id: UUID) -> tuple[UUID, Submitted]:
        once = idempotency(request, key, body)
        work = _work(task_id, body, mode, once)
        logger.info(Step.EXECUTION_REQUESTED, task_id=task_id, execution_mode=mode.value)
        return task_id, shared.submit(actor, work)

    task_id, submitted = await run_in_threadpool(services.tasks.use, actor, task, submit)
    headers = {} if submitted.created else {REPLAYED: "true"}
    if mode is ResponseMode.SYNC:
        spec = await run_in_threadpool(shared.specs.current, task_id, workspace=actor.workspace_id)
        wait = body.seconds_until_due() + longest_wait(spec.task)
        ended = await wait_for_terminal(
            request, shared, services, actor, submitted.execution_id, seconds=wait
        )
        if ended is not None and ended.status.terminal:
            return await run_in_threadpool(
                json_response, views.execution(ended), status=200, headers=headers
            )
    if not submitted.created:
        submitted = await run_in_threadpool(_found, services, actor, submitted.execution_id)
    return json_response(accepted(task_id, submitted, mode), status=202, headers=headers)


@router.post(
    "/{task}/execute-batch",
    status_code=202,
    response_model=wire.AcceptedBatch,
    summary="Run a task many times",
    responses=problem_responses(409),
)
async def execute_task_batch(
    request: Request,
    task: TaskPath,
    body: ExecuteBatch,
    actor: Operator,
    shared: Shared,
    services: Services,
    key: IdempotencyKey = None,
) -> Response:
    """Create an execution for each item, all or none.

    All are stored before the answer is sent; afterwards they are sent to the workers.
    """
    most = shared.settings.api.max_batch
    if len(body.items) > most:
        raise TooLargeError(
            f"items has {counted(len(body.items), 'entry', 'entries')}; the limit is {most}. Send "
            "several batches.",
            field="items",
            limit=most,
        )

    def submit(task_id: UUID) -> tuple[UUID, SubmittedBatch]:
        once = idempotency(request, key, body)
        work = _work(task_id, body, ResponseMode.ASYNC, once)
        logger.info(Step.EXECUTION_REQUESTED, task_id=task_id, count=len(body.items))
        batch = shared.submit.batch(actor, work, body.items, body.repositories or ())
        if not batch.created:
            ids = services.queries.batch(actor, batch.batch_id)
            batch = SubmittedBatch(batch.batch_id, ids, created=False)
        return task_id, batch

    task_id, batch = await run_in_threadpool(services.tasks.use, actor, task, submit)
    ids = list(batch.execution_ids)
    values: dict[str, Any] = {"batch_id": batch.batch_id, "task_id": task_id, "count": len(ids)}
    accepted_batch = wire.AcceptedBatch.model_construct(
        **values, execution_ids=ids, links=wire.AcceptedBatch.links_of(values)
    )
    headers = {} if batch.created else {REPLAYED: "true"}
    send = BackgroundTask(send_due, shared.dispatch) if batch.created else None
    return json_response(accepted_batch, status=202, headers=headers, background=send)


def accepted(task_id: UUID, submitted: Submitted, mode: str) -> wire.Accepted:
    """Return the answer for an execution that was accepted."""
    return wire.Accepted.linked(
        {
            "execution_id": submitted.execution_id,
            "task_id": task_id,
            "status": submitted.status,
            "execution_mode": mode,
            "celery_task_id": submitted.celery_task_id,
            "session_id": submitted.session_id,
        }
    )


def _work(task_id: UUID, body: StartOptions, mode: ResponseMode, once: Idempotency | None) -> Work:
    one = body if isinstance(body, Execute) else None
    return Work(
        task_id=task_id,
        variables=one.variables if one else {},
        session_id=one.session_id if one else None,
        options=one.options()
        if one
        else RunOptions(callback_url=body.callback_url, repository=body.repository),
        priority=None if body.priority is None else int(body.priority),
        queue=body.queue,
        delay_seconds=body.delay_seconds,
        available_at=body.available_at,
        expires_in=body.expires_in,
        expires_at=body.expires_at,
        labels=body.labels,
        execution_mode=mode.value,
        idempotency=once,
    )


def current_state(row: Execution) -> Submitted:
    """Return the state of an execution that an earlier request has created."""
    return Submitted(
        row.id, row.status, row.celery_task_id, created=False, session_id=row.session_id
    )


def _found(services: ApiServices, actor: Actor, execution_id: UUID) -> Submitted:
    return current_state(services.queries.execution(actor, execution_id))


def send_due(dispatch: Dispatch) -> None:
    """Send due executions to the workers, right after they were stored."""
    try:
        while dispatch.send_due():
            pass
    except DatabaseUnavailableError as error:
        # all are stored; the keeper sends the rest
        logger.warning("batch.not_sent", error=error.message)
