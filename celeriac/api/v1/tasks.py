"""Tasks over HTTP; running them is in `execute`."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Cursor, Limit, Operator, Services, Shared
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, WRITING, json_response, problem_responses
from celeriac.api.v1.schemas.catalog import NewTask, Reference, TaskPatch
from celeriac.services.catalog import tasks

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=JsonRoute)

TaskPath = Annotated[
    Reference,
    Path(description="The task's id, or the name of one of yours.", examples=["summarise"]),
]


@router.post(
    "",
    status_code=201,
    operation_id="create_task",
    summary="Make a task",
    responses=WRITING | problem_responses(404, 409),
)
def create(body: NewTask, actor: Operator, services: Services) -> wire.Task:
    """Store a task at version 1. Its prompt and its schemas are checked here."""
    new = tasks.NewTask(
        name=body.name,
        agent=body.agent,
        description=body.description,
        active=body.active,
        spec=body.spec,
    )
    return views.task(services.tasks.create(actor, new))


@router.get(
    "",
    response_model=wire.Page[wire.Task],
    operation_id="list_tasks",
    summary="List tasks",
    responses=READING,
)
def find(
    actor: Caller,
    services: Services,
    active: Annotated[bool | None, Query(description="Only active, or only inactive ones.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Return your tasks, the newest first; an admin sees everybody's."""
    page = services.tasks.find(actor, active=active, cursor=cursor, limit=limit)
    items = list(map(views.task, page.items))
    return json_response(wire.Page(items=items, next_cursor=page.next_cursor))


@router.get(
    "/{task}",
    operation_id="get_task",
    summary="Get a task",
    responses=READING | problem_responses(404),
)
def get(task: TaskPath, actor: Caller, services: Services) -> wire.Task:
    """Return a task at its current version."""
    return views.task(services.tasks.get(actor, task))


@router.patch(
    "/{task}",
    operation_id="change_task",
    summary="Change a task",
    responses=WRITING | problem_responses(404),
)
def change(task: TaskPath, body: TaskPatch, actor: Operator, services: Services) -> wire.Task:
    """Change a task. Another `spec` becomes its next version, which new executions use."""
    edit = tasks.TaskEdit(
        description=body.description, active=body.active, agent=body.agent, spec=body.spec
    )
    return views.task(services.tasks.change(actor, task, edit))


@router.delete(
    "/{task}",
    status_code=204,
    response_class=Response,
    operation_id="delete_task",
    summary="Delete a task",
    responses=READING | problem_responses(403, 404, 409),
)
def delete(
    task: TaskPath,
    actor: Operator,
    shared: Shared,
    services: Services,
    cancel: Annotated[
        bool, Query(description="Cancel its executions that have not ended.")
    ] = False,
) -> Response:
    """Delete a task with its budgets. Its executions stay, and its name is free.

    Not possible while executions of it have not ended, unless they are to be cancelled.
    """
    services.tasks.delete(actor, task, cancel=shared.cancel.all_of_task if cancel else None)
    return Response(status_code=204)
