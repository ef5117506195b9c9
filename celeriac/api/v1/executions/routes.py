"""`/api/v1/task-executions`: list, show, follow, cancel and retry executions; reports."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.background import BackgroundTask
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import links, views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.parameters import (
    MAX_PAGE,
    ExecutionPath,
    IdempotencyKey,
    Services,
    Shared,
)
from celeriac.api.core.requests import REPLAYED, JsonRoute, idempotency
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.api.v1.executions.schemas import (
    CancelMany,
    ListMany,
    MoveMany,
    NewLabels,
    NewPriority,
    NewQueue,
    PrioritiseMany,
    ResponseMode,
    RetryMany,
    SearchMany,
)
from celeriac.api.v1.executions.selected import selected
from celeriac.api.v1.executions.stream import LAST_EVENT_ID, MAX_SEQ, STREAM, stream
from celeriac.api.v1.executions.submit import accepted, current_state, send_due
from celeriac.domain.executions.model import BULKY
from celeriac.domain.reports import CONTENT_SECURITY_POLICY, ReportFormat

router = APIRouter(prefix="/task-executions", tags=["executions"], route_class=JsonRoute)

After = Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events numbered above it.")]
_MEDIA = {
    ReportFormat.MARKDOWN: ("text/markdown; charset=utf-8", "md"),
    ReportFormat.HTML: ("text/html; charset=utf-8", "html"),
}


@router.get(
    "",
    response_model=wire.Page[wire.ExecutionSummary],
    summary="List executions",
    responses=problem_responses(404),
)
def list_executions(
    actor: Caller, services: Services, query: Annotated[ListMany, Query()]
) -> Response:
    """Return the executions of the workspace, the newest first.

    Variables, results and error details are left out, except for the fields in `include`. A page
    with large ones has fewer items than `limit`; `next_cursor` continues after them.
    """
    wanted = selected(query, actor, services)
    page = services.queries.executions(
        actor, wanted, cursor=query.cursor, limit=query.limit, include=query.include
    )
    items = list(map(views.summary, page.items))
    shown = wire.Page[wire.ExecutionSummary](items=items, next_cursor=page.next_cursor)
    return json_response(shown, exclude={"items": {"__all__": set(BULKY) - set(query.include)}})


@router.get(
    "/search",
    response_model=wire.SearchWindow,
    summary="Search executions for a text",
    responses=problem_responses(404),
)
def search_executions(
    actor: Caller, services: Services, query: Annotated[SearchMany, Query()]
) -> Response:
    """Look for a text in the executions of the workspace, from the newest to older ones.

    One request looks only as far back as a bounded time allows, and says how far:
    `searched_back_to`. It may find nothing and still have a `next_cursor`, which continues with
    older executions; without one, all that match the filter were looked at.
    """
    wanted = selected(query, actor, services)
    found = services.search.window(
        actor, wanted, query.text, cursor=query.cursor, limit=query.limit
    )
    shown = wire.SearchWindow(
        items=list(map(views.summary, found.items)),
        looked_at=found.looked_at,
        searched_back_to=found.searched_back_to,
        next_cursor=found.next_cursor,
    )
    return json_response(shown, exclude={"items": {"__all__": set(BULKY)}})


DryRun = Annotated[bool, Query(description="Only count the matches; change nothing.")]


@router.post(
    "/bulk/cancel",
    response_model=wire.BulkResult,
    summary="Cancel many executions",
    responses=problem_responses(404),
)
def cancel_executions(
    body: CancelMany, actor: Operator, services: Services, dry_run: DryRun = False
) -> Response:
    """Cancel the executions of the workspace that match the filter, newest first.

    One request cancels at most `limit`, each as `POST /task-executions/{id}/cancel` does.
    `next_cursor` continues with the rest. Executions that are created meanwhile are not included.
    """
    wanted = selected(body, actor, services, cancellable=True)
    if dry_run:
        page = services.bulk.count(actor, wanted, cursor=body.cursor)
    else:
        page = services.bulk.cancel(actor, wanted, cursor=body.cursor, limit=body.limit)
    return json_response(views.bulk(page, dry_run=dry_run))


@router.post(
    "/bulk/prioritise",
    response_model=wire.BulkResult,
    summary="Change the priority of many executions",
    responses=problem_responses(404),
)
def prioritise_executions(
    body: PrioritiseMany, actor: Operator, services: Services, dry_run: DryRun = False
) -> Response:
    """Give the executions that match the filter another priority, newest first.

    Each changes as by `POST /task-executions/{id}/prioritise`; `affected` counts those that had
    another one before. One request looks at most at `limit`; `next_cursor` continues with the rest.
    """
    wanted = selected(body, actor, services, cancellable=True)
    if dry_run:
        page = services.bulk.count(actor, wanted, cursor=body.cursor)
    else:
        page = services.bulk.prioritise(
            actor, wanted, body.priority, cursor=body.cursor, limit=body.limit
        )
    return json_response(views.bulk(page, dry_run=dry_run))


@router.post(
    "/bulk/move",
    response_model=wire.BulkResult,
    summary="Move many executions to another queue",
    responses=problem_responses(404),
)
def move_executions(
    body: MoveMany, actor: Operator, shared: Shared, services: Services, dry_run: DryRun = False
) -> Response:
    """Move the executions that match the filter to another queue, newest first.

    Each is moved as by `POST /task-executions/{id}/move`; `affected` counts those that were in
    another queue before. One request looks at most at `limit`; `next_cursor` continues with the
    rest.
    """
    wanted = selected(body, actor, services, cancellable=True)
    if dry_run:
        page = services.bulk.count(actor, wanted, cursor=body.cursor)
        return json_response(views.bulk(page, dry_run=True))
    page = services.bulk.move(actor, wanted, body.to_queue, cursor=body.cursor, limit=body.limit)
    send = BackgroundTask(send_due, shared.dispatch) if page.execution_ids else None
    return json_response(views.bulk(page, dry_run=False), background=send)


@router.post(
    "/bulk/retry",
    status_code=202,
    response_model=wire.BulkResult,
    summary="Retry many executions",
    responses=problem_responses(404, 409)
    | {200: {"model": wire.BulkResult, "description": "The count of a dry run."}},
)
def retry_executions(
    request: Request,
    body: RetryMany,
    actor: Operator,
    shared: Shared,
    services: Services,
    dry_run: DryRun = False,
    key: IdempotencyKey = None,
) -> Response:
    """Create a new execution for each one of the workspace that matches, newest first.

    Each is created as `POST /task-executions/{id}/retry` does. The new executions of one request
    are stored in one transaction and form a batch. `skipped` lists executions that can't be
    retried, with the reason.
    `next_cursor` continues with the rest, under another Idempotency-Key.
    """
    wanted = selected(body, actor, services)
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


@router.get("/{execution_id}", response_model=wire.Execution, summary="Get an execution")
def get_execution(execution_id: ExecutionPath, actor: Caller, services: Services) -> Response:
    """Return an execution."""
    found = services.queries.execution(actor, execution_id)
    return json_response(views.execution(found, services.queries.child_counts(found)))


@router.post("/{execution_id}/cancel", response_model=wire.Execution, summary="Cancel an execution")
def cancel_execution(
    execution_id: ExecutionPath, actor: Operator, shared: Shared, services: Services
) -> Response:
    """Request the end of an execution and return the execution.

    If no worker runs it, it is `cancelled` at once. Else it stays `running` until its worker has
    stopped it, which takes seconds. An execution that has ended does not change.
    """
    shared.cancel(actor, [execution_id])
    return json_response(views.execution(services.queries.execution(actor, execution_id)))


@router.post(
    "/{execution_id}/prioritise",
    response_model=wire.Execution,
    summary="Change an execution's priority",
    responses=problem_responses(409),
)
def prioritise_execution(
    execution_id: ExecutionPath, body: NewPriority, actor: Operator, services: Services
) -> Response:
    """Give an execution that has not ended another priority, and return the execution.

    A pending one takes its new place in its queue at once. One whose message is at the broker keeps
    its place there, and a running attempt is not affected; retries have the new priority.
    """
    changed = services.change.prioritise(actor, execution_id, body.priority)
    return json_response(views.execution(changed))


@router.post(
    "/{execution_id}/label", response_model=wire.Execution, summary="Change an execution's labels"
)
def label_execution(
    execution_id: ExecutionPath, body: NewLabels, actor: Operator, services: Services
) -> Response:
    """Set the named labels, remove those that are null, and return the execution.

    At any time, also after its end. An execution has at most 16 labels. The keys of its limits stay
    as they are.
    """
    changed = services.change.label(actor, execution_id, body.labels)
    return json_response(views.execution(changed))


@router.post(
    "/{execution_id}/move",
    response_model=wire.Execution,
    summary="Move an execution to another queue",
    responses=problem_responses(409),
)
def move_execution(
    execution_id: ExecutionPath, body: NewQueue, actor: Operator, services: Services
) -> Response:
    """Move an execution that has not ended to another queue, and return the execution.

    It keeps its priority and how long it has been due. If its message is at the broker, it is sent
    again to the other queue. A running attempt is not affected; retries go to the new queue.
    """
    return json_response(views.execution(services.change.move(actor, execution_id, body.to_queue)))


@router.post(
    "/{execution_id}/retry",
    status_code=202,
    response_model=wire.Accepted,
    summary="Retry an execution",
    responses=problem_responses(409),
)
def retry_execution(
    request: Request,
    execution_id: ExecutionPath,
    actor: Operator,
    shared: Shared,
    services: Services,
    key: IdempotencyKey = None,
) -> Response:
    """Create an execution with the same variables as one that has ended, its origin.

    It uses the current versions of the task and its agent.
    """
    submitted = shared.submit.repeat(actor, execution_id, idempotency(request, key, None))
    row = services.queries.execution(actor, submitted.execution_id)
    headers = {}
    if not submitted.created:
        submitted = current_state(row)
        headers[REPLAYED] = "true"
    return json_response(
        accepted(row.task_id, submitted, ResponseMode.ASYNC), status=202, headers=headers
    )


@router.get(
    "/{execution_id}/events", response_model=wire.Events, summary="List an execution's events"
)
def list_events(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Events in one answer.")] = 100,
) -> Response:
    """Return events in order, numbered without gaps; fewer than `limit` if they are large."""
    found = services.queries.events(actor, execution_id, after=after, limit=limit)
    items = list(map(views.event, found))
    return json_response(wire.Events(items=items, next_after=found[-1].seq if found else None))


@router.get(
    "/{execution_id}/stream",
    summary="Follow an execution live",
    response_class=Response,
    responses=STREAM,
)
async def stream_events(
    request: Request,
    execution_id: ExecutionPath,
    actor: Caller,
    shared: Shared,
    services: Services,
    after: After = 0,
    last_event_id: Annotated[
        int | None, Header(alias=LAST_EVENT_ID, ge=0, le=MAX_SEQ, description="Resume after it.")
    ] = None,
) -> Response:
    """Send events live (Server-Sent Events) until the execution has ended.

    The id of each event is its number: `Last-Event-ID` resumes without gap or repeat. Events named
    `delta` are pieces of live output; they have no number and are not stored. If no event can
    follow, the answer is 204, so that browsers stop reconnecting. The stream ends within seconds
    after the key is revoked or loses access to the execution.
    """
    begin = after if last_event_id is None else last_event_id
    return await stream(request, shared, services, actor, execution_id, after=begin)


@router.get("/{execution_id}/why", summary="Why an execution has not ended yet")
def explain_waiting(
    execution_id: ExecutionPath, actor: Caller, services: Services
) -> wire.WaitingReasons:
    """Return what it waits for, in the order in which that must come to pass.

    The first is what it waits for now: an answer, a budget, its time, a limit, a worker, others of
    its queue, a free slot, or its end. Counts go up to 1,000.
    """
    return wire.WaitingReasons.model_validate(services.why(actor, execution_id))


@router.get(
    "/{execution_id}/report",
    summary="Download an execution's report",
    response_class=Response,
    responses=problem_responses(409)
    | {
        200: {
            "description": "The report.",
            "content": {
                "text/markdown": {"schema": {"type": "string"}},
                "text/html": {"schema": {"type": "string"}},
            },
        }
    },
)
def get_report(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    format: Annotated[  # noqa: A002 - the parameter's public name
        ReportFormat, Query(description="markdown or html.")
    ] = ReportFormat.MARKDOWN,
) -> Response:
    """Return the report of an execution for people: result, conversation, tools, cost, timeline.

    It is made once and stored: the same bytes each time.
    """
    made = services.reports(actor, execution_id, format)
    media, ending = _MEDIA[made.format]
    headers = {
        "Content-Disposition": f'attachment; filename="execution-{execution_id}.{ending}"',
        "Content-Security-Policy": f"{CONTENT_SECURITY_POLICY}; sandbox",
        "ETag": f'"{made.sha256}"',
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(made.content, media_type=media, headers=headers)


@router.get("/{execution_id}/reports", summary="List an execution's reports")
def list_reports(execution_id: ExecutionPath, actor: Caller, services: Services) -> wire.Reports:
    """Return the reports that exist, with their sizes.

    Those of executions with output are made when these end, others at the first download.
    """
    path = f"{links.PREFIX}/task-executions/{execution_id}/report"
    return wire.Reports(
        items=[
            wire.Report(
                format=each.format,
                size=each.size,
                sha256=each.sha256,
                created_at=each.created_at,
                links={"self": f"{path}?format={each.format}"},
            )
            for each in services.reports.stored(actor, execution_id)
        ]
    )
