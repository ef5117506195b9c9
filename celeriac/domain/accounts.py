"""Users, roles, and who is asking."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.domain.errors import ForbiddenError


class Role(StrEnum):
    """What a user may do; each role includes the ones before it.

    A viewer reads their own resources, an operator also creates and runs them, an admin sees
    everybody's and manages users and keys.
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
    """Who is asking, for permissions and the audit trail."""

    user_id: UUID
    name: str
    role: Role
    request_id: str | None = None
    key_id: UUID | None = None
    """The key that was shown; None for who has the database itself."""
    key_expires_at: datetime | None = None

    @property
    def sees_all(self) -> bool:
        """Whether other people's resources are visible."""
        return self.role is Role.ADMIN

    @property
    def scope(self) -> UUID | None:
        """Whose resources are visible: only this owner's, or everybody's for None."""
        return None if self.sees_all else self.user_id

    def require(self, role: Role) -> None:
        """Do nothing if the actor may do what `role` may; raises ForbiddenError otherwise."""
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
    """An API key without its secret, which nobody can read again."""

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
