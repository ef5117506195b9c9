"""Celery tasks that end with executions: one row for each, until its retention is over.

The row is written with its executions. `pending` counts those that have not ended; `ended` counts
it down, and sets `due_at` with the last one. The process that takes a due row ends its Celery task.
A row that was taken becomes due again after a while, so that a lost process doesn't matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.accounts import Actor
from celeriac.domain.executions.calls import Call, CalledExecution, CallKind, NewCall
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import storable

_COLUMNS = "id, task_name, kind, subject_id, workspace_id, owner_id, tries, message"

_ADD = text("""
INSERT INTO celery_calls (id, task_name, kind, subject_id, workspace_id, owner_id, pending, message)
VALUES (:id, :task_name, :kind, :subject_id, :workspace_id, :owner_id, :pending,
        CAST(:message AS json))
ON CONFLICT (id) DO NOTHING
RETURNING id
""")


def add(
    connection: Connection,
    actor: Actor,
    call: NewCall,
    *,
    kind: CallKind,
    subject_id: UUID,
    pending: int,
) -> Call | None:
    """Store a Celery task with the number of its executions; return it if it is stored already.

    Waits for a transaction that stores the same one.
    """
    parameters = {
        "id": call.celery_task_id,
        "task_name": call.task_name,
        "kind": kind,
        "subject_id": subject_id,
        "workspace_id": actor.workspace_id,
        "owner_id": actor.user_id,
        "pending": pending,
        "message": call.message,
    }
    while connection.execute(_ADD, parameters).first() is None:
        earlier = find(connection, call.celery_task_id)
        if earlier is not None:  # otherwise retention has deleted it in between
            return earlier
    return None


_FIND = text(f"SELECT {_COLUMNS} FROM celery_calls WHERE id = :id")


def find(connection: Connection, celery_task_id: str) -> Call | None:
    """Return a stored Celery task, or None."""
    row = connection.execute(_FIND, {"id": celery_task_id}).one_or_none()
    return None if row is None else _call(row)


_TAKE_DUE = text(f"""
UPDATE celery_calls SET tries = tries + 1, due_at = now() + make_interval(secs => :seconds)
WHERE id = ANY (ARRAY(
    SELECT id FROM celery_calls WHERE due_at <= now() ORDER BY due_at LIMIT :limit
    FOR UPDATE SKIP LOCKED))
RETURNING {_COLUMNS}
""")


def take_due(connection: Connection, *, limit: int, seconds: float) -> list[Call]:
    """Return up to `limit` Celery tasks that must end; nobody else takes them for `seconds`."""
    rows = connection.execute(_TAKE_DUE, {"limit": limit, "seconds": seconds})
    return [_call(row) for row in rows]


_ENDED = text("""
UPDATE celery_calls SET due_at = NULL, ended_at = now(), message = NULL
WHERE id = :id AND tries = :tries
""")


def mark_ended(connection: Connection, call: Call) -> None:
    """Record that a taken Celery task has ended; nothing if it was taken again since."""
    connection.execute(_ENDED, {"id": call.celery_task_id, "tries": call.tries})


_POSTPONE = text("""
UPDATE celery_calls SET due_at = now() + make_interval(secs => :seconds)
WHERE id = :id AND tries = :tries
""")


def postpone(connection: Connection, call: Call, *, seconds: float) -> None:
    """Let a taken Celery task become due again in `seconds`."""
    parameters = {"id": call.celery_task_id, "tries": call.tries, "seconds": seconds}
    connection.execute(_POSTPONE, parameters)


_COLUMNS_OF_EXECUTIONS = """
SELECT e.id, e.status, r.result, e.error_code, e.error_message
FROM executions e LEFT JOIN execution_results r ON r.execution_id = e.id
"""
_EXECUTION = text(f"{_COLUMNS_OF_EXECUTIONS} WHERE e.id = :subject_id")
_BATCH = text(f"""
SELECT id, status, CASE WHEN total <= :room THEN result END, error_code, error_message, total
FROM (
    SELECT page.*, sum(:each + coalesce(octet_length(error_message), 0)
                       + coalesce(octet_length(CAST(result AS text)), 0))
                   OVER (ORDER BY id) AS total
    FROM ({_COLUMNS_OF_EXECUTIONS}
          WHERE e.batch_id = :subject_id AND e.id > :after ORDER BY e.id LIMIT :limit) AS page
) AS sized
ORDER BY id
""")
_BATCH_PAGE = 100
_BYTES_EACH = 100
"""What else an execution has in the result of a batch, at most."""


_RUN = text("""
SELECT id, status, result, error_code, error_message FROM workflow_runs WHERE id = :subject_id
""")
_ENDS = {CallKind.EXECUTION: _EXECUTION, CallKind.WORKFLOW: _RUN}


def executions(
    connection: Connection, call: Call, *, most_bytes: int
) -> list[CalledExecution] | None:
    """Return the executions of a Celery task in their order, or its run, with their results.

    None if those of a batch have more than `most_bytes` of JSON together.
    """
    if call.kind is CallKind.BATCH:
        return _batch(connection, call.subject_id, most_bytes)
    rows = connection.execute(_ENDS[call.kind], {"subject_id": call.subject_id})
    return [CalledExecution(row[0], Status(row[1]), *row[2:]) for row in rows]


def _batch(connection: Connection, batch_id: UUID, room: int) -> list[CalledExecution] | None:
    found: list[CalledExecution] = []
    after = UUID(int=0)
    while True:
        parameters = {
            "subject_id": batch_id,
            "after": after,
            "limit": _BATCH_PAGE,
            "room": room,
            "each": _BYTES_EACH,
        }
        page = connection.execute(_BATCH, parameters).all()
        if page and page[-1][5] > room:
            return None
        found += [CalledExecution(row[0], Status(row[1]), *row[2:5]) for row in page]
        if len(page) < _BATCH_PAGE:
            return found
        after, room = page[-1][0], room - int(page[-1][5])


@dataclass(frozen=True, slots=True)
class OpenExecutions:
    """Executions or workflow runs of one user in one workspace that have not ended."""

    workspace_id: UUID
    owner_id: UUID
    ids: Sequence[UUID]


_OPEN_EXECUTIONS = text("""
WITH call AS (
    SELECT kind, subject_id FROM celery_calls
    WHERE id = ANY(CAST(:ids AS text[])) AND ended_at IS NULL
), found AS (
    SELECT workspace_id, owner_id, id FROM executions
    WHERE id = ANY (ARRAY(SELECT subject_id FROM call WHERE kind = 'execution'))
      AND status IN ('pending', 'queued', 'running', 'waiting')
    UNION ALL
    SELECT workspace_id, owner_id, id FROM executions
    WHERE batch_id = ANY (ARRAY(SELECT subject_id FROM call WHERE kind = 'batch'))
      AND status IN ('pending', 'queued', 'running', 'waiting')
)
SELECT workspace_id, owner_id, array_agg(id ORDER BY id) FROM found GROUP BY 1, 2
""")


def open_executions(connection: Connection, celery_task_ids: Sequence[str]) -> list[OpenExecutions]:
    """Return the executions of these Celery tasks that have not ended."""
    rows = connection.execute(_OPEN_EXECUTIONS, {"ids": list(celery_task_ids)})
    return [OpenExecutions(*row) for row in rows]


_STAMPED = text("""
SELECT c.id FROM celery_calls c
WHERE c.ended_at IS NULL AND EXISTS (
    SELECT FROM jsonb_each(CAST(:stamps AS jsonb)) AS wanted (name, stamps)
    WHERE CAST(c.message #> ARRAY['request', 'stamps', wanted.name] AS jsonb)
          ?| ARRAY(SELECT jsonb_array_elements_text(wanted.stamps)))
""")


def stamped(connection: Connection, stamps: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the ids of Celery tasks that have not ended and have any of these stamps."""
    given = storable({name: list(values) for name, values in stamps.items()})
    return list(connection.execute(_STAMPED, {"stamps": given}).scalars())


_OPEN_RUNS = text("""
SELECT r.workspace_id, r.owner_id, array_agg(r.id)
FROM celery_calls c JOIN workflow_runs r ON r.id = c.subject_id
WHERE c.id = ANY(CAST(:ids AS text[])) AND c.kind = 'workflow' AND c.ended_at IS NULL
  AND r.completed_at IS NULL
GROUP BY 1, 2
""")


def open_runs(connection: Connection, celery_task_ids: Sequence[str]) -> list[OpenExecutions]:
    """Return the workflow runs of these Celery tasks that have not ended."""
    rows = connection.execute(_OPEN_RUNS, {"ids": list(celery_task_ids)})
    return [OpenExecutions(*row) for row in rows]


_OPEN = text(f"""
SELECT {_COLUMNS} FROM celery_calls
WHERE ended_at IS NULL AND created_at < now() - make_interval(secs => :older_than) AND id > :after
ORDER BY id
LIMIT :limit
""")


def find_open(connection: Connection, *, older_than: float, after: str, limit: int) -> list[Call]:
    """Return Celery tasks that have not ended for `older_than` seconds, with greater ids."""
    parameters = {"older_than": older_than, "after": after, "limit": limit}
    return [_call(row) for row in connection.execute(_OPEN, parameters)]


def _call(row: Sequence[object]) -> Call:
    return Call(row[0], row[1], CallKind(row[2]), *row[3:])  # type: ignore[arg-type]
