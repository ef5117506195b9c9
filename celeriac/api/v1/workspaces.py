"""Workspaces and their members over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Admin, Administrator, Caller
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Reference, Services, Shared
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.accounts import Role
from celeriac.domain.base import Name, Strict

router = APIRouter(prefix="/workspaces", tags=["accounts"], route_class=JsonRoute)

WorkspacePath = Annotated[Reference, Path(description="The workspace's id or name.")]
MemberPath = Annotated[UUID, Path(description="The member's user id.")]


class NewWorkspace(Strict):
    """A workspace to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "research"}]})

    name: Name = Field(description="Unique among all workspaces and users.")


class NewMember(Strict):
    """A user who becomes a member."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "ada", "role": "operator"}]})

    user: Reference = Field(description="The user's id or name.")
    role: Annotated[Role, Field(strict=False)] = Field(
        default=Role.OPERATOR, description="What the member may do in the workspace."
    )


class MemberPatch(Strict):
    """A change to a member."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "viewer"}]})

    role: Annotated[Role, Field(strict=False)]
    without_admin: bool = Field(
        default=False,
        description="Also if no admin is left in the workspace; for administrators.",
    )


@router.post("", status_code=201, summary="Create a workspace", responses=problem_responses(409))
def create_workspace(
    body: NewWorkspace, actor: Administrator, services: Services
) -> wire.Workspace:
    """Create a workspace, which has no members yet."""
    return wire.Workspace.model_validate(services.workspaces.create(actor, body.name))


@router.get("", response_model=wire.Page[wire.Workspace], summary="List workspaces")
def list_workspaces(actor: Caller, services: Services, paging: Paging) -> Response:
    """Return your workspaces, the newest first. An administrator sees all."""
    return paging.answer(wire.Workspace.model_validate, services.workspaces.find, actor)


@router.get("/{workspace}", summary="Get a workspace")
def get_workspace(workspace: WorkspacePath, actor: Caller, services: Services) -> wire.Workspace:
    """Return a workspace of which you are a member. An administrator sees all."""
    return wire.Workspace.model_validate(services.workspaces.get(actor, workspace))


@router.delete(
    "/{workspace}",
    status_code=204,
    summary="Delete a workspace",
    responses=problem_responses(409),
)
def delete_workspace(
    workspace: WorkspacePath,
    actor: Administrator,
    services: Services,
    shared: Shared,
    *,
    cancel: Annotated[
        bool, Query(description="Cancel its executions that have not ended.")
    ] = False,
) -> None:
    """Delete a workspace with its catalog, budgets, cassettes and keys. Its name is free.

    Executions and sessions stay until retention removes them, but no key finds them. Refused while
    executions or runs have not ended, unless `cancel` is true. A personal workspace can't be
    deleted.
    """
    everything = (services.runs.cancel_all, shared.cancel.all_of_workspace)
    services.workspaces.delete(actor, workspace, cancel=everything if cancel else ())
    services.authenticate.forget()


@router.get("/{workspace}/members", response_model=wire.Page[wire.Member], summary="List members")
def list_members(
    workspace: WorkspacePath,
    actor: Caller,
    services: Services,
    paging: Paging,
) -> Response:
    """Return the members of a workspace."""
    return paging.answer(wire.Member.model_validate, services.workspaces.members, actor, workspace)


@router.post(
    "/{workspace}/members",
    status_code=201,
    summary="Add a member",
    responses=problem_responses(409),
)
def add_member(
    workspace: WorkspacePath, body: NewMember, actor: Administrator, services: Services
) -> wire.Member:
    """Make a user a member of a workspace. Nobody is added to a personal workspace."""
    added = services.workspaces.add_member(actor, workspace, body.user, body.role)
    services.authenticate.forget()
    return wire.Member.model_validate(added)


@router.patch(
    "/{workspace}/members/{user_id}",
    summary="Change a member's role",
    responses=problem_responses(409),
)
def change_member(
    workspace: WorkspacePath,
    user_id: MemberPath,
    body: MemberPatch,
    actor: Admin,
    services: Services,
) -> wire.Member:
    """Change what a member may do, as an admin of the workspace or an administrator.

    The member's keys follow within seconds. The last admin stays one.
    """
    changed = services.workspaces.change_member(
        actor, workspace, user_id, body.role, without_admin=body.without_admin
    )
    services.authenticate.forget()
    return wire.Member.model_validate(changed)


@router.delete(
    "/{workspace}/members/{user_id}",
    status_code=204,
    summary="Remove a member",
    responses=problem_responses(403, 409),
)
def remove_member(
    workspace: WorkspacePath,
    user_id: MemberPath,
    actor: Caller,
    services: Services,
    *,
    without_admin: Annotated[
        bool, Query(description="Also if no admin is left in the workspace; for administrators.")
    ] = False,
) -> None:
    """Remove a member, as an admin of the workspace or an administrator, or leave it yourself.

    The member's keys in the workspace are revoked: other API processes may accept them for five
    seconds more. What the member made stays. The last admin of a workspace is not removed.
    """
    services.workspaces.remove_member(actor, workspace, user_id, without_admin=without_admin)
    services.authenticate.forget()
