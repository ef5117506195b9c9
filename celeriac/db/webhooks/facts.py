"""What deliveries say: facts about executions, runs and questions, read before the first sending.

Each is one statement for many rows. What has been deleted meanwhile is left out. Values that are
larger than `MOST_BYTES` as JSON are not read; `…_omitted` says so.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from celeriac.db import spans

MOST_BYTES = 64_000
"""The most bytes of a result, or of the arguments of a question, in a message."""

_EXECUTIONS = text(f"""
SELECT e.id, e.status, e.task_id, t.name AS task, e.attempt, e.trigger_type, e.request_id,
       e.session_id, e.batch_id, e.origin_id, e.run_id AS workflow_run_id,
       e.created_at, e.started_at, e.completed_at, e.error_code, e.error_message,
       e.cost, e.input_tokens, e.output_tokens,
       CASE WHEN octet_length(r.result::text) <= :most THEN r.result END AS result,
       coalesce(octet_length(r.result::text) > :most, false) AS result_omitted
FROM executions e
JOIN tasks t ON t.id = e.task_id
LEFT JOIN LATERAL (SELECT result FROM execution_results
                   WHERE execution_id = e.id OFFSET 0) AS r ON true
WHERE {spans.given("e.id")}
""")  # noqa: S608 - put together from constants

_RUNS = text("""
SELECT r.id, r.status, r.workflow_id, w.name AS workflow, v.version, r.trigger_type, r.request_id,
       r.origin_id, r.parent_run_id, r.created_at, r.completed_at,
       r.error_code, r.error_message, r.error_step, r.compensation,
       CASE WHEN octet_length(r.result::text) <= :most THEN r.result END AS result,
       coalesce(octet_length(r.result::text) > :most, false) AS result_omitted
FROM workflow_runs r
JOIN workflows w ON w.id = r.workflow_id
JOIN workflow_versions v ON v.id = r.workflow_version_id
WHERE r.id = ANY (CAST(:ids AS uuid[]))
""")

_APPROVALS = text("""
SELECT a.id, a.execution_id, a.task_id, t.name AS task, a.run_id AS workflow_run_id,
       w.name AS workflow, CASE WHEN a.run_id IS NOT NULL THEN a.key END AS step,
       a.kind, a.title, a.tool,
       CASE WHEN octet_length(a.arguments::text) <= :most THEN a.arguments END AS arguments,
       octet_length(a.arguments::text) > :most AS arguments_omitted,
       CASE WHEN octet_length(a.schema::text) <= :most THEN a.schema END AS schema,
       a.on_expiry, a.created_at, a.expires_at
FROM approvals a
LEFT JOIN tasks t ON t.id = a.task_id
LEFT JOIN workflows w ON w.id = a.workflow_id
WHERE a.id = ANY (CAST(:ids AS uuid[]))
""")

Facts = dict[str, Any]
"""Values by name."""


def executions(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Facts]:
    """Return the facts about executions."""
    return _read(connection, _EXECUTIONS, ids)


def runs(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Facts]:
    """Return the facts about runs of workflows."""
    return _read(connection, _RUNS, ids)


def approvals(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Facts]:
    """Return the facts about questions."""
    return _read(connection, _APPROVALS, ids)


def _read(connection: Connection, query: TextClause, ids: Sequence[UUID]) -> dict[UUID, Facts]:
    if not ids:
        return {}
    rows = connection.execute(query, {**spans.of(ids), "most": MOST_BYTES}).mappings()
    return {row["id"]: dict(row) for row in rows}
