"""The FastAPI application.

Routers, error handlers, middleware, OpenAPI description and offline documentation.

`from_environment` builds it for a server process.
"""

import resource
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Lifespan

from celeriac import traces
from celeriac.api.core import links, problems
from celeriac.api.core.auth import BadKeys, Lookups, record_read
from celeriac.api.core.middleware import AllowedHosts, RequestBody, RequestContext, host_name
from celeriac.api.core.problems import MEDIA_TYPE
from celeriac.api.core.protocol import LIMITS, ConnectionLimits
from celeriac.api.core.requests import Parsing
from celeriac.api.metrics import route as metrics_route
from celeriac.api.metrics.requests import RequestTimes
from celeriac.api.v1 import (
    accounts,
    approvals,
    budgets,
    bulk_jobs,
    cassettes,
    catalog,
    doctor,
    execution_logs,
    failures,
    hooks,
    invitations,
    limits,
    operations,
    pauses,
    saved_views,
    schedules,
    secrets,
    sessions,
    sitrep,
    statistics,
    webhooks,
    workflows,
    workspaces,
)
from celeriac.api.v1.executions import export, submit
from celeriac.api.v1.executions import routes as executions
from celeriac.api.web import approval_links
from celeriac.kit import collector
from celeriac.kit.child_bootstrap import hide_memory
from celeriac.logs import Service, configure
from celeriac.version import __version__
from celeriac.wiring.api import ApiServices
from celeriac.wiring.core import CoreServices, build, load_settings, log_options

_JSON = "application/json"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}

DESCRIPTION = """
Run AI agents in the background: describe a task once, execute it a million times.

Send your API key as `Authorization: Bearer cel_…`. It sees the resources of its workspace; a key of
your personal workspace may name another of yours in the header `Celeriac-Workspace`. Errors are
problems (RFC 9457) with a stable `code`. Lists have pages: send `next_cursor` as `cursor`. Requests
with the same `Idempotency-Key` create work once. Times are RFC 3339 in UTC.
"""

TAGS = [
    {"name": "agents", "description": "Models, functions, programs and crews that do the work."},
    {"name": "tasks", "description": "Named, reusable pieces of work."},
    {"name": "catalog", "description": "Agents, tasks and budgets from one document."},
    {"name": "executions", "description": "Runs of tasks: start, follow, cancel, repeat."},
    {"name": "bulk jobs", "description": "One action for many executions, with a preview."},
    {"name": "views", "description": "Filters of executions under a name."},
    {"name": "failures", "description": "Failed executions, grouped by task and cause."},
    {"name": "sessions", "description": "Conversations that later runs can continue."},
    {"name": "usage", "description": "Tokens and cost of model calls."},
    {"name": "statistics", "description": "Rates, success and durations of what ended."},
    {"name": "budgets", "description": "Limits for the cost of model calls."},
    {"name": "cassettes", "description": "Recorded model traffic, to run agents without models."},
    {"name": "approvals", "description": "Questions of agents to people, and the answers."},
    {"name": "schedules", "description": "When tasks and workflows start by themselves."},
    {"name": "limits", "description": "How many executions run at once, or begin in a time."},
    {"name": "pauses", "description": "What may not begin for now."},
    {"name": "webhooks", "description": "Where events are sent, and what was sent."},
    {"name": "hooks", "description": "URLs whose requests start tasks and workflows."},
    {"name": "secrets", "description": "Values that agents are given and nobody is shown."},
    {"name": "operations", "description": "What is wrong, what waits, what runs."},
    {"name": "celery tasks", "description": "Celery tasks of executions, and plain ones."},
    {"name": "maintenance", "description": "The system's own periodic work."},
    {"name": "accounts", "description": "Workspaces, users and API keys."},
    {"name": "audit", "description": "The record of all changes."},
    {"name": "health", "description": "The state of the service."},
]


class _Application(FastAPI):
    """Describes its problems with their own media type."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            for path in super().openapi()["paths"].values():
                for operation in path.values():
                    for response in operation["responses"].values():
                        content = response.get("content", {})
                        if content.get(_JSON, {}).get("schema") == _PROBLEM:
                            content[MEDIA_TYPE] = content.pop(_JSON)
        assert self.openapi_schema is not None
        return self.openapi_schema


_FILES = "/docs/files"


def _install_docs(app: FastAPI) -> None:
    """Serve `/docs` and its files."""
    app.get("/docs", include_in_schema=False)(_docs)
    files = resources.files("fastapi_offline") / "static"
    app.mount(_FILES, StaticFiles(directory=str(files)), name="docs-files")


async def _docs(request: Request) -> HTMLResponse:
    # not a closure on the application: FastAPI keeps every endpoint in a cache for ever
    app: FastAPI = request.app
    return get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title=app.title,
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon.png",
    )


_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound

_ROUTERS = (
    catalog.agents_router,
    catalog.tasks_router,
    catalog.apply_router,
    workflows.router,
    workflows.runs_router,
    schedules.router,
    limits.router,
    pauses.router,
    submit.router,
    export.router,
    executions.router,
    bulk_jobs.router,
    saved_views.router,
    failures.router,
    statistics.router,
    sessions.router,
    sessions.execution_files_router,
    execution_logs.router,
    cassettes.router,
    budgets.usage_router,
    budgets.router,
    approvals.router,
    webhooks.router,
    webhooks.secret_router,
    webhooks.deliveries_router,
    hooks.router,
    secrets.router,
    secrets.encryption_router,
    operations.celery_router,
    operations.maintenance_router,
    sitrep.router,
    doctor.router,
    accounts.router,
    workspaces.router,
    invitations.router,
    accounts.audit_router,
)


def create_app(container: CoreServices) -> FastAPI:
    """Return the ASGI application on the services of `container`, which the caller closes.

    Raises ConfigurationError if there is no secret key.
    """
    services = ApiServices(container)

    settings = container.settings.api
    limits = ConnectionLimits(
        header_seconds=settings.header_seconds,
        body_seconds=settings.body_seconds,
        max_body_bytes=settings.max_body_bytes,
        max_connections=settings.max_connections,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        yield {LIMITS: limits}
        await run_in_threadpool(services.close)

    app = _routed(lifespan)
    app.state.container = container
    app.state.services = services
    app.state.parsing = Parsing()
    app.state.request_times = RequestTimes()
    app.state.bad_keys = BadKeys(per_minute=settings.bad_keys_per_minute)
    app.state.lookups = Lookups(app.state.bad_keys)
    # the last one added is the outermost
    app.add_middleware(RequestBody, limit=settings.max_body_bytes, seconds=settings.body_seconds)
    app.add_middleware(
        AllowedHosts,
        hosts=_hosts(
            settings.host, container.settings.public_url, container.settings.allowed_hosts
        ),
        any_address=settings.host in _EVERYWHERE,
    )
    app.add_middleware(RequestContext, observe=app.state.request_times.observe)
    return app


def _hosts(listens_on: str, public_url: str | None, more: Iterable[str]) -> set[str]:
    """Return the host names under which the API may be reached."""
    hosts = {"localhost", "127.0.0.1", "[::1]", *more}
    if listens_on in _EVERYWHERE:
        hosts.add(socket.gethostname())
    else:
        hosts.add(listens_on)
    if public_url is not None:
        hosts.add(urlsplit(public_url).netloc.rpartition("@")[2])
    return {host_name(host) for host in hosts}


def describe() -> dict[str, Any]:
    """Return the OpenAPI description; needs no services."""
    return _routed(None).openapi()


def _routed(lifespan: Lifespan[FastAPI] | None) -> FastAPI:
    app = _Application(
        title="Celeriac",
        version=__version__,
        summary="Background execution for AI agents",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # redirects would contain the request's own Host
        lifespan=lifespan,
    )
    app.router.routes.extend(_routes())
    problems.install(app)
    _install_docs(app)
    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """Return all routes, built once per process: they hold nothing of an application.

    FastAPI takes half a second for that, a part of it at the first request.
    """
    version_1 = APIRouter(prefix=links.PREFIX)
    version_1.include_router(approval_links.router)
    version_1.include_router(invitations.open_router)
    for router in _ROUTERS:
        version_1.include_router(router, dependencies=[Depends(record_read)])
    everything = APIRouter()
    everything.include_router(version_1)
    everything.include_router(hooks.open_router)
    everything.include_router(operations.health_router)
    everything.include_router(metrics_route.router)
    return tuple(everything.routes)


logger = structlog.get_logger(__name__)

_OTHER_DESCRIPTORS = 200
"""File descriptors for connections to servers, log files, libraries."""


def from_environment() -> FastAPI:
    """Return the application on services of its own, which the server's shutdown closes.

    For `uvicorn --factory`; each server process calls it once. Raises ConfigurationError.
    """
    hide_memory()
    settings = load_settings()
    configure(log_options(settings, Service.API))
    traces.start("api")
    _allow_descriptors(settings.api.max_connections + _OTHER_DESCRIPTORS)
    container = build(
        settings,
        service="api",
        connections=settings.api.database_connections,
        statement_seconds=settings.api.statement_seconds,
    )
    app = create_app(container)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with inner(served) as state:
            collector.leave_out()
            yield state or {}
        container.close()
        traces.stop()

    app.router.lifespan_context = lifespan
    return app


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's limit of open files to `wanted`, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most < wanted:
        logger.warning("api.few_descriptors", wanted=wanted, allowed=most)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
