"""Celery tasks over HTTP: sending plain ones, and how any of them stands.

Requests about plain Celery tasks.
"""

from typing import Annotated, Any, ClassVar
from uuid import UUID

from fastapi import APIRouter, Path, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, IdempotencyKey, Operator, Services
from celeriac.api.core.requests import REPLAYED, JsonRoute, idempotency
from celeriac.api.core.responses import READING, WRITING, json_response, problem_responses
from celeriac.domain.agents import Strict
from celeriac.domain.tasks import QueueName
from celeriac.services.operations.celery_tasks import PlainTask


class EnqueueCeleryTask(Strict):
    """A plain Celery task to send; its name must be on the server's list."""

    BULK: ClassVar[bool] = True

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "celeriac.tasks.monitoring.ping"}]}
    )

    name: str = Field(min_length=1, max_length=200)
    args: list[Any] = Field(default_factory=list, max_length=100)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = Field(default=None, description="Default: by the task's route.")


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
    services: Services,
    key: IdempotencyKey = None,
) -> Response:
    """Send a task whose name is on the server's list; its result is kept for an hour as a rule."""
    task = PlainTask(name=body.name, args=body.args, kwargs=body.kwargs, queue=body.queue)
    state, created = services.celery_tasks.send(actor, task, idempotency(request, key, body))
    headers = {} if created else {REPLAYED: "true"}
    return json_response(views.celery_task(state), status=202, headers=headers)


@router.get(
    "/celery-tasks/{task_id}",
    operation_id="get_celery_task",
    summary="Get a Celery task",
    responses=READING | problem_responses(404, 409),
)
@router.get("/admin/celery-tasks/{task_id}", include_in_schema=False)
def get(
    task_id: Annotated[UUID, Path(description="Celery's id of the task.")],
    actor: Caller,
    services: Services,
) -> wire.CeleryTask:
    """Return how a Celery task stands: one behind your executions, or a plain one you have sent.

    An admin may ask for any id; one that nobody knows is PENDING, as Celery has it.
    """
    return views.celery_task(services.celery_tasks.get(actor, task_id))
