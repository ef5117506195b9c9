"""Executions over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.background import BackgroundTask
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import (
    MAX_PAGE,
    Caller,
    Cursor,
    IdempotencyKey,
    Limit,
    Operator,
    Services,
    Shared,
)
from celeriac.api.core.requests import REPLAYED, JsonRoute, idempotency
from celeriac.api.core.responses import READING, WRITING, json_response, problem_responses
from celeriac.api.v1.execute import accepted, as_it_is, send_due
from celeriac.api.v1.schemas.catalog import Reference
from celeriac.api.v1.schemas.executions import (
    MAX_IDS,
    CancelMany,
    ErrorCode,
    ResponseMode,
    RetryMany,
    Selection,
    Timestamp,
)
from celeriac.api.v1.stream import LAST_EVENT_ID, MAX_SEQ, STREAM, stream
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.model import BULKY, ExecutionFilter, TriggerType
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.wiring.api import ApiServices

router = APIRouter(prefix="/task-executions", tags=["executions"], route_class=JsonRoute)

Bulky = Literal["variables", "result", "error_details"]
ExecutionPath = Annotated[UUID, Path(description="The execution's id.")]
After = Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events numbered above it.")]


@router.get(
    "",
    response_model=wire.Page[wire.ExecutionSummary],
    operation_id="list_executions",
    summary="List executions",
    responses=READING | problem_responses(404),
)
def find(
    actor: Caller,
    services: Services,
    id: Annotated[  # noqa: A002 - the parameter's name
        list[UUID], Query(max_length=MAX_IDS, description="Only these executions. One or several.")
    ] = [],  # noqa: B006
    status: Annotated[list[Status], Query(description="One or several.")] = [],  # noqa: B006
    task: Annotated[Reference | None, Query(description="A task's id or name.")] = None,
    agent: Annotated[
        Reference | None, Query(description="An agent's id or name; any of its versions.")
    ] = None,
    batch_id: Annotated[UUID | None, Query(description="Of this batch.")] = None,
    origin_id: Annotated[UUID | None, Query(description="Repeats of this execution.")] = None,
    session_id: Annotated[UUID | None, Query(description="Those that worked in it.")] = None,
    trigger_type: Annotated[TriggerType | None, Query(description="Started by.")] = None,
    waiting_for: Annotated[WaitingFor | None, Query(description="Waiting, for this.")] = None,
    error_code: Annotated[
        ErrorCode | None, Query(description="The code of the last error.")
    ] = None,
    created_after: Annotated[
        Timestamp | None, Query(description="Created at or after this time.")
    ] = None,
    created_before: Annotated[
        Timestamp | None, Query(description="Created before this time.")
    ] = None,
    include: Annotated[
        list[Bulky], Query(description="What else to show, which may be large. One or several.")
    ] = [],  # noqa: B006
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Return your executions, the newest first; an admin sees everybody's.

    Variables, results and error details are left out but for what `include` names; a page with them
    ends early where they are large, and `next_cursor` goes on behind it.
    """
    wanted = ExecutionFilter(
        ids=id,
        statuses=status,
        task_id=None if task is None else services.tasks.resolve(actor, task),
        agent_id=None if agent is None else services.agents.resolve(actor, agent),
        batch_id=batch_id,
        origin_id=origin_id,
        session_id=session_id,
        trigger_type=trigger_type,
        waiting_for=waiting_for,
        error_code=error_code,
        created_after=created_after,
        created_before=created_before,
    )
    page = services.queries.executions(actor, wanted, cursor=cursor, limit=limit, include=include)
    items = list(map(views.summary, page.items))
    shown = wire.Page[wire.ExecutionSummary](items=items, next_cursor=page.next_cursor)
    return json_response(shown, exclude={"items": {"__all__": set(BULKY) - set(include)}})


DryRun = Annotated[bool, Query(description="Only count the matches; change nothing.")]


@router.post(
    "/bulk/cancel",
    response_model=wire.BulkResult,
    operation_id="cancel_executions",
    summary="Cancel many executions",
    responses=WRITING | problem_responses(404),
)
def cancel_many(
    body: CancelMany, actor: Operator, services: Services, dry_run: DryRun = False
) -> Response:
    """Cancel your executions that match the filter, newest first.

    An administrator reaches the executions of all users. One request cancels at most `limit`, each
    as `POST /task-executions/{id}/cancel` does. `next_cursor` continues with the rest. Executions
    that are created meanwhile are not included.
    """
    wanted = _selected(body, actor, services, cancellable=True)
    if dry_run:
        page = services.bulk.count(actor, wanted, cursor=body.cursor)
    else:
        page = services.bulk.cancel(actor, wanted, cursor=body.cursor, limit=body.limit)
    return json_response(views.bulk(page, dry_run=dry_run))


@router.post(
    "/bulk/retry",
    status_code=202,
    response_model=wire.BulkResult,
    operation_id="retry_executions",
    summary="Retry many executions",
    responses=WRITING
    | problem_responses(404, 409)
    | {200: {"model": wire.BulkResult, "description": "The count of a dry run."}},
)
def retry_many(
    request: Request,
    body: RetryMany,
    actor: Operator,
    shared: Shared,
    services: Services,
    dry_run: DryRun = False,
    key: IdempotencyKey = None,
) -> Response:
    """Create a new execution for each of your executions that match the filter, newest first.

    An administrator reaches the executions of all users. Each is created as
    `POST /task-executions/{id}/retry` does. The new executions of one request are stored in one
    transaction and form a batch. `skipped` lists executions that can't be retried, with the reason.
    `next_cursor` continues with the rest, under another Idempotency-Key.
    """
    wanted = _selected(body, actor, services)
    if dry_run:
        page = services.bulk.count(actor, wanted, cursor=body.cursor)
        return json_response(views.bulk(page, dry_run=True))
    once = idempotency(request, key, body)
    page = services.bulk.retry(
        actor, wanted, cursor=body.cursor, limit=body.limit, idempotency=once
    )
    headers = {} if page.created else {REPLAYED: "true"}
    send = BackgroundTask(send_due, shared.dispatch) if page.created else None
    return json_response(
        views.bulk(page, dry_run=False), status=202, headers=headers, background=send
    )


def _selected(
    body: Selection, actor: Actor, services: ApiServices, *, cancellable: bool = False
) -> ExecutionFilter:
    same = body.model_dump(exclude={"id", "status", "task", "agent", "limit", "cursor"})
    return ExecutionFilter(
        ids=body.id,
        statuses=[Status(each) for each in body.status],
        task_id=None if body.task is None else services.tasks.resolve(actor, body.task),
        agent_id=None if body.agent is None else services.agents.resolve(actor, body.agent),
        cancellable=cancellable,
        **same,
    )


@router.get(
    "/{execution_id}",
    response_model=wire.Execution,
    operation_id="get_execution",
    summary="Get an execution",
    responses=READING | problem_responses(404),
)
def get(execution_id: ExecutionPath, actor: Caller, services: Services) -> Response:
    """Return an execution as it stands."""
    return json_response(views.execution(services.queries.execution(actor, execution_id)))


@router.post(
    "/{execution_id}/cancel",
    response_model=wire.Execution,
    operation_id="cancel_execution",
    summary="Cancel an execution",
    responses=READING | problem_responses(403, 404),
)
def cancel(
    execution_id: ExecutionPath, actor: Operator, shared: Shared, services: Services
) -> Response:
    """Ask for its end and return it as it stands.

    What no worker holds is `cancelled` at once. A running one is `running` until its worker has
    stopped it, which takes seconds. Cancelling what has ended changes nothing.
    """
    shared.cancel(actor, [execution_id])
    return json_response(views.execution(services.queries.execution(actor, execution_id)))


@router.post(
    "/{execution_id}/retry",
    status_code=202,
    response_model=wire.Accepted,
    operation_id="retry_execution",
    summary="Run an execution's work again",
    responses=READING | problem_responses(403, 404, 409),
)
def retry(
    request: Request,
    execution_id: ExecutionPath,
    actor: Operator,
    shared: Shared,
    services: Services,
    key: IdempotencyKey = None,
) -> Response:
    """Take on a new execution with the same variables, which names this one as its origin.

    The task and its agent are used as they are now. Possible once this one has ended.
    """
    submitted = shared.replay(actor, execution_id, idempotency(request, key, None))
    row = services.queries.execution(actor, submitted.execution_id)
    headers = {}
    if not submitted.created:
        submitted = as_it_is(row)
        headers[REPLAYED] = "true"
    return json_response(
        accepted(row.task_id, submitted, ResponseMode.ASYNC), status=202, headers=headers
    )


@router.get(
    "/{execution_id}/events",
    response_model=wire.Events,
    operation_id="list_events",
    summary="List an execution's events",
    responses=READING | problem_responses(404),
)
def events(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    after: After = 0,
    limit: Annotated[
        int, Query(ge=1, le=MAX_PAGE, description="Events in one json_response.")
    ] = 100,
) -> Response:
    """Return events in order, numbered without gaps; fewer than `limit` where they are large."""
    found = services.queries.events(actor, execution_id, after=after, limit=limit)
    items = list(map(views.event, found))
    return json_response(wire.Events(items=items, next_after=found[-1].seq if found else None))


@router.get(
    "/{execution_id}/stream",
    operation_id="stream_events",
    summary="Follow an execution live",
    response_class=Response,
    responses=READING | problem_responses(404) | STREAM,
)
async def follow(
    request: Request,
    execution_id: ExecutionPath,
    actor: Caller,
    shared: Shared,
    services: Services,
    after: After = 0,
    last_event_id: Annotated[
        int | None, Header(alias=LAST_EVENT_ID, ge=0, le=MAX_SEQ, description="Resume behind it.")
    ] = None,
) -> Response:
    """Send events as they come (Server-Sent Events), until the execution has ended.

    The id of each is its number: `Last-Event-ID` resumes without gap or repeat. Events named
    `delta` are pieces of output; they have no number and are live only. Where nothing can follow
    any more the answer is 204, which tells browsers to stop reconnecting. It ends within seconds
    when the key is revoked or may not see the execution any more.
    """
    begin = after if last_event_id is None else last_event_id
    return await stream(request, shared, services, actor, execution_id, after=begin)
