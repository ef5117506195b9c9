"""Health over HTTP; needs no key, so that load balancers and probes can ask."""

from fastapi import APIRouter
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import json_response
from celeriac.services.operations.health import OK
from celeriac.version import __version__

router = APIRouter(prefix="/health", tags=["health"], route_class=JsonRoute)

_UNAVAILABLE = 503


@router.get("/live", operation_id="get_liveness", summary="Whether the process answers")
async def live() -> wire.Health:
    """Return 200 as long as the process answers at all."""
    return wire.Health(status=OK, version=__version__)


@router.get(
    "/ready",
    response_model=wire.ReadyHealth,
    operation_id="get_readiness",
    summary="Whether requests can be served",
    responses={503: {"model": wire.ReadyHealth, "description": "They can't."}},
)
def ready(services: Services) -> Response:
    """Check the database, its schema and Redis.

    Without Redis the answer is 200 and `degraded`: executions are stored and sent later.
    """
    found = services.health.readiness()
    model = wire.ReadyHealth(status=found.status, checks=found.checks)
    return json_response(model, status=200 if found.serving else _UNAVAILABLE)


@router.get(
    "/celery",
    response_model=wire.CeleryHealth,
    operation_id="get_celery_health",
    summary="The live workers and what they do",
    responses={503: {"model": wire.CeleryHealth, "description": "No worker takes messages."}},
)
def celery(services: Services) -> Response:
    """Return the live worker processes with their active counts, 503 where none takes messages."""
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
