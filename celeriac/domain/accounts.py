"""Workspaces, users, roles, API keys, and the actor of a request."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.domain.errors import ForbiddenError


class Role(StrEnum):
    """What a member of a workspace may do; each role includes the ones before it.

    A viewer reads the workspace's resources. An operator also creates and runs them. An admin also
    manages the members. A user's own role is the one in their personal workspace; with `admin` they
    are an administrator of the installation too.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do all that `other` may."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)

    def limited_to(self, other: "Role") -> "Role":
        """Return the lesser of the two roles."""
        return other if self.includes(other) else self


@dataclass(frozen=True, slots=True)
class Actor:
    """The user on whose behalf a request is handled, for permissions and the audit trail."""

    user_id: UUID
    name: str
    role: Role
    """In the workspace: the member's, within `limit`."""
    workspace_id: UUID
    """The only workspace whose resources the actor sees."""
    administrator: bool = False
    """Whether the actor manages users, workspaces and the installation; with a personal key."""
    personal_key: bool = False
    """Whether the key is of the personal workspace: it may act in all workspaces of its user."""
    limit: Role = Role.ADMIN
    """What the key limits the user to in every workspace."""
    request_id: str | None = None
    key_id: UUID | None = None
    """The presented API key; None for a command with direct access to the database."""
    key_expires_at: datetime | None = None

    def require_administrator(self) -> None:
        """Raise ForbiddenError unless the actor is an administrator."""
        if not self.administrator:
            raise ForbiddenError(
                "This needs the key of an administrator, with the role admin.",
                required=Role.ADMIN.value,
            )

    def require(self, role: Role) -> None:
        """Raise ForbiddenError unless the actor's role includes `role`."""
        if not self.role.includes(role):
            raise ForbiddenError(
                f"This needs the role {role}; yours is {self.role}. Use a key with that role.",
                required=role.value,
            )


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that has a personal workspace, and may be a member of others."""

    id: UUID
    name: str
    role: Role
    """In the personal workspace; `admin` makes an administrator."""
    workspace_id: UUID
    """The personal workspace."""
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Workspace:
    """A tenant: its members share agents, tasks, executions and budgets."""

    id: UUID
    name: str
    """Unique; a personal workspace has its user's name."""
    personal_of: UUID | None
    """The user whose own workspace it is."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a workspace; the id is the user's."""

    id: UUID
    workspace_id: UUID
    name: str
    role: Role
    created_at: datetime


class InvitationStatus(StrEnum):
    """Whether an invitation can be accepted; only an open one can.

    A void one was made by somebody who may not invite any more, or with a key that is revoked.
    """

    OPEN = "open"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation to a workspace, without its token, which is not stored."""

    id: UUID
    workspace_id: UUID
    workspace_name: str
    owner_id: UUID
    """Who made it."""
    name: str
    """The user's, who is made if there is none."""
    role: Role
    """In the workspace."""
    status: InvitationStatus
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret, which is not stored."""

    id: UUID
    user_id: UUID
    user_name: str
    workspace_id: UUID
    workspace_name: str
    name: str
    prefix: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
