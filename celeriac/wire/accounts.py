"""Users, API keys and the audit trail as HTTP shapes."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.accounts import InvitationStatus, Role
from celeriac.wire.base import ID, Wire


class User(Wire):
    """A person or program that has a personal workspace, and may be a member of others."""

    id: UUID
    name: str = Field(examples=["ada"])
    role: Role = Field(
        description="In the personal workspace; admin: also an administrator of the installation."
    )
    workspace_id: UUID = Field(description="The personal workspace.")
    created_at: datetime
    disabled_at: datetime | None


class Workspace(Wire):
    """A tenant: its members share agents, tasks, executions and budgets."""

    id: UUID
    name: str = Field(
        description="Unique; a personal workspace has its user's name.", examples=["research"]
    )
    personal_of: UUID | None = Field(
        description="The user whose own workspace it is.", examples=[None]
    )
    created_at: datetime


class Member(Wire):
    """A user in a workspace."""

    id: UUID = Field(description="The user's id.")
    workspace_id: UUID
    name: str = Field(description="The user's name.", examples=["ada"])
    role: Role = Field(description="What the member may do in the workspace.")
    created_at: datetime = Field(description="Since when the user is a member.")


class Invitation(Wire):
    """An invitation to a workspace, without its token."""

    id: UUID
    workspace_id: UUID
    workspace_name: str = Field(examples=["research"])
    owner_id: UUID = Field(description="Who made it.")
    name: str = Field(
        description="The name of the user; one who does not exist is made.", examples=["ada"]
    )
    role: Role = Field(description="What the member may do in the workspace.")
    status: InvitationStatus = Field(
        description="Only an open one can be accepted. void: its maker may not invite any "
        "more, or the key that made it is revoked."
    )
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None


class NewInvitation(Invitation):
    """An invitation that was just created."""

    token: str = Field(
        description="What the person accepts it with. It is shown only once and is not stored.",
        examples=["celinv_4f2a9c0d1b7e_…"],
    )


class ApiKey(Wire):
    """An API key without its secret."""

    id: UUID
    user_id: UUID
    user_name: str = Field(examples=["ada"])
    workspace_id: UUID = Field(description="The key sees the resources of this workspace alone.")
    workspace_name: str = Field(examples=["ada"])
    name: str = Field(examples=["ci"])
    prefix: str = Field(
        description="The public part of the key: `cel_<prefix>_…`.", examples=["4f2a9c0d1b7e"]
    )
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class NewApiKey(ApiKey):
    """A key that was just created."""

    token: str = Field(
        description="The key itself. It is shown only once and is not stored.",
        examples=["cel_4f2a9c0d1b7e_…"],
    )


class AcceptedInvitation(Wire):
    """A new member, and a key that is shown only once."""

    user: User
    created: bool = Field(description="Whether the user was made.", examples=[True])
    member: Member
    key: NewApiKey = Field(
        description="For a new user of their personal workspace, else of the workspace."
    )


class AuditEntry(Wire):
    """Who did what to which resource."""

    id: UUID
    at: datetime
    workspace_id: UUID | None = Field(description="The workspace of the actor's key.")
    actor_id: UUID | None
    actor: str = Field(examples=["ada"])
    action: str = Field(examples=["execution.cancel"])
    resource_type: str = Field(examples=["execution"])
    resource_id: str = Field(examples=[ID])
    request_id: str | None
    details: dict[str, Any]


class AuditFault(Wire):
    """A seal of the audit trail that does not hold."""

    first_position: int
    last_position: int = Field(examples=[812])
    message: str = Field(examples=["covers entries that were changed"])


class AuditVerification(Wire):
    """The result of checking a part of the audit trail."""

    ok: bool = Field(examples=[True])
    entries: int = Field(examples=[1024])
    seals: int
    start: str = Field(
        description="The seal before the first one that was checked.", examples=["00" * 32]
    )
    last_position: int = Field(
        description="Where the check ended; `after` of the next page.", examples=[1031]
    )
    head: str = Field(
        description="The last seal that was checked, in hexadecimal.", examples=["5f" * 32]
    )
    complete: bool = Field(description="Whether there are no more seals.", examples=[True])
    faults: list[AuditFault] = Field(examples=[[]])
