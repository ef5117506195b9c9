"""Users, roles, API keys, and the actor of a request."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.domain.errors import ForbiddenError


class Role(StrEnum):
    """What a user may do; each role includes the ones before it.

    A viewer reads their own resources. An operator also creates and runs them. An admin sees all
    resources and manages users and keys.
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
    request_id: str | None = None
    key_id: UUID | None = None
    """The presented API key; None for a command with direct access to the database."""
    key_expires_at: datetime | None = None

    @property
    def sees_all(self) -> bool:
        """Whether the resources of all users are visible."""
        return self.role is Role.ADMIN

    @property
    def scope(self) -> UUID | None:
        """The owner whose resources are visible; None for all owners."""
        return None if self.sees_all else self.user_id

    def require(self, role: Role) -> None:
        """Raise ForbiddenError unless the actor's role includes `role`."""
        if not self.role.includes(role):
            raise ForbiddenError(
                f"This needs the role {role}; yours is {self.role}. Use a key with that role.",
                required=role.value,
            )


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that owns resources."""

    id: UUID
    name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret, which is not stored."""

    id: UUID
    user_id: UUID
    user_name: str
    name: str
    prefix: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
