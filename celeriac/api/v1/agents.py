"""Agents over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Caller, Cursor, Limit, Operator, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, WRITING, json_response, problem_responses
from celeriac.api.v1.schemas.catalog import AgentPatch, NewAgent, Reference
from celeriac.services.catalog import agents

router = APIRouter(prefix="/agents", tags=["agents"], route_class=JsonRoute)

AgentPath = Annotated[
    Reference, Path(description="The agent's id, or the name of one of yours.", examples=["writer"])
]


@router.post(
    "",
    status_code=201,
    operation_id="create_agent",
    summary="Make an agent",
    responses=WRITING | problem_responses(409),
)
def create(body: NewAgent, actor: Operator, services: Services) -> wire.Agent:
    """Store an agent at version 1. Its name must be new among your agents."""
    new = agents.NewAgent(name=body.name, description=body.description, spec=body.spec)
    return views.agent(services.agents.create(actor, new), services.advice.warnings(new.spec))


@router.get(
    "",
    response_model=wire.Page[wire.Agent],
    operation_id="list_agents",
    summary="List agents",
    responses=READING,
)
def find(actor: Caller, services: Services, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Return your agents, the newest first; an admin sees everybody's."""
    page = services.agents.find(actor, cursor=cursor, limit=limit)
    items = list(map(views.agent, page.items))
    return json_response(wire.Page(items=items, next_cursor=page.next_cursor))


@router.get(
    "/{agent}",
    operation_id="get_agent",
    summary="Get an agent",
    responses=READING | problem_responses(404),
)
def get(agent: AgentPath, actor: Caller, services: Services) -> wire.Agent:
    """Return an agent at its current version."""
    return views.agent(services.agents.get(actor, agent))


@router.patch(
    "/{agent}",
    operation_id="change_agent",
    summary="Change an agent",
    responses=WRITING | problem_responses(404),
)
def change(agent: AgentPath, body: AgentPatch, actor: Operator, services: Services) -> wire.Agent:
    """Change an agent. Another `spec` becomes its next version, which new executions use."""
    wanted = agents.AgentChange(description=body.description, spec=body.spec)
    changed = services.agents.change(actor, agent, wanted)
    return views.agent(changed, [] if body.spec is None else services.advice.warnings(changed.spec))


@router.delete(
    "/{agent}",
    status_code=204,
    response_class=Response,
    operation_id="delete_agent",
    summary="Delete an agent",
    responses=READING | problem_responses(403, 404, 409),
)
def delete(agent: AgentPath, actor: Operator, services: Services) -> Response:
    """Delete an agent that no task uses. What it did stays, and its name is free."""
    services.agents.delete(actor, agent)
    return Response(status_code=204)
