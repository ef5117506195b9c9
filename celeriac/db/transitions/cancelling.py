"""A person or program wants an execution to end: at once, or by word to its worker."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.transitions.asking import WITHDRAWN
from celeriac.db.transitions.guards import guarded
from celeriac.db.transitions.settling import SETTLED, SETTLED_COLUMNS
from celeriac.domain.states import Status, Transition

_CANCEL = guarded(
    """
WITH target AS (
    SELECT id, status FROM executions
    WHERE id = ANY(CAST(:ids AS uuid[]))
      AND (status IN ({cancel_from}) OR status IN ({stop_from}) AND cancel_requested_at IS NULL)
    ORDER BY id
    FOR UPDATE
), moved AS (
    UPDATE executions e
    SET status = CASE WHEN target.status IN ({cancel_from}) THEN {cancel_to} ELSE e.status END,
        completed_at = CASE WHEN target.status IN ({cancel_from}) THEN now() END,
        cancel_requested_at = now(), cancel_requested_by = :by,
        waiting_for = NULL, waiting_until = NULL, event_seq = event_seq + 1
    FROM target WHERE e.id = target.id
    RETURNING e.id, e.status, e.event_seq, e.attempt, """
    + SETTLED_COLUMNS
    + """
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, CASE status WHEN {cancel_to} THEN 'cancelled' ELSE 'cancel_requested' END,
           attempt, jsonb_build_object('by', CAST(:by AS text))
    FROM moved
)"""
    + SETTLED
    + WITHDRAWN
    + """
SELECT id, status FROM moved
""",
    cancel=Transition.CANCEL,
    stop=Transition.STOP,
)


def request_cancel(connection: Connection, ids: Sequence[UUID], by: str) -> dict[UUID, Status]:
    """Cancel what no worker holds and mark what is running; return the new status of each.

    Terminal executions and running ones that are already marked are passed over. A running one
    stays `running` until its worker, or the keeper in its place, says that it has stopped.
    """
    rows = connection.execute(_CANCEL, {"ids": list(ids), "by": by})
    return {row[0]: Status(row[1]) for row in rows}
