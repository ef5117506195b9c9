"""The application as a server process makes it: from the environment, with nothing handed in."""

import gc
import resource
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI

from celeriac.api.app import create_app
from celeriac.kit.guard import hide_memory
from celeriac.logs import Service, configure
from celeriac.wiring import build, load_settings, log_options

logger = structlog.get_logger(__name__)

_OTHER_DESCRIPTORS = 200
"""Connections to servers, log files, libraries."""


def from_environment() -> FastAPI:
    """Return the application on parts of its own, closed when the server shuts down.

    For `uvicorn --factory`; each server process calls it once. Raises ConfigurationError.
    """
    hide_memory()
    settings = load_settings()
    configure(log_options(settings, Service.API))
    _allow_descriptors(settings.api.max_connections + _OTHER_DESCRIPTORS)
    container = build(settings, service="api", connections=settings.api.database_connections)
    app = create_app(container)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with inner(served) as state:
            # what is there now stays: no collection of garbage needs to look at it again
            gc.collect()
            gc.freeze()
            yield state or {}
        container.close()

    app.router.lifespan_context = lifespan
    return app


def _allow_descriptors(wanted: int) -> None:
    """Let this process open so many files and connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most < wanted:
        logger.warning("api.few_descriptors", wanted=wanted, allowed=most)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
