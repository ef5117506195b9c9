"""Health, which needs no key, and Celery tasks over HTTP."""

from typing import Annotated, Any, ClassVar
from uuid import UUID

from fastapi import APIRouter, Path, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Administrator, Caller, Operator
from celeriac.api.core.parameters import IdempotencyKey, Services
from celeriac.api.core.requests import REPLAYED, JsonRoute, idempotency
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.domain.base import Strict
from celeriac.domain.tasks import QueueName
from celeriac.services.operations.celery_tasks import PlainTask
from celeriac.services.operations.health import OK
from celeriac.version import __version__

celery_router = APIRouter(tags=["celery tasks"], route_class=JsonRoute)
maintenance_router = APIRouter(tags=["maintenance"], route_class=JsonRoute)
health_router = APIRouter(prefix="/health", tags=["health"], route_class=JsonRoute)

_UNAVAILABLE = 503


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


@celery_router.post(
    "/celery-tasks",
    status_code=202,
    response_model=wire.CeleryTask,
    summary="Send a plain Celery task",
)
def send_celery_task(
    request: Request,
    body: EnqueueCeleryTask,
    actor: Operator,
    services: Services,
    key: IdempotencyKey = None,
) -> Response:
    """Send a task whose name is on the server's list. By default its result is kept for an hour."""
    task = PlainTask(name=body.name, args=body.args, kwargs=body.kwargs, queue=body.queue)
    state, created = services.celery_tasks.send(actor, task, idempotency(request, key, body))
    headers = {} if created else {REPLAYED: "true"}
    return json_response(views.celery_task(state), status=202, headers=headers)


@celery_router.get(
    "/celery-tasks/{task_id}", summary="Get a Celery task", responses=problem_responses(409)
)
@celery_router.get("/admin/celery-tasks/{task_id}", include_in_schema=False)
def get_celery_task(
    task_id: Annotated[UUID, Path(description="Celery's id of the task.")],
    actor: Caller,
    services: Services,
) -> wire.CeleryTask:
    """Return the state of a Celery task of the workspace: of an execution, or a plain one.

    An administrator may also name an id that no workspace has sent. As in Celery, an unknown one is
    PENDING.
    """
    return views.celery_task(services.celery_tasks.get(actor, task_id))


@maintenance_router.get("/maintenance-jobs", summary="List the system's own periodic work")
def list_maintenance_jobs(actor: Administrator, services: Services) -> wire.MaintenanceJobs:
    """Return the latest run of each job of beat, by name: dispatch, rescue, retention and more.

    There are no rows before the first beat has run.
    """
    found = services.maintenance.find(actor)
    return wire.MaintenanceJobs(jobs=[wire.MaintenanceJob.model_validate(each) for each in found])


@health_router.get("/live", summary="Whether the process answers")
async def get_liveness() -> wire.Health:
    """Return 200 as long as the process answers at all."""
    return wire.Health(status=OK, version=__version__)


@health_router.get(
    "/ready",
    response_model=wire.ReadyHealth,
    summary="Whether requests can be served",
    responses={503: {"model": wire.ReadyHealth, "description": "They can't."}},
)
def get_readiness(services: Services) -> Response:
    """Check the database, its schema and Redis.

    Without Redis the answer is 200 and `degraded`: executions are stored and sent later.
    """
    found = services.health.readiness()
    model = wire.ReadyHealth(status=found.status, checks=found.checks)
    return json_response(model, status=200 if found.serving else _UNAVAILABLE)


@health_router.get(
    "/celery",
    response_model=wire.CeleryHealth,
    summary="The live workers",
    responses={503: {"model": wire.CeleryHealth, "description": "No worker takes messages."}},
)
def get_celery_health(services: Services) -> Response:
    """Return the live worker processes with their active counts; 503 if none takes messages."""
    found = services.health.live_workers()
    consuming = {worker.hostname for worker in found if worker.consuming is not False}
    model = wire.CeleryHealth(
        status=OK if consuming else "unavailable",
        workers=len({worker.hostname for worker in found}),
        consuming=len(consuming),
        slots=sum(worker.slots for worker in found),
        active=sum(worker.running for worker in found),
        processes=[wire.Worker.model_validate(worker) for worker in found],
    )
    return json_response(model, status=200 if consuming else _UNAVAILABLE)
