"""The application: routers, problems and what wraps every request."""

import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import Lifespan

from celeriac.api import (
    agents,
    api_keys,
    apply,
    approval_links,
    approvals,
    audit,
    budgets,
    cassettes,
    celery_tasks,
    docs,
    execute,
    executions,
    files,
    health,
    links,
    openapi,
    problems,
    reports,
    sessions,
    tasks,
    usage,
    users,
)
from celeriac.api.auth import BadKeys, Lookups
from celeriac.api.deps import record_read
from celeriac.api.json_route import Parsing
from celeriac.api.middleware import AllowedHosts, RequestBody, RequestContext, host_name
from celeriac.api.protocol import LIMITS, ConnectionLimits
from celeriac.version import __version__
from celeriac.wiring import Container, build_desk

_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound

_RESOURCES = (
    agents,
    tasks,
    apply,
    execute,
    executions,
    reports,
    sessions,
    files,
    cassettes,
    usage,
    budgets,
    approvals,
    celery_tasks,
    api_keys,
    users,
    audit,
)


def create_app(container: Container) -> FastAPI:
    """Return the ASGI application on the parts of `container`, which stays the caller's to close.

    Raises ConfigurationError where there is no secret key.
    """
    desk = build_desk(container)

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
        await run_in_threadpool(desk.close)

    app = _routed(lifespan)
    app.state.container = container
    app.state.desk = desk
    app.state.parsing = Parsing()
    app.state.lookups = Lookups(BadKeys(per_minute=settings.bad_keys_per_minute))
    # the last one added is the outermost
    app.add_middleware(RequestBody, limit=settings.max_body_bytes, seconds=settings.body_seconds)
    app.add_middleware(
        AllowedHosts,
        hosts=_hosts(
            settings.host, container.settings.public_url, container.settings.allowed_hosts
        ),
        any_address=settings.host in _EVERYWHERE,
    )
    app.add_middleware(RequestContext)
    return app


def _hosts(listens_on: str, public_url: str | None, more: Iterable[str]) -> set[str]:
    """Return the names by which the API may be reached."""
    hosts = {"localhost", "127.0.0.1", "[::1]", *more}
    if listens_on in _EVERYWHERE:
        hosts.add(socket.gethostname())
    else:
        hosts.add(listens_on)
    if public_url is not None:
        hosts.add(urlsplit(public_url).netloc.rpartition("@")[2])
    return {host_name(host) for host in hosts}


def describe() -> dict[str, Any]:
    """Return the OpenAPI description; needs no parts."""
    return _routed(None).openapi()


def _routed(lifespan: Lifespan[FastAPI] | None) -> FastAPI:
    app = FastAPI(
        title="Celeriac",
        version=__version__,
        summary="Background execution for AI agents",
        description=openapi.DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # they would be built from the request's own Host
        lifespan=lifespan,
    )
    version_1 = APIRouter(prefix=links.PREFIX)
    version_1.include_router(approval_links.router)
    for module in _RESOURCES:
        version_1.include_router(module.router, dependencies=[Depends(record_read)])
    version_1.include_router(users.own_router)
    app.include_router(version_1)
    app.include_router(health.router)
    problems.install(app)
    docs.install(app)
    openapi.install(app)
    return app
