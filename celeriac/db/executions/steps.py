"""Stores and reads the steps of executions."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from celeriac.domain.executions.model import Lease
from celeriac.domain.executions.steps import NewStep, StepKind, StepStatus, StoredStep
from celeriac.kit.json_types import JsonValue, storable

_SMALL_BYTES = 16_000
"""Larger results are read when they are needed."""

_STORE = text("""
WITH done AS (
    UPDATE executions
    SET active_at = now(),
        event_seq = event_seq + CASE WHEN CAST(:event AS text) IS NULL THEN 0 ELSE 1 END
    WHERE id = :id AND status = 'running' AND attempt = :attempt AND lease_token = :token
      AND NOT EXISTS (
          -- an earlier try, whose answer was lost
          SELECT FROM steps s
          WHERE s.execution_id = :id AND s.number = :number AND s.attempt = :attempt
            AND s.status = :status)
    RETURNING id, event_seq, attempt, retry_count
), stored AS (
    INSERT INTO steps (execution_id, number, path, name, kind, status, attempt, retry_count, tries,
                       wake_at, width, parallel, result, error)
    SELECT id, :number, :path, :name, :kind, :status, attempt, retry_count, :tries,
           coalesce(CAST(:wake_at AS timestamptz),
                    now() + make_interval(secs => CAST(:wake_seconds AS double precision))),
           :width, :parallel, CAST(:result AS json), CAST(:error AS json)
    FROM done
    ON CONFLICT (execution_id, number) DO UPDATE
    SET status = excluded.status, attempt = excluded.attempt, retry_count = excluded.retry_count,
        tries = excluded.tries, at = excluded.at, wake_at = excluded.wake_at,
        width = excluded.width, parallel = excluded.parallel, result = excluded.result,
        error = excluded.error
    RETURNING wake_at
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, :event, attempt, CAST(:data AS json) FROM done
    WHERE CAST(:event AS text) IS NOT NULL
)
SELECT CAST(extract(epoch FROM wake_at - now()) AS double precision) FROM stored
UNION ALL
SELECT CAST(extract(epoch FROM s.wake_at - now()) AS double precision)
FROM steps s JOIN executions e ON e.id = s.execution_id
WHERE s.execution_id = :id AND s.number = :number AND s.attempt = :attempt AND s.status = :status
  AND e.status = 'running' AND e.attempt = :attempt AND e.lease_token = :token
""")


class PlaceTakenError(Exception):
    """Another step has the place, or without a place the name."""


def store(connection: Connection, lease: Lease, step: NewStep) -> tuple[bool, float | None]:
    """Store a step with its event, in one statement.

    Returns whether the lease was held, otherwise nothing is stored, and the seconds until the end
    of a sleep. Repeatable. Raises PlaceTakenError.
    """
    event = _EVENTS.get(step.status)
    data: dict[str, JsonValue] = {"name": step.name, "kind": step.kind, "tries": step.tries}
    if step.error is not None:
        data |= {"code": step.error.get("code"), "message": step.error.get("message")}
    parameters = {
        "id": lease.execution_id,
        "attempt": lease.attempt,
        "token": lease.token,
        "number": step.number,
        "path": step.path,
        "name": step.name,
        "kind": step.kind,
        "status": step.status,
        "tries": step.tries,
        "wake_at": step.wake_at,
        "wake_seconds": step.wake_seconds,
        "width": step.width,
        "parallel": step.parallel,
        "result": step.result,
        "error": None if step.error is None else storable(step.error),
        "event": event,
        "data": storable(data),
    }
    try:
        row = connection.execute(_STORE, parameters).first()
    except IntegrityError as error:
        if "uq_steps_place" in str(error.orig):
            raise PlaceTakenError from error
        raise
    return (False, None) if row is None else (True, row[0])


_EVENTS: Mapping[StepStatus, str] = {
    StepStatus.COMPLETED: "step_completed",
    StepStatus.FAILED: "step_failed",
}

_LOAD = text("""
SELECT number, path, name, kind, status, attempt, retry_count,
       CASE WHEN NOT large THEN result END, large, error,
       CAST(extract(epoch FROM wake_at - now()) AS double precision), width
FROM steps,
     -- compressed, and if that is small, as it is
     LATERAL (SELECT pg_column_size(result) > :small
                     OR octet_length(CAST(result AS text)) > :small) AS size (large)
WHERE execution_id = :id AND number > :after
ORDER BY number
LIMIT :limit
""")


def load(connection: Connection, execution_id: UUID, *, after: int, limit: int) -> list[StoredStep]:
    """Return stored steps with greater numbers than `after`, in order, without large results."""
    parameters = {"id": execution_id, "after": after, "limit": limit, "small": _SMALL_BYTES}
    return [_step(row) for row in connection.execute(_LOAD, parameters)]


def _step(row: Any) -> StoredStep:
    return StoredStep(
        number=row[0],
        path=row[1],
        name=row[2],
        kind=StepKind(row[3]),
        status=StepStatus(row[4]),
        attempt=row[5],
        retry_count=row[6],
        result=row[7],
        has_large_result=bool(row[8]),
        error=row[9],
        wake_seconds=row[10],
        width=row[11],
    )


_RESULT = text("SELECT result FROM steps WHERE execution_id = :id AND number = :number")


def result(connection: Connection, execution_id: UUID, number: int) -> JsonValue:
    """Return the result of a stored step."""
    parameters = {"id": execution_id, "number": number}
    return connection.execute(_RESULT, parameters).scalar_one()
