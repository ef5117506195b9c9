"""A session follows its execution's end: ended, or failed with the execution's error.

Part of every statement that ends executions without a worker, and a statement of its own for the
workers, which know whether there is a session: most executions have none and pay nothing.
"""

from uuid import UUID

from sqlalchemy import Connection, text

_SETTLE = """
UPDATE sessions s
SET status = CASE moved.status WHEN 'failed' THEN 'failed' ELSE 'ended' END,
    error_code = CASE moved.status WHEN 'failed' THEN moved.error_code END,
    error_message = CASE moved.status WHEN 'failed' THEN moved.error_message END,
    updated_at = now()
FROM moved
WHERE s.id = moved.session_id AND s.status = 'active'
  AND moved.status IN ('completed', 'failed', 'cancelled')
  AND (s.execution_id = moved.id OR moved.options ->> 'fork_session' IS DISTINCT FROM 'true')
"""

SETTLED_COLUMNS = "e.session_id, e.options, e.error_code, e.error_message"
"""What `moved` must return of executions `e`, besides `id` and `status`."""

SETTLED = f"""
, settled AS ({_SETTLE})
"""
"""Continues a WITH whose part `moved` has ended executions.

The session that an execution was to fork, and has not forked yet, isn't its own.
"""

_ONE = text(
    # by itself: the plan must not begin with the sessions
    f"""
WITH moved AS MATERIALIZED (
    SELECT e.id, e.status, {SETTLED_COLUMNS} FROM executions e WHERE e.id = :id)
"""
    + _SETTLE
)


def settle_session(connection: Connection, execution_id: UUID) -> None:
    """Let the session of an execution that has ended follow it; nothing for one that goes on."""
    connection.execute(_ONE, {"id": execution_id})
