"""The checks of the installation over HTTP: answers within a bound, whatever hangs."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Administrator, Needs
from celeriac.api.core.bounded import BoundedRoute
from celeriac.api.core.parameters import Services
from celeriac.api.core.problems import RETRY_AFTER_SECONDS, problem
from celeriac.domain.doctor import Level
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.services.doctor.examine import CHECK_SECONDS


class _DoctorRoute(BoundedRoute):
    needs = Needs.ADMINISTRATOR
    answer_seconds = CHECK_SECONDS + 2
    too_late = "The checks have not ended in time."

    @staticmethod
    async def instead(request: Request, lacks: str) -> Response:
        return problem(
            request,
            status=503,
            code=DatabaseUnavailableError.code,
            detail=f"{lacks} `celeriac doctor` on the machine of the API needs no key.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


router = APIRouter(tags=["operations"], route_class=_DoctorRoute)


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
