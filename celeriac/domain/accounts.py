"""Users, roles, and who is asking."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


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


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is asking, for permissions and the audit trail."""

    user_id: UUID
    name: str
    role: Role
    request_id: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether other people's resources are visible."""
        return self.role is Role.ADMIN
