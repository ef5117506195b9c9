"""Celery tasks over HTTP: sending plain ones, and how any of them stands."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from celeriac import wire
from celeriac.api import views
from celeriac.api.answers import READING, WRITING, answer, problems
from celeriac.api.deps import AtDesk, Caller, IdempotencyKey, Operator
from celeriac.api.idempotency import REPLAYED, idempotency
from celeriac.api.json_route import JsonRoute
from celeriac.api.schemas.celery_tasks import EnqueueCeleryTask
from celeriac.services.celery_tasks import PlainTask

router = APIRouter(tags=["celery tasks"], route_class=JsonRoute)


@router.post(
    "/celery-tasks",
    status_code=202,
    response_model=wire.CeleryTask,
    operation_id="send_celery_task",
    summary="Send a plain Celery task",
    responses=WRITING,
)
def send(
    request: Request,
    body: EnqueueCeleryTask,
    actor: Operator,
    desk: AtDesk,
    key: IdempotencyKey = None,
) -> Response:
    """Send a task whose name is on the server's list; its result is kept for an hour as a rule."""
    task = PlainTask(name=body.name, args=body.args, kwargs=body.kwargs, queue=body.queue)
    state, created = desk.celery_tasks.send(actor, task, idempotency(request, key, body))
    headers = {} if created else {REPLAYED: "true"}
    return answer(views.celery_task(state), status=202, headers=headers)


@router.get(
    "/celery-tasks/{task_id}",
    operation_id="get_celery_task",
    summary="Get a Celery task",
    responses=READING | problems(404, 409),
)
@router.get("/admin/celery-tasks/{task_id}", include_in_schema=False)
def get(
    task_id: Annotated[UUID, Path(description="Celery's id of the task.")],
    actor: Caller,
    desk: AtDesk,
) -> wire.CeleryTask:
    """Return how a Celery task stands: one behind your executions, or a plain one you have sent.

    An admin may ask for any id; one that nobody knows is PENDING, as Celery has it.
    """
    return views.celery_task(desk.celery_tasks.get(actor, task_id))
