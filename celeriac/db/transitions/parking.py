"""running → waiting → pending: an execution that waits without a worker, and how it goes on."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.transitions.asking import (
    ASKED,
    FRESH,
    FRESH_COUNT,
    WITHDRAWN,
    question_columns,
)
from celeriac.db.transitions.guards import guarded
from celeriac.db.transitions.settling import SETTLED, SETTLED_COLUMNS
from celeriac.domain.execution import Lease
from celeriac.domain.outcome import Parked
from celeriac.domain.states import Status, Transition
from celeriac.kit.jsontypes import storable, storable_text

_PARK = guarded(
    "WITH "
    + FRESH
    + """
, done AS (
    UPDATE executions
    SET status = CASE WHEN cancel_requested_at IS NULL THEN {park_to} ELSE {stop_to} END,
        completed_at = CASE WHEN cancel_requested_at IS NULL THEN NULL ELSE now() END,
        waiting_for = CASE WHEN cancel_requested_at IS NULL THEN :reason END,
        waiting_until = CASE WHEN cancel_requested_at IS NULL THEN
            now() + make_interval(secs => CAST(:seconds AS double precision)) END,
        lease_until = NULL,
        event_seq = event_seq + 1 + CASE WHEN cancel_requested_at IS NULL THEN """
    + FRESH_COUNT
    + """ ELSE 0 END
    WHERE id = :id AND status IN ({park_from}) AND attempt = :attempt AND lease_token = :token
    RETURNING id, event_seq, attempt, status, task_id, owner_id,
              status = {park_to} AS asks, event_seq - 1 - """
    + FRESH_COUNT
    + """ AS first_number
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, CASE status WHEN {stop_to} THEN 'cancelled' ELSE 'waiting' END, attempt,
           CAST(:data AS jsonb)
    FROM done
)"""
    + ASKED
    + """
SELECT status FROM done
""",
    park=Transition.PARK,
    stop=Transition.STOP,
)


def park(connection: Connection, lease: Lease, parked: Parked) -> Status | None:
    """Let go of an execution that waits, and store its questions; all in one statement.

    Returns None where the lease is no longer ours: nothing was written. One whose cancellation was
    asked for is cancelled instead. A question whose key is known already is not asked again: the
    caller lets an execution go on at once all of whose questions are answered.
    """
    event = {"reason": parked.reason, "note": storable_text(parked.note)}
    if parked.seconds is not None:
        event["seconds"] = str(round(parked.seconds, 3))
    row = connection.execute(
        _PARK,
        {
            "id": lease.execution_id,
            "attempt": lease.attempt,
            "token": lease.token,
            "reason": parked.reason,
            "seconds": parked.seconds,
            "data": storable(event),
            **question_columns(parked.questions),
        },
    ).one_or_none()
    return None if row is None else Status(row[0])


_RESUMING = """
, moved AS (
    UPDATE executions e
    SET status = {resume_to}, available_at = now(), waiting_for = NULL, waiting_until = NULL,
        event_seq = event_seq + 1
    FROM ready WHERE e.id = ready.id AND e.status IN ({resume_from})
    RETURNING e.id, e.event_seq, e.attempt
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'resumed', attempt, '{{}}'::jsonb FROM moved
RETURNING execution_id
"""

_RESUME_DUE = guarded(
    """
WITH ready AS (
    SELECT id FROM executions
    WHERE status IN ({resume_from}) AND waiting_until IS NOT NULL AND waiting_until <= now()
    ORDER BY waiting_until
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)"""
    + _RESUMING,
    resume=Transition.RESUME,
)


def resume_due(connection: Connection, *, limit: int) -> list[UUID]:
    """Make executions `pending` again whose time of waiting is over; return which."""
    return [row[0] for row in connection.execute(_RESUME_DUE, {"limit": limit})]


_RESUME_ANSWERED = guarded(
    """
WITH ready AS (
    SELECT id FROM executions e
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status IN ({resume_from}) AND waiting_until IS NULL
      AND NOT EXISTS (SELECT FROM approvals a WHERE a.execution_id = e.id AND a.status = 'open')
    ORDER BY id
    FOR UPDATE
)"""
    + _RESUMING,
    resume=Transition.RESUME,
)


def resume_answered(connection: Connection, execution_ids: Sequence[UUID]) -> list[UUID]:
    """Make those executions `pending` again that wait for no open question; return which."""
    return [row[0] for row in connection.execute(_RESUME_ANSWERED, {"ids": list(execution_ids)})]


_EXPIRE = guarded(
    """
WITH moved AS (
    UPDATE executions e
    SET status = {expire_to}, completed_at = now(), waiting_for = NULL, waiting_until = NULL,
        event_seq = event_seq + 1, error_code = :code, error_message = :message,
        error_details = jsonb_build_object('type', 'ApprovalExpiredError', 'attempt', attempt,
                                           'traceback', NULL)
    WHERE id = :id AND status IN ({expire_from})
    RETURNING e.id, e.status, e.event_seq, e.attempt, """
    + SETTLED_COLUMNS
    + """
)"""
    + SETTLED
    + WITHDRAWN
    + """
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'failed', attempt,
       jsonb_build_object('code', CAST(:code AS text), 'message', CAST(:message AS text))
FROM moved
RETURNING execution_id
""",
    expire=Transition.EXPIRE,
)


def expire(connection: Connection, execution_id: UUID, *, code: str, message: str) -> bool:
    """Fail a waiting execution; False where it doesn't wait any more."""
    parameters = {"id": execution_id, "code": code, "message": storable_text(message)}
    return connection.execute(_EXPIRE, parameters).one_or_none() is not None
