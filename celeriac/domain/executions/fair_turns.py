"""Whose execution runs next of several with the same priority: turns in rotation (pure).

Workspaces take turns, and in each workspace the users who have waiting executions in it.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

_REMEMBERED = 1_000
_BEFORE_ALL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Owner:
    """A user with executions of a workspace that wait in a queue."""

    workspace_id: UUID
    user_id: UUID


@dataclass(frozen=True, slots=True)
class Share:
    """How many executions of an owner may be taken from a queue, if they have this priority."""

    queue: str
    owner: Owner
    priority: int
    count: int


@dataclass
class Rotation:
    """Deals the places of one queue. Not safe to share between threads."""

    _workspace: UUID = _BEFORE_ALL
    _users: dict[UUID, UUID] = field(default_factory=dict)
    """Who had the last turn of a workspace, for the workspaces that had one last."""

    def deal(self, waiting: Mapping[UUID, Sequence[UUID]], places: int) -> dict[Owner, int]:
        """Return how many of `places` each owner gets, in the order of their turns.

        `waiting` has the users of each workspace; both in ascending order of their ids, and no
        workspace without users. The next call continues where this one has stopped.
        """
        found: dict[Owner, int] = {}
        workspaces = sorted(waiting)
        if not workspaces:
            return found
        first = bisect_right(workspaces, self._workspace)
        for number, _ in zip(count(first), range(places), strict=False):
            self._workspace = workspaces[number % len(workspaces)]
            owner = Owner(self._workspace, self._next_user(waiting[self._workspace]))
            found[owner] = found.get(owner, 0) + 1
        return found

    def _next_user(self, users: Sequence[UUID]) -> UUID:
        last = self._users.pop(self._workspace, _BEFORE_ALL)
        user = users[bisect_right(users, last) % len(users)]
        self._users[self._workspace] = user
        if len(self._users) > _REMEMBERED:
            del self._users[next(iter(self._users))]
        return user
