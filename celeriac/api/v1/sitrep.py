"""The situation report over HTTP: answers within a bound, whatever hangs."""

from functools import partial
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Caller, Needs
from celeriac.api.core.bounded import BoundedRoute
from celeriac.api.core.parameters import Services
from celeriac.api.core.problems import RETRY_AFTER_SECONDS, problem
from celeriac.api.core.responses import json_response, problem_responses
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.states import SimpleStatus
from celeriac.domain.sitrep import RecentWanted, SitrepScope, TaskKind
from celeriac.wiring.api import ApiServices

_MOST_RECENT = 100


class _SitrepRoute(BoundedRoute):
    needs = Needs.VIEWER
    answer_seconds = 3.0
    too_late = "The sources did not answer in time."

    @staticmethod
    async def instead(request: Request, lacks: str) -> Response:
        """Return 503 with what is known."""
        reports = cast(ApiServices, request.app.state.services).sitrep
        found = await reports.threads.run(reports.without_database)
        shown = wire.Sitrep.model_validate(found)
        return problem(
            request,
            status=503,
            code=DatabaseUnavailableError.code,
            detail=f"{lacks} {found.headline}",
            details={"sitrep": shown.model_dump(mode="json")},
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )


router = APIRouter(prefix="/scheduler", tags=["operations"], route_class=_SitrepRoute)


@router.get(
    "/sitrep",
    response_model=wire.Sitrep,
    summary="Get the situation report",
    responses=problem_responses(403),
)
async def get_sitrep(
    actor: Caller,
    services: Services,
    scope: Annotated[
        SitrepScope,
        Query(description="workspace, or for administrators instance: all workspaces."),
    ] = SitrepScope.WORKSPACE,
    limit: Annotated[int, Query(ge=1, le=_MOST_RECENT, description="Recent tasks.")] = 10,
    cursor: Annotated[
        UUID | None, Query(description="`recent_tasks.data.next_cursor` of the page before.")
    ] = None,
    type: Annotated[  # noqa: A002 - the parameter's name
        TaskKind | None, Query(description="Recent tasks of this type: execution or celery.")
    ] = None,
    status: Annotated[
        SimpleStatus | None, Query(description="Recent tasks in this status.")
    ] = None,
) -> Response:
    """Return what is wrong, what waits, what runs, and what has ended lately.

    A source that does not answer within 250 ms (a second the first time) leaves its last-known
    data: its section has `ok` false, and `age_seconds`. If no key can be checked, the answer is 503
    with the report in `details.sitrep`.
    """
    wanted = RecentWanted(limit=limit, before=cursor, type=type, status=status)
    reports = services.sitrep
    found = await reports.threads.run(partial(reports.report, actor, scope=scope, recent=wanted))
    return json_response(wire.Sitrep.model_validate(found))
