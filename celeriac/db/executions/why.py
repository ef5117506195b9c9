"""What an execution waits for, and how many come before it; all counts are bounded."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, text

from celeriac.db.executions import debounces, limits, pauses
from celeriac.domain.executions.limits import ExecutionLimit
from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.states import Held, Status, WaitingFor
from celeriac.domain.executions.why import MOST_COUNTED, Facts, OpenQuestion

_MOST_QUESTIONS = 10

# Each is looked up only where it may be a reason: every part plans all partitions.
_PARTS = {
    "live_children": """
    (SELECT count(*) FROM (
        SELECT FROM executions c WHERE c.parent_id = :id AND c.completed_at IS NULL
        LIMIT :most) AS live)""",
    "parallel": """
    coalesce(
        (SELECT s.parallel FROM step_runs s WHERE s.run_id = e.run_id AND s.step_no = e.step_no),
        (SELECT s.parallel FROM steps s
         WHERE s.execution_id = e.parent_id AND s.number = e.parent_step))""",
    "beside": """
    (SELECT count(*) FROM (
        -- each hold is a range of the index: those that the limit holds may be many
        (SELECT FROM executions b
         WHERE e.held = 'parallel' AND b.run_id = e.run_id AND b.step_no = e.step_no
           AND b.completed_at IS NULL AND b.held IS NULL
         LIMIT :most)
        UNION ALL
        (SELECT FROM executions b
         WHERE e.held = 'parallel' AND b.run_id = e.run_id AND b.step_no = e.step_no
           AND b.completed_at IS NULL AND b.held = 'time'
         LIMIT :most)
        UNION ALL
        (SELECT FROM executions b
         WHERE e.held = 'parallel' AND b.run_id = e.run_id AND b.step_no = e.step_no
           AND b.completed_at IS NULL AND b.held = 'paused'
         LIMIT :most)
        UNION ALL
        (SELECT FROM executions b
         WHERE e.held = 'parallel' AND b.parent_id = e.parent_id AND b.parent_step = e.parent_step
           AND b.completed_at IS NULL AND b.held IS NULL
         ORDER BY b.held, b.id LIMIT :most)
        UNION ALL
        (SELECT FROM executions b
         WHERE e.held = 'parallel' AND b.parent_id = e.parent_id AND b.parent_step = e.parent_step
           AND b.completed_at IS NULL AND b.held BETWEEN 'time' AND 'time'
         ORDER BY b.held, b.id LIMIT :most)
        UNION ALL
        (SELECT FROM executions b
         WHERE e.held = 'parallel' AND b.parent_id = e.parent_id AND b.parent_step = e.parent_step
           AND b.completed_at IS NULL AND b.held BETWEEN 'paused' AND 'paused'
         ORDER BY b.held, b.id LIMIT :most)
        LIMIT :most) AS beside)""",
    "ahead": """
    (SELECT count(*) FROM (
        -- two ranges of one index: no row is read that doesn't come first
        (SELECT FROM executions a
         WHERE a.status = 'pending' AND a.held IS NULL AND a.queue = :queue
           AND a.priority > :priority
         LIMIT :most)
        UNION ALL
        (SELECT FROM executions a
         WHERE a.status = 'pending' AND a.held IS NULL AND a.queue = :queue
           AND a.priority = :priority AND a.workspace_id = :workspace_id
           AND a.owner_id = :owner_id AND a.available_at < :available_at
         LIMIT :most)
        LIMIT :most) AS ahead)""",
    "sent": """
    (SELECT count(*) FROM (
        SELECT FROM executions s
        WHERE s.status = 'queued' AND s.queued_at IS NOT NULL AND s.queue = :queue
        LIMIT :most) AS sent)""",
}
_FROM = """
FROM executions e, (
    SELECT coalesce(sum(slots) FILTER (WHERE live AND consuming IS NOT FALSE), 0) AS slots,
           count(*) FILTER (WHERE live AND consuming IS FALSE) AS idle,
           max(seen_at) AS last_at
    FROM (SELECT slots, consuming, seen_at,
                 stopped_at IS NULL AND lost_at IS NULL
                 AND seen_at > now() - make_interval(secs => :within) AS live
          FROM workers WHERE :queue = ANY (queues) OR queues = '{}') AS listening
) AS w
WHERE e.id = :id
"""


@cache
def _statement(parts: frozenset[str]) -> TextClause:
    """Return the query of some parts; the others are NULL."""
    shown = ", ".join(
        f"{part if name in parts else 'NULL'} AS {name}" for name, part in _PARTS.items()
    )
    return text(f"SELECT {shown}, w.slots, w.idle, w.last_at{_FROM}")


def _parts(execution: Execution) -> frozenset[str]:
    """Return what may be a reason for an execution to wait (`celeriac.domain.executions.why`)."""
    match execution.status:
        case Status.WAITING if execution.waiting_for in _CHILDREN:
            return frozenset({"live_children"})
        case Status.PENDING if execution.held is Held.PARALLEL:
            return frozenset({"parallel", "beside"})
        case Status.PENDING if execution.held in {None, Held.PAUSED}:
            return frozenset({"ahead", "sent"})
        case Status.QUEUED:
            return frozenset({"sent"})
        case _:
            return frozenset()


_CHILDREN = {WaitingFor.CHILDREN, WaitingFor.CHILD}

_QUESTIONS = text("""
SELECT id, title, created_at, expires_at FROM approvals
WHERE execution_id = :id AND status = 'open' ORDER BY id LIMIT :limit
""")


def facts(connection: Connection, execution: Execution, *, within_seconds: float) -> Facts:
    """Return what is known about an execution now.

    Workers count as live if they reported within `within_seconds`.
    """
    asked = connection.execute(_QUESTIONS, {"id": execution.id, "limit": _MOST_QUESTIONS})
    questions = [OpenQuestion(*row) for row in asked]
    found: Sequence[ExecutionLimit] = ()
    if execution.held is Held.LIMIT:
        found = limits.shown(connection, execution.id, most=MOST_COUNTED)
    debounced = None
    if execution.held is Held.TIME and not execution.attempt:
        debounced = debounces.of_execution(connection, execution.id)
    paused = pauses.of_execution(connection, execution)
    row = connection.execute(
        _statement(_parts(execution)), _parameters(execution, within_seconds)
    ).one_or_none()
    if row is None:  # deleted a moment ago
        return Facts(execution, questions, paused)
    return Facts(
        execution,
        questions,
        paused,
        limits=found,
        debounced=debounced,
        live_children=row.live_children or 0,
        parallel=row.parallel,
        beside=row.beside or 0,
        ahead=row.ahead or 0,
        sent=row.sent or 0,
        slots=int(row.slots),
        idle_listeners=row.idle,
        last_listened_at=row.last_at,
    )


def _parameters(execution: Execution, within_seconds: float) -> dict[str, Any]:
    return {
        "id": execution.id,
        "queue": execution.queue,
        "workspace_id": execution.workspace_id,
        "owner_id": execution.owner_id,
        "priority": execution.priority,
        "available_at": execution.available_at,
        "most": MOST_COUNTED,
        "within": within_seconds,
    }
