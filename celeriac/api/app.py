"""The application: routers, problems and what wraps every request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
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
from celeriac.api.deps import record_read
from celeriac.api.middleware import BodyLimit, RequestContext
from celeriac.version import __version__
from celeriac.wiring import Container, build_desk

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

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = _routed(lifespan)
    app.state.container = container
    app.state.desk = desk
    # the last one added is the outermost
    app.add_middleware(BodyLimit, limit=container.settings.api.max_body_bytes)
    app.add_middleware(RequestContext)
    return app


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
