"""Invitations to workspaces over HTTP. Accepting one needs its token instead of a key."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core.auth import Admin, guess, optional_caller
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.api.v1.accounts import new_key
from celeriac.api.v1.workspaces import WorkspacePath
from celeriac.domain.accounts import Role
from celeriac.domain.base import Name, Strict

router = APIRouter(prefix="/workspaces", tags=["accounts"], route_class=JsonRoute)
open_router = APIRouter(prefix="/invitations", tags=["accounts"], route_class=JsonRoute)

_HOUR = 3600.0
_MOST_HOURS = 720

InvitationPath = Annotated[UUID, Path(description="The invitation's id, not its token.")]


class NewInvitation(Strict):
    """An invitation to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ada", "role": "operator"}]})

    name: Name = Field(description="The user's name; a user who does not exist is made.")
    role: Annotated[Role, Field(strict=False)] = Field(
        default=Role.OPERATOR, description="What the member may do in the workspace."
    )
    expires_hours: int = Field(
        default=168, ge=1, le=_MOST_HOURS, description="Hours until it expires."
    )


class Acceptance(Strict):
    """The token of an invitation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"token": "celinv_4f2a9c0d1b7e_…"}]})

    token: str = Field(min_length=1, max_length=200)


@router.post(
    "/{workspace}/invitations",
    status_code=201,
    summary="Invite to a workspace",
    responses=problem_responses(409),
)
def create_invitation(
    workspace: WorkspacePath, body: NewInvitation, actor: Admin, services: Services
) -> wire.NewInvitation:
    """Invite a person, as an admin of the workspace or an administrator.

    The `token` is shown only now. It works once, until it expires or is revoked, and while you may
    invite.
    """
    made = services.invitations.create(
        actor, workspace, name=body.name, role=body.role, seconds=body.expires_hours * _HOUR
    )
    shown = wire.Invitation.model_validate(made.invitation)
    return wire.NewInvitation(**shown.model_dump(), token=made.token)


@router.get(
    "/{workspace}/invitations",
    response_model=wire.Page[wire.Invitation],
    summary="List invitations",
    responses=problem_responses(403),
)
def list_invitations(
    workspace: WorkspacePath,
    actor: Admin,
    services: Services,
    paging: Paging,
) -> Response:
    """Return the invitations to a workspace, the newest first."""
    return paging.answer(
        wire.Invitation.model_validate, services.invitations.find, actor, workspace
    )


@router.delete(
    "/{workspace}/invitations/{invitation_id}",
    status_code=204,
    summary="Revoke an invitation",
    responses=problem_responses(409),
)
def revoke_invitation(
    workspace: WorkspacePath, invitation_id: InvitationPath, actor: Admin, services: Services
) -> None:
    """Revoke an invitation that was not accepted."""
    services.invitations.revoke(actor, workspace, invitation_id)


@open_router.post(
    "/accept",
    status_code=201,
    summary="Accept an invitation",
    responses=problem_responses(400, 401, 403, 404, 408, 409, 413, 421, 422, 429, 503),
)
async def accept_invitation(
    request: Request, body: Acceptance, services: Services
) -> wire.AcceptedInvitation:
    """Become a member of a workspace. Needs the invitation's token, which works once.

    If there is no user with its name yet, this makes one, and needs no key. Otherwise send a key of
    that user's personal workspace. The `key` in the answer is shown only now. The answer for a
    token that is wrong, used, revoked or expired is always `invitation_invalid`.
    """
    actor = await optional_caller(request)
    request_id = request.state.request_id
    made = await guess(
        request,
        body.token,
        lambda: services.invitations.accept(body.token, actor, request_id=request_id),
    )
    services.authenticate.forget()
    return await run_in_threadpool(
        lambda: wire.AcceptedInvitation(
            user=wire.User.model_validate(made.user),
            created=made.created,
            member=wire.Member.model_validate(made.member),
            key=new_key(made.key),
        )
    )
