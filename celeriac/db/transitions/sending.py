"""pending ⇄ queued: marking what may be sent, and taking it back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.transitions.guards import guarded
from celeriac.domain.execution import Cause, Message
from celeriac.domain.states import Transition


@dataclass(frozen=True, slots=True)
class Sendable:
    """A row that was just marked `queued` and whose message must now be sent."""

    message: Message
    celery_task_id: str
    queue: str
    priority: int
    cause: Cause


_QUEUE_DUE = guarded(
    """
WITH RECURSIVE names AS (
    (SELECT queue FROM executions WHERE status IN ({queue_from}) ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT e.queue FROM executions e
            WHERE e.status IN ({queue_from}) AND e.queue > names.queue ORDER BY e.queue LIMIT 1)
    FROM names WHERE names.queue IS NOT NULL
), due AS (
    SELECT picked.id
    FROM names
    LEFT JOIN unnest(CAST(:queues AS text[]), CAST(:windows AS int[])) AS w (queue, size)
           ON w.queue = names.queue,
    LATERAL (SELECT greatest(w.size, :smallest) AS size) AS win,
    LATERAL (
        SELECT e.id FROM executions e
        WHERE e.status IN ({queue_from}) AND e.queue = names.queue AND e.available_at <= now()
        ORDER BY e.priority DESC, e.available_at
        LIMIT greatest(0, win.size - (SELECT count(*) FROM (
            SELECT FROM executions s
            WHERE s.status = {queue_to} AND s.queue = names.queue AND s.queued_at IS NOT NULL
            LIMIT win.size) AS sent))
        FOR UPDATE SKIP LOCKED
    ) AS picked
), moved AS (
    UPDATE executions e
    SET status = {queue_to}, queued_at = now(), event_seq = event_seq + 1,
        celery_task_id = gen_random_uuid()::text
    FROM due WHERE e.id = due.id
    RETURNING e.id, attempt, celery_task_id, queue, priority, request_id, owner_id, task_id,
              event_seq
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'queued', attempt,
           jsonb_build_object('queue', queue, 'celery_task_id', celery_task_id)
    FROM moved
)
SELECT id, attempt, celery_task_id, queue, priority, request_id, owner_id, task_id,
       set_config('synchronous_commit', 'off', true)
FROM moved
""",
    queue=Transition.QUEUE,
)


def queue_due(
    connection: Connection, windows: Mapping[str, int], *, smallest: int
) -> list[Sendable]:
    """Mark due rows as `queued`, the urgent first, and return them for sending.

    Each queue gets as many as `windows` says, and `smallest` at least. Rows that another dispatcher
    is marking right now are passed over. The commit doesn't wait for the disk: should the server
    crash right after, the row is still `pending`, its message claims nothing and the keeper sends
    another.
    """
    parameters = {
        "queues": list(windows),
        "windows": list(windows.values()),
        "smallest": smallest,
    }
    rows = connection.execute(_QUEUE_DUE, parameters)
    return [
        Sendable(Message(row[0], row[1]), row[2], row[3], row[4], Cause(*row[5:8])) for row in rows
    ]


_UNQUEUE = guarded(
    """
WITH moved AS (
    UPDATE executions
    SET status = {unqueue_to}, available_at = now() + make_interval(secs => :delay),
        event_seq = event_seq + 1
    WHERE status IN ({unqueue_from}) AND celery_task_id = ANY(:celery_task_ids)
    RETURNING id, event_seq, attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'unqueued', attempt, jsonb_build_object('reason', CAST(:reason AS text))
FROM moved
RETURNING execution_id
""",
    unqueue=Transition.UNQUEUE,
)


def unqueue(
    connection: Connection, celery_task_ids: Sequence[str], *, delay: float, reason: str
) -> list[UUID]:
    """Put queued rows back to `pending`, due in `delay` seconds, because sending failed.

    The messages may be out all the same; they claim the row only while it is queued with the
    attempt that they name, so a double is dropped.
    """
    parameters = {"celery_task_ids": list(celery_task_ids), "delay": delay, "reason": reason}
    return [row[0] for row in connection.execute(_UNQUEUE, parameters)]


_RESEND = guarded(
    """
WITH lost AS (
    SELECT id FROM executions
    WHERE status IN ({unqueue_from}) AND queue = :queue
      AND queued_at < now() - make_interval(secs => :older_than)
    ORDER BY queued_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE executions e
    SET status = {unqueue_to}, available_at = now(), event_seq = event_seq + 1
    FROM lost WHERE e.id = lost.id
    RETURNING e.id, event_seq, attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'unqueued', attempt, '{{"reason": "message_lost"}}'::jsonb FROM moved
RETURNING execution_id
""",
    unqueue=Transition.UNQUEUE,
)


def resend(connection: Connection, queue: str, *, older_than: float, limit: int) -> list[UUID]:
    """Put rows of `queue` that were sent over `older_than` seconds ago back to `pending`.

    For messages that the broker has lost; the next dispatch sends them anew.
    """
    parameters = {"queue": queue, "older_than": older_than, "limit": limit}
    return [row[0] for row in connection.execute(_RESEND, parameters)]
