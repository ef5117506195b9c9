"""The application as a server process makes it: from the environment, with nothing handed in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from celeriac.api.app import create_app
from celeriac.kit.guard import hide_memory
from celeriac.logs import Service, configure
from celeriac.wiring import build, load_settings, log_options


def from_environment() -> FastAPI:
    """Return the application on parts of its own, closed when the server shuts down.

    For `uvicorn --factory`; each server process calls it once. Raises ConfigurationError.
    """
    hide_memory()
    settings = load_settings()
    configure(log_options(settings, Service.API))
    container = build(settings, service="api", connections=settings.api.database_connections)
    app = create_app(container)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[None]:
        async with inner(served):
            yield
        container.close()

    app.router.lifespan_context = lifespan
    return app
