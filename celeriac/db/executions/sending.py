"""Queues executions to be sent, and takes back what was not sent, or lost."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db import spans
from celeriac.db.executions.eligible import first, held_for, sent, share_parameters
from celeriac.db.executions.guards import CELERY_TASK_ID, kept_with_guards, with_guards
from celeriac.domain.executions.fair_turns import Share
from celeriac.domain.executions.model import Cause, Message, QueuedMessage
from celeriac.domain.executions.states import Transition

_QUEUE_DUE = kept_with_guards(
    """
WITH RECURSIVE names AS (
    (SELECT queue FROM executions
     WHERE status IN ({queue_from}) AND held IS NULL ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT e.queue FROM executions e
            WHERE e.status IN ({queue_from}) AND e.held IS NULL AND e.queue > names.queue
            ORDER BY e.queue LIMIT 1)
    FROM names WHERE names.queue IS NOT NULL
), due AS (
    SELECT picked.id
    FROM names
    LEFT JOIN unnest(CAST(:queues AS text[]), CAST(:windows AS int[])) AS w (queue, size)
           ON w.queue = names.queue,
    LATERAL (SELECT coalesce(w.size, :other_window) AS size) AS win,
    LATERAL (SELECT greatest(0, win.size - {sent}) AS free) AS room,
    LATERAL ({first}
    ) AS picked
), moved AS (
    UPDATE executions e
    SET status = {queue_to}, queued_at = now(), event_seq = event_seq + 1,
        celery_task_id = {celery_task_id}
    WHERE e.id = ANY (ARRAY(SELECT id FROM due))
    RETURNING e.id, attempt, celery_task_id, queue, priority, request_id, owner_id, task_id,
              event_seq, available_at
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, 'queued', attempt,
           jsonb_build_object('queue', queue, 'celery_task_id', celery_task_id)
    FROM moved
)
SELECT id, attempt, celery_task_id::text, queue, priority, request_id, owner_id, task_id,
       set_config('synchronous_commit', 'off', true)
FROM moved
ORDER BY priority DESC, available_at
""",
    {
        "sent": sent("names.queue", most="win.size"),
        "first": first("names.queue", limit="room.free"),
        "celery_task_id": CELERY_TASK_ID,
    },
    queue=Transition.QUEUE,
)


def queue_due(
    connection: Connection,
    windows: Mapping[str, int],
    *,
    other_window: int,
    shares: Sequence[Share] = (),
) -> list[QueuedMessage]:
    """Mark eligible rows as `queued`, the `first` of each queue, and return their messages.

    A queue gets at most as many messages as `windows` says, a queue that isn't in it at most
    `other_window`. The messages of a queue are in the order in which they should run. The commit
    doesn't wait for the disk: if a crash of the server loses it, the row is still `pending`, its
    message claims nothing and the keeper sends another.
    """
    parameters = {
        "queues": list(windows),
        "windows": list(windows.values()),
        "other_window": other_window,
        **share_parameters(shares),
    }
    rows = connection.execute(_QUEUE_DUE, parameters)
    return [QueuedMessage(Message(*row[:3]), row[3], row[4], Cause(*row[5:8])) for row in rows]


_UNQUEUE = with_guards(
    """
WITH moved AS (
    UPDATE executions
    SET status = {unqueue_to}, available_at = now() + make_interval(secs => :delay),
        held = {held}, event_seq = event_seq + 1
    WHERE {given} AND status IN ({unqueue_from})
      AND celery_task_id = ANY(CAST(:celery_task_ids AS uuid[]))
    RETURNING id, event_seq, attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'unqueued', attempt, jsonb_build_object('reason', CAST(:reason AS text))
FROM moved
RETURNING execution_id
""",
    {"held": held_for(":delay"), "given": spans.given("id")},
    unqueue=Transition.UNQUEUE,
)


def unqueue(
    connection: Connection, sent: Mapping[UUID, str], *, delay: float, reason: str
) -> list[UUID]:
    """Return queued rows to `pending`, due in `delay` seconds, because sending failed.

    `sent` are the Celery task ids of the messages by execution.
    The messages may have been sent; a message claims a row only while it is queued as the same
    Celery task, so a duplicate is dropped.
    """
    parameters = {
        **spans.of(list(sent)),
        "celery_task_ids": list(sent.values()),
        "delay": delay,
        "reason": reason,
    }
    return [row[0] for row in connection.execute(_UNQUEUE, parameters)]


_RESEND = with_guards(
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
    SET status = {unqueue_to}, held = NULL, event_seq = event_seq + 1
    WHERE e.id = ANY (ARRAY(SELECT id FROM lost))
    RETURNING e.id, event_seq, attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'unqueued', attempt, '{{"reason": "message_lost"}}'::jsonb FROM moved
RETURNING execution_id
""",
    unqueue=Transition.UNQUEUE,
)


def resend(connection: Connection, queue: str, *, older_than: float, limit: int) -> list[UUID]:
    """Return rows of `queue` that were sent over `older_than` seconds ago to `pending`.

    For messages that the broker has lost; the next dispatch sends them again. They keep their
    places in the order.
    """
    parameters = {"queue": queue, "older_than": older_than, "limit": limit}
    return [row[0] for row in connection.execute(_RESEND, parameters)]
