"""`GET /metrics`: figures for Prometheus."""

import secrets
from typing import cast

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac.api.core.auth import Needs, admit
from celeriac.api.core.responses import problem_responses
from celeriac.api.metrics.collector import FiguresCollector
from celeriac.api.metrics.requests import RequestTimes
from celeriac.domain.metrics import Figures
from celeriac.wiring.api import ApiServices

PATH = "/metrics"

router = APIRouter(tags=["health"])


@router.get(
    PATH,
    summary="Metrics for Prometheus",
    response_class=Response,
    openapi_extra={"security": [{"ApiKey": []}]},
    responses=problem_responses(400, 401, 403, 421, 422, 429, 503)
    | {200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
)
async def get_metrics(request: Request) -> Response:
    """Return figures of all workspaces in Prometheus' text format.

    Needs the token `CELERIAC_API_METRICS_TOKEN` or an administrator's key as the bearer. A source
    that doesn't answer within two seconds is left out: `celeriac_database_up` or
    `celeriac_redis_up` is 0.
    """
    services = cast(ApiServices, request.app.state.services)
    token = services.metrics_token
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if (
        token is None
        or scheme.lower() != "bearer"
        or not secrets.compare_digest(_bytes(given), _bytes(token.get_secret_value()))
    ):
        await admit(request, Needs.ADMINISTRATOR)
    times = cast(RequestTimes, request.app.state.request_times)
    body = await run_in_threadpool(lambda: render(services.metrics.read(), times))
    return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def render(figures: Figures, times: RequestTimes) -> bytes:
    """Return figures, and the request times of this process, in the text format."""
    registry = CollectorRegistry()
    registry.register(FiguresCollector(figures))
    return generate_latest(registry) + generate_latest(times.registry)
