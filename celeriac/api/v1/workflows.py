"""Workflows and their runs over HTTP."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import ConfigDict, Field, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.parameters import (
    MAX_PAGE,
    Cursor,
    IdempotencyKey,
    Limit,
    Reference,
    Services,
    Shared,
    Timestamp,
)
from celeriac.api.core.requests import REPLAYED, JsonRoute, idempotency
from celeriac.api.core.responses import json_response, page_response, problem_responses
from celeriac.api.v1.catalog import Description
from celeriac.api.v1.executions.stream import LAST_EVENT_ID, MAX_SEQ, stream_log
from celeriac.api.v1.run_stream import (
    RUN_STREAM,
    RunPlace,
    ends_follow,
    place_of,
    stream_with_items,
)
from celeriac.domain.accounts import Actor
from celeriac.domain.base import Name, Strict
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.tasks import PriorityLabel
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.paths import MAX_PATH
from celeriac.domain.workflows.records import RunFilter, WorkflowRun
from celeriac.domain.workflows.states import ItemStatus, RunStatus
from celeriac.services.workflows.again import ForkRequest
from celeriac.services.workflows.runs import StartedRun, StartRequest
from celeriac.wire.workflows import EXAMPLE
from celeriac.wiring.api import ApiServices

router = APIRouter(prefix="/workflows", tags=["workflows"], route_class=JsonRoute)
runs_router = APIRouter(prefix="/workflow-runs", tags=["workflows"], route_class=JsonRoute)

WorkflowPath = Annotated[
    Reference,
    Path(description="The workflow's id, or the name of one of yours.", examples=["brief"]),
]
RunPath = Annotated[UUID, Path(description="The run's id.")]
StepPath = Annotated[str, Path(max_length=70, description="The step's id.", examples=["fetch"])]
_Id = Annotated[UUID, Field(strict=False)]
After = Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events numbered above it.")]

_WORKFLOW: dict[str, Any] = {
    "name": "brief",
    "description": "Fetches a page and writes a brief of it.",
    "spec": EXAMPLE,
}


class NewWorkflow(Strict):
    """A workflow to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [_WORKFLOW]})

    name: Name = Field(description="Unique among your workflows; it can't be changed later.")
    description: Description = ""
    spec: WorkflowSpec


class WorkflowPatch(Strict):
    """Changes to a workflow; fields that are left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "Writes briefs."}]})

    description: Description | None = None
    spec: WorkflowSpec | None = Field(
        default=None, description="The whole new specification; it becomes the next version."
    )


class StartRun(Strict):
    """A run to start."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": {"url": "https://example.org"}}]}
    )

    input: dict[str, Any] = Field(default_factory=dict)
    priority: PriorityLabel | None = Field(
        default=None, description="Of its executions; default is that of the workflow."
    )


class Retry(Strict):
    """What a retry repeats."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"compensation": True}]})

    compensation: bool = Field(
        default=False, description="Only the undo tasks that failed, and no step."
    )


class Fork(Strict):
    """Where to fork a run, and what differs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"step": "brief"}]})

    step: Annotated[str, StringConstraints(max_length=MAX_PATH)] | None = Field(
        default=None,
        description="It and all steps that need it run again; left out, what did not succeed. A "
        "path such as `qualify[3]/enrich` leads to a step of a run below: of the run of a workflow "
        "that an item of a step is.",
    )
    items: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        max_length=10_000,
        description="Only these items of the step, a map; the same as `STEP[3]` for one of them.",
    )
    input: dict[str, Any] | None = Field(
        default=None,
        description="Another input; not with a path into a run below. With `items`, those that "
        "keep their results must be the same with it.",
    )
    results: dict[str, Any] = Field(
        default={},
        description="Results that steps have instead of running; not with such a path.",
    )


class ListRuns(Strict):
    """Which runs to list: those that match all given fields."""

    workflow: Reference | None = Field(
        default=None, description="A workflow's id, or your workflow's name."
    )
    status: Annotated[RunStatus, Field(strict=False)] | None = Field(
        default=None, description="In this status."
    )
    origin_id: _Id | None = Field(default=None, description="Retries and forks of this run.")
    parent_run_id: _Id | None = Field(
        default=None, description="That are items of the steps of this run."
    )
    top_level: Annotated[bool, Field(strict=False)] = Field(
        default=False, description="Without runs that are items of steps."
    )
    trigger_type: Annotated[TriggerType, Field(strict=False)] | None = Field(
        default=None, description="Started in this way."
    )
    created_after: Timestamp | None = Field(
        default=None, description="Created at or after this time."
    )
    created_before: Timestamp | None = Field(default=None, description="Created before this time.")
    cursor: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        default=None, description="`next_cursor` of the page before, with this filter."
    )
    limit: Annotated[int, Field(strict=False)] = Field(
        default=50, ge=1, le=MAX_PAGE, description="Items on a page."
    )


@router.post(
    "", status_code=201, summary="Create a workflow", responses=problem_responses(404, 409)
)
def create_workflow(body: NewWorkflow, actor: Operator, services: Services) -> wire.Workflow:
    """Store a workflow at version 1. Its graph and its expressions are checked here."""
    return views.workflow(services.workflows.create(actor, **dict(body)))


@router.get("", response_model=wire.Page[wire.Workflow], summary="List workflows")
def list_workflows(
    actor: Caller, services: Services, cursor: Cursor = None, limit: Limit = 50
) -> Response:
    """Return the workflows of the workspace, the newest first."""
    page = services.workflows.find(actor, cursor=cursor, limit=limit)
    return page_response(page, views.workflow)


@router.get("/{workflow}", summary="Get a workflow")
def get_workflow(workflow: WorkflowPath, actor: Caller, services: Services) -> wire.Workflow:
    """Return a workflow at its current version."""
    return views.workflow(services.workflows.get(actor, workflow))


@router.get(
    "/{workflow}/versions",
    response_model=wire.Page[wire.WorkflowVersion],
    summary="List a workflow's versions",
)
def list_workflow_versions(
    workflow: WorkflowPath,
    actor: Caller,
    services: Services,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Return the versions of a workflow, the newest first."""
    page = services.workflows.versions(actor, workflow, cursor=cursor, limit=limit)
    return page_response(page, views.workflow_version)


@router.patch("/{workflow}", summary="Change a workflow")
def change_workflow(
    workflow: WorkflowPath, body: WorkflowPatch, actor: Operator, services: Services
) -> wire.Workflow:
    """Change a workflow. Another `spec` becomes its next version, which new runs follow."""
    return views.workflow(services.workflows.change(actor, workflow, **dict(body)))


@router.delete(
    "/{workflow}", status_code=204, summary="Delete a workflow", responses=problem_responses(409)
)
def delete_workflow(workflow: WorkflowPath, actor: Operator, services: Services) -> None:
    """Delete a workflow. Its runs stay, and its name is free.

    Refused while runs of it have not ended.
    """
    services.workflows.delete(actor, workflow)


@router.post(
    "/{workflow}/run",
    status_code=202,
    response_model=wire.AcceptedRun,
    summary="Run a workflow",
    responses=problem_responses(409),
)
def run_workflow(
    request: Request,
    workflow: WorkflowPath,
    actor: Operator,
    services: Services,
    body: StartRun | None = None,
    key: IdempotencyKey = None,
) -> Response:
    """Start a run of a workflow's current version. It is stored before the answer is sent.

    Its status is `pending` if its limits let it wait; 409 if one refuses it (`limit_reached`).
    """
    body = body or StartRun()
    workflow_id = services.workflows.resolve(actor, workflow)
    started = services.runs.start(
        actor,
        StartRequest(
            workflow_id,
            body.input,
            priority=None if body.priority is None else int(body.priority),
            idempotency=idempotency(request, key, body),
        ),
    )
    return _accepted(actor, services, started)


@runs_router.get(
    "",
    response_model=wire.Page[wire.RunSummary],
    summary="List runs of workflows",
    responses=problem_responses(404),
)
def list_runs(actor: Caller, services: Services, query: Annotated[ListRuns, Query()]) -> Response:
    """Return the runs of the workspace, the newest first, without input, result and steps."""
    name = query.workflow
    wanted = RunFilter(
        workflow_id=None if name is None else services.workflows.resolve(actor, name),
        status=query.status,
        origin_id=query.origin_id,
        parent_run_id=query.parent_run_id,
        top_level=query.top_level,
        trigger_type=query.trigger_type,
        created_after=query.created_after,
        created_before=query.created_before,
    )
    page = services.runs.find(actor, wanted, cursor=query.cursor, limit=query.limit)
    return page_response(page, views.run_summary)


@runs_router.get("/{run_id}", response_model=wire.Run, summary="Get a run of a workflow")
def get_run(run_id: RunPath, actor: Caller, services: Services) -> Response:
    """Return a run with its steps and the numbers of their items.

    The cost does not depend on how many items there are.
    """
    found = services.runs.get(actor, run_id)
    return _shown(services, found)


@runs_router.post("/{run_id}/cancel", response_model=wire.Run, summary="Cancel a run")
def cancel_run(run_id: RunPath, actor: Operator, services: Services) -> Response:
    """Request the end of a run and of all below it, and return the run.

    From then on no step begins, except those with `run: always`. What runs is stopped, which takes
    seconds; then the undo tasks run. A run that has ended, or is `compensating`, does not change.
    """
    found = services.runs.cancel(actor, run_id)
    return _shown(services, found)


@runs_router.post(
    "/{run_id}/retry",
    status_code=202,
    response_model=wire.AcceptedRun,
    summary="Retry a run",
    responses=problem_responses(409),
)
def retry_run(
    request: Request,
    run_id: RunPath,
    actor: Operator,
    services: Services,
    body: Retry | None = None,
    key: IdempotencyKey = None,
) -> Response:
    """Start a run that repeats only what did not succeed in one that has failed or was cancelled.

    It follows the same version with the same input, and refers to the finished steps and items of
    its origin, except those that were undone. With `compensation` it runs only the undo tasks that
    failed; that must succeed before the steps are retried.
    """
    started = services.runs.retry(
        actor,
        run_id,
        idempotency(request, key, body),
        compensation=body is not None and body.compensation,
    )
    return _accepted(actor, services, started)


@runs_router.post(
    "/{run_id}/fork",
    status_code=202,
    response_model=wire.AcceptedRun,
    summary="Fork a run",
    responses=problem_responses(409),
)
def fork_run(
    request: Request,
    run_id: RunPath,
    body: Fork,
    actor: Operator,
    services: Services,
    key: IdempotencyKey = None,
) -> Response:
    """Start a run that begins at a step of one that has ended, with the results before it.

    With a path each run below on it is forked by the one of the same item in the new run: with its
    version and its input. Items beside it are taken over; those without success go on.
    """
    wanted = ForkRequest(
        step=body.step,
        items=body.items,
        input=body.input,
        results=body.results,
        idempotency=idempotency(request, key, body),
    )
    return _accepted(actor, services, services.runs.fork(actor, run_id, wanted))


def _shown(services: ApiServices, found: WorkflowRun) -> Response:
    return json_response(
        views.run(found, services.runs.steps(found.id), services.runs.limits(found))
    )


def _accepted(actor: Actor, services: ApiServices, started: StartedRun) -> Response:
    found = services.runs.get(actor, started.run_id)
    answer = wire.AcceptedRun.linked(
        {"run_id": found.id, "workflow_id": found.workflow_id, "status": found.status}
    )
    headers = {} if started.created else {REPLAYED: "true"}
    return json_response(answer, status=202, headers=headers)


@runs_router.get(
    "/{run_id}/steps/{step}/items",
    response_model=wire.RunItems,
    summary="List the items of a step",
)
def list_run_items(
    run_id: RunPath,
    step: StepPath,
    actor: Caller,
    services: Services,
    after: Annotated[
        int, Query(ge=-1, le=MAX_SEQ, description="Only items with an index above it.")
    ] = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Items in one answer.")] = 100,
    round_no: Annotated[
        int | None, Query(alias="round", ge=1, description="Default is the last round.")
    ] = None,
    status: Annotated[ItemStatus | None, Query(description="In this status.")] = None,
    include: Annotated[
        list[Literal["result"]] | None, Query(description="`result` for the results.")
    ] = None,
) -> Response:
    """Return items of a step in their order.

    With a `status` each answer searches 5,000 items: it may have none, and others follow as long
    as `next_after` is not null.
    """
    found = services.runs.items(
        actor,
        run_id,
        step,
        after=after,
        limit=limit,
        round_no=round_no,
        results=bool(include),
        status=status,
    )
    items = list(map(views.run_item, found.items))
    shown = wire.RunItems(items=items, next_after=found.next_after)
    return json_response(shown, exclude=None if include else {"items": {"__all__": {"result"}}})


@runs_router.get("/{run_id}/events", response_model=wire.Events, summary="List a run's events")
def list_run_events(
    run_id: RunPath,
    actor: Caller,
    services: Services,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Events in one answer.")] = 100,
) -> Response:
    """Return events of a run in order, numbered without gaps."""
    found = services.runs.events(actor, run_id, after=after, limit=limit)
    items = list(map(views.event, found))
    return json_response(wire.Events(items=items, next_after=found[-1].seq if found else None))


@runs_router.get(
    "/{run_id}/stream", summary="Follow a run live", response_class=Response, responses=RUN_STREAM
)
async def stream_run(
    request: Request,
    run_id: RunPath,
    actor: Caller,
    shared: Shared,
    services: Services,
    after: After = 0,
    items: Annotated[bool, Query(description="Also send the ends of items.")] = False,
    last_event_id: Annotated[
        str | None, Header(alias=LAST_EVENT_ID, max_length=50, description="Resume after it.")
    ] = None,
) -> Response:
    """Send the events of a run live (Server-Sent Events) until it has ended.

    With `items` also each end of an item, as `item_ended`: within about a second of it, and before
    the run's last event. `Last-Event-ID` resumes without gap or repeat. If no event can follow, the
    answer is 204.
    """
    place = RunPlace(after) if last_event_id is None else place_of(last_event_id)
    found = await run_in_threadpool(services.runs.get, actor, run_id)
    if found.status.terminal and found.event_seq <= place.seq:
        more = items and await run_in_threadpool(ends_follow, services, run_id, place)
        if not more:
            return Response(status_code=204)
    if items:
        return stream_with_items(request, shared, services, found, place)
    return stream_log(request, shared, services.runs.log, run_id, after=place.seq)
