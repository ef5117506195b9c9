"""Who has executions waiting in a queue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.executions.eligible import eligible
from celeriac.db.executions.guards import kept_with_guards

_FIRST_ID = UUID(int=0)
_REMEMBERED = 1_000
"""Workspaces with more users than fit on a page, of which a later page has the others."""

# Each step of the recursions is one look-up in the index of eligible rows: the next workspace of
# the queue, or the next user of a workspace, behind the one before.
_OWNERS = kept_with_guards(
    """
WITH RECURSIVE top AS MATERIALIZED (
    SELECT e.priority FROM executions e
    WHERE {eligible} AND e.queue = :queue
    ORDER BY e.priority DESC LIMIT 1
), spaces (workspace_id) AS (
    SELECT CAST(:after AS uuid)
    UNION ALL
    SELECT next.workspace_id FROM spaces, LATERAL (
        SELECT e.workspace_id FROM executions e
        WHERE {eligible} AND e.queue = :queue AND e.priority = (SELECT priority FROM top)
          AND e.workspace_id > spaces.workspace_id
        ORDER BY e.workspace_id LIMIT 1) AS next
)
SELECT (SELECT priority FROM top) AS priority, space.workspace_id, owner.owner_id
FROM (SELECT workspace_id FROM spaces OFFSET 1 LIMIT :workspaces) AS space
LEFT JOIN unnest(CAST(:seen AS uuid[]), CAST(:last AS uuid[])) AS seen (workspace_id, owner_id)
       ON seen.workspace_id IS NOT DISTINCT FROM space.workspace_id,
LATERAL (
    WITH RECURSIVE owners (owner_id) AS (
        SELECT coalesce(seen.owner_id, CAST(:first AS uuid))
        UNION ALL
        SELECT next.owner_id FROM owners, LATERAL (
            SELECT e.owner_id FROM executions e
            WHERE {eligible} AND e.queue = :queue AND e.priority = (SELECT priority FROM top)
              AND e.workspace_id = space.workspace_id AND e.owner_id > owners.owner_id
            ORDER BY e.owner_id LIMIT 1) AS next
    )
    SELECT owner_id FROM owners OFFSET 1 LIMIT :users) AS owner
""",
    {"eligible": eligible("e")},
)


@dataclass(frozen=True, slots=True)
class OwnersAfter:
    """Where a page of owners begins: behind a workspace, and in some of them behind a user."""

    workspace_id: UUID = _FIRST_ID
    users: Mapping[UUID, UUID] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WaitingOwners:
    """Owners whose executions wait with the highest priority of a queue, in ascending order."""

    priority: int
    users: Mapping[UUID, Sequence[UUID]]
    """By workspace; some of them if there are more."""
    next: OwnersAfter
    """Where the next page begins: at the beginning again if there are no others."""


def waiting_owners(
    connection: Connection, queue: str, after: OwnersAfter, *, workspaces: int, users: int
) -> WaitingOwners:
    """Return up to `workspaces` with up to `users` of each, who have eligible executions.

    Reads one row for each, and one more, however many executions wait.
    """
    parameters = {
        "queue": queue,
        "after": after.workspace_id,
        "first": _FIRST_ID,
        "seen": list(after.users),
        "last": list(after.users.values()),
        "workspaces": workspaces,
        "users": users,
    }
    found: dict[UUID, list[UUID]] = {}
    priority = 0
    for row in connection.execute(_OWNERS, parameters):
        priority = row.priority
        found.setdefault(row.workspace_id, []).append(row.owner_id)
    behind = max(found) if len(found) == workspaces else _FIRST_ID
    others = {each: last for each, last in after.users.items() if each not in found}
    full = {each: of[-1] for each, of in found.items() if len(of) == users}
    remembered = list((others | full).items())[-_REMEMBERED:]
    return WaitingOwners(priority, found, OwnersAfter(behind, dict(remembered)))
