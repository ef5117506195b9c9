"""Changes the priority or the queue of executions that have not ended.

Each needs a transaction: its first statement locks the executions, in the order in which
cancellations do, the second one changes them.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db import spans
from celeriac.db.executions.guards import with_guards
from celeriac.domain.executions.states import Transition

_OF_ANOTHER_PRIORITY = text(f"""
SELECT id, priority FROM executions
WHERE {spans.given("id")} AND completed_at IS NULL AND priority <> CAST(:priority AS smallint)
ORDER BY id DESC
FOR NO KEY UPDATE
""")

_SET_PRIORITY = text(f"""
UPDATE executions SET priority = :priority WHERE {spans.given("id")} AND completed_at IS NULL
""")


def set_priority(
    connection: Connection, execution_ids: Sequence[UUID], priority: int
) -> dict[UUID, int]:
    """Give executions another priority; return those that this has changed, with the one before.

    Those that have ended, or have this priority, are left out. They keep the time since which they
    are due.
    """
    parameters = {**spans.of(execution_ids), "priority": priority}
    before = {row[0]: int(row[1]) for row in connection.execute(_OF_ANOTHER_PRIORITY, parameters)}
    if before:
        connection.execute(_SET_PRIORITY, {**spans.of(list(before)), "priority": priority})
    return before


_OF_ANOTHER_QUEUE = with_guards(
    f"""
SELECT id, queue, status IN ({{unqueue_from}}) AS sent FROM executions
WHERE {spans.given("id")} AND completed_at IS NULL AND queue <> CAST(:queue AS text)
ORDER BY id DESC
FOR NO KEY UPDATE
""",
    unqueue=Transition.UNQUEUE,
)

_SET_QUEUE = text(f"""
UPDATE executions SET queue = :queue WHERE {spans.given("id")} AND completed_at IS NULL
""")

_TAKE_BACK = with_guards(
    f"""
WITH moved AS (
    UPDATE executions
    SET status = {{unqueue_to}}, event_seq = event_seq + 1
    WHERE {spans.given("id")} AND status IN ({{unqueue_from}})
    RETURNING id, event_seq, attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'unqueued', attempt, '{{{{"reason": "moved"}}}}'::jsonb FROM moved
""",
    unqueue=Transition.UNQUEUE,
)


def move(connection: Connection, execution_ids: Sequence[UUID], queue: str) -> Mapping[UUID, str]:
    """Move executions to `queue`; return those that this has moved, with the queue before.

    Those that have ended, or are in this queue, are left out. What is `queued` becomes `pending`:
    its message in the other queue claims nothing any more. All keep the time since which they are
    due.
    """
    rows = connection.execute(_OF_ANOTHER_QUEUE, {**spans.of(execution_ids), "queue": queue}).all()
    if not rows:
        return {}
    connection.execute(_SET_QUEUE, {**spans.of([row.id for row in rows]), "queue": queue})
    sent = [row.id for row in rows if row.sent]
    if sent:
        connection.execute(_TAKE_BACK, spans.of(sent))
    return {row.id: str(row.queue) for row in rows}
