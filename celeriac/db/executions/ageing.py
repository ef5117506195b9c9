"""Raises the priority of executions that have waited long.

Owners with waiting executions are found one by one in the index of eligible rows, and of each only
the oldest ones are read. So a step costs the same however many executions wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.db.executions.eligible import eligible
from celeriac.db.executions.guards import with_guards
from celeriac.domain.executions.events import EventType

_FIRST_ID = UUID(int=0)

_QUEUES = with_guards(
    """
WITH RECURSIVE queues (queue) AS (
    SELECT CAST('' AS text)
    UNION ALL
    SELECT next.queue FROM queues, LATERAL (
        SELECT e.queue FROM executions e
        WHERE {eligible} AND e.queue > queues.queue
        ORDER BY e.queue LIMIT 1) AS next
)
SELECT queue FROM queues OFFSET 1 LIMIT :limit
""",
    {"eligible": eligible("e")},
)


def queues(connection: Connection, *, limit: int) -> list[str]:
    """Return up to `limit` queues in which executions wait, by name."""
    return list(connection.execute(_QUEUES, {"limit": limit}).scalars())


@dataclass(frozen=True, slots=True)
class Owner:
    """A user in a workspace; `Owner()` comes before all others."""

    workspace_id: UUID = _FIRST_ID
    user_id: UUID = _FIRST_ID


@dataclass(frozen=True, slots=True)
class Aged:
    """What has waited too long, of some owners; `last` is None if there are no further owners."""

    ids: Sequence[UUID]
    last: Owner | None


_AGED = with_guards(
    """
WITH RECURSIVE owners (workspace_id, owner_id) AS (
    SELECT CAST(:workspace_id AS uuid), CAST(:user_id AS uuid)
    UNION ALL
    SELECT next.workspace_id, next.owner_id FROM owners, LATERAL (
        SELECT e.workspace_id, e.owner_id FROM executions e
        WHERE {eligible} AND e.queue = :queue AND e.priority = CAST(:priority AS smallint)
          AND (e.workspace_id, e.owner_id) > (owners.workspace_id, owners.owner_id)
        ORDER BY e.workspace_id, e.owner_id LIMIT 1) AS next
), page AS MATERIALIZED (
    SELECT * FROM owners OFFSET 1 LIMIT :owners
)
SELECT page.workspace_id, page.owner_id, aged.id
FROM page LEFT JOIN LATERAL (
    SELECT e.id FROM executions e
    WHERE {eligible} AND e.queue = :queue AND e.priority = CAST(:priority AS smallint)
      AND e.workspace_id = page.workspace_id AND e.owner_id = page.owner_id
      AND e.available_at <= now() - make_interval(secs => :seconds)
    ORDER BY e.available_at LIMIT :each) AS aged ON true
ORDER BY page.workspace_id, page.owner_id
""",
    {"eligible": eligible("e")},
)


def aged(
    connection: Connection,
    queue: str,
    priority: int,
    *,
    seconds: float,
    after: Owner,
    owners: int,
    each: int,
) -> Aged:
    """Return what has been due for `seconds`: up to `each` of the next `owners` behind `after`."""
    rows = connection.execute(
        _AGED,
        {
            "queue": queue,
            "priority": priority,
            "seconds": seconds,
            "workspace_id": after.workspace_id,
            "user_id": after.user_id,
            "owners": owners,
            "each": each,
        },
    ).all()
    seen = {(row.workspace_id, row.owner_id) for row in rows}
    last = Owner(rows[-1].workspace_id, rows[-1].owner_id) if len(seen) == owners else None
    return Aged([row.id for row in rows if row.id is not None], last)


_WAITING = with_guards(
    f"""
SELECT e.id FROM executions e
WHERE {spans.given("e.id")} AND {{eligible}} AND e.priority = CAST(:priority AS smallint)
ORDER BY e.id DESC
FOR NO KEY UPDATE SKIP LOCKED
""",
    {"eligible": eligible("e")},
)

_RAISE = text(f"""
WITH raised AS (
    UPDATE executions SET priority = priority + 1, event_seq = event_seq + 1
    WHERE {spans.given("id")}
    RETURNING id, event_seq, attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, '{EventType.RAISED}', attempt, CAST(:data AS json) FROM raised
RETURNING execution_id
""")


def raise_priority(
    connection: Connection, execution_ids: Sequence[UUID], *, priority: int, data: str
) -> list[UUID]:
    """Raise by one those that still wait with `priority`; return them.

    Writes an event with `data`, the JSON text of an object. Needs a transaction. Skips rows that
    others hold.
    """
    parameters: Mapping[str, object] = {**spans.of(execution_ids), "priority": priority}
    waiting = list(connection.execute(_WAITING, parameters).scalars())
    if not waiting:
        return []
    return list(connection.execute(_RAISE, {**spans.of(waiting), "data": data}).scalars())
