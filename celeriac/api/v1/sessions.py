"""Sessions over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Cursor, Limit, Operator, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, json_response, problem_responses
from celeriac.domain.agents import RunnerName
from celeriac.domain.sessions import SessionFilter, SessionStatus

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=JsonRoute)

SessionPath = Annotated[UUID, Path(description="The session's id.")]


@router.get(
    "",
    response_model=wire.Page[wire.Session],
    operation_id="list_sessions",
    summary="List sessions",
    responses=READING,
)
def find(
    actor: Caller,
    services: Services,
    execution_id: Annotated[
        UUID | None, Query(description="Those that this execution began or worked in.")
    ] = None,
    runner: Annotated[RunnerName | None, Query(description="Of this kind of agent.")] = None,
    status: Annotated[SessionStatus | None, Query(description="Those that stand so.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Return your sessions, the newest first; an admin sees everybody's."""
    wanted = SessionFilter(execution_id=execution_id, runner=runner, status=status)
    page = services.sessions.find(actor, wanted, cursor=cursor, limit=limit)
    items = list(map(views.session, page.items))
    return json_response(wire.Page(items=items, next_cursor=page.next_cursor))


@router.get(
    "/{session_id}",
    operation_id="get_session",
    summary="Get a session",
    responses=READING | problem_responses(404),
)
def get(session_id: SessionPath, actor: Caller, services: Services) -> wire.Session:
    """Return a session as it stands; what was said in it are the events of its executions."""
    return views.session(services.sessions.get(actor, session_id))


@router.delete(
    "/{session_id}",
    status_code=204,
    response_class=Response,
    operation_id="delete_session",
    summary="Delete a session",
    responses=READING | problem_responses(403, 404, 409),
)
def delete(session_id: SessionPath, actor: Operator, services: Services) -> Response:
    """Forget what the agent needs to go on with it and remove its files.

    Not possible while an execution works in it, waits to, or is to fork it. It stays in lists as
    `deleted`.
    """
    services.sessions.delete(actor, session_id)
    return Response(status_code=204)
