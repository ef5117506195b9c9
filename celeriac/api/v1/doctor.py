"""The checks of the installation over HTTP: answers within a bound, whatever hangs."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Administrator, Needs, admit
from celeriac.api.core.parameters import Services
from celeriac.api.core.problems import RETRY_AFTER_SECONDS, problem
from celeriac.api.core.requests import JsonRoute
from celeriac.domain.doctor import Level
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.services.doctor.examine import CHECK_SECONDS

_KEY_SECONDS = 1.0
"""How long the check of the key may take."""

_ANSWER_SECONDS = CHECK_SECONDS + 2


class _BoundedRoute(JsonRoute):
    """A route that answers although PostgreSQL, which knows the keys, does not."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which answers 503 if no key can be checked."""
        handle = super().get_route_handler()

        async def handle_within(request: Request) -> Response:
            lacks = "No key can be checked: PostgreSQL does not answer."
            try:
                # afterwards the key is known to this process for some seconds
                async with asyncio.timeout(_KEY_SECONDS):
                    await admit(request, Needs.ADMINISTRATOR)
                lacks = "The checks have not ended in time."
                async with asyncio.timeout(_ANSWER_SECONDS):
                    return await handle(request)
            except (TimeoutError, DatabaseUnavailableError):
                return problem(
                    request,
                    status=503,
                    code=DatabaseUnavailableError.code,
                    detail=f"{lacks} `celeriac doctor` on the machine of the API needs no key.",
                    headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                )

        return handle_within


router = APIRouter(tags=["operations"], route_class=_BoundedRoute)


@router.get("/doctor", summary="Check the installation")
async def get_doctor(
    actor: Administrator,
    services: Services,
    *,
    providers: Annotated[
        bool,
        Query(description="Also ask the providers of models, without a key, whether they answer."),
    ] = False,
) -> wire.Doctor:
    """Check PostgreSQL, schema, clock, Redis, broker, workers, queues and leases.

    Each check has eight seconds; one that has not ended by then is a failed finding. What concerns
    one machine, such as its disk and its Python, is checked by `celeriac doctor` there.
    """
    found = await services.doctor.threads.run(
        partial(services.doctor.examine, actor, providers=providers)
    )
    return wire.Doctor(
        ok=all(each.level is not Level.FAILED for each in found),
        findings=[wire.DoctorFinding.model_validate(each) for each in found],
    )
