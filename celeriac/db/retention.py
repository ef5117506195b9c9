"""Deletion of old rows. Every function processes a bounded number of rows, the oldest first.

Ages are in days by the database's clock. Ids are ordered by time, so their index bounds the rows to
read. Other clocks made them, which may be off by up to an hour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from celeriac.db import bulk_jobs, partitions, spans
from celeriac.db.artifacts import delete_sets
from celeriac.db.locks import AdvisoryLock, hold
from celeriac.kit.ids import uuid7_at

_CLOCK_SLACK = timedelta(hours=1)
_TERMINAL = "('completed', 'failed', 'cancelled')"

CHILDREN = (
    "execution_inputs",
    "execution_results",
    "events",
    "model_calls",
    "approvals",
    "reports",
    "steps",
    "live_children",
    "execution_trees",
    "ended_parents",
    "execution_labels",
)
"""Tables whose rows are deleted with their execution."""

_OLD_EXECUTIONS = text(f"""
SELECT id FROM executions
WHERE id > :after AND id < :bound AND status IN {_TERMINAL}
  AND completed_at < now() - make_interval(secs => :seconds)
ORDER BY id
LIMIT :limit
""")  # noqa: S608 - put together from constants


def old_executions(
    connection: Connection, *, days: float, after: UUID, bound: UUID, limit: int
) -> list[UUID]:
    """Return executions that ended more than `days` ago, with ids between `after` and `bound`."""
    parameters = {
        "after": after,
        "bound": bound,
        "seconds": _seconds(days),
        "limit": limit,
    }
    return list(connection.execute(_OLD_EXECUTIONS, parameters).scalars())


_WHOLE = tuple(name for name in CHILDREN if name not in {table.name for table in partitions.TABLES})
"""Those of them that are not partitioned."""

_DELETE_REST = text(
    "WITH"  # noqa: S608 - put together from constants
    + "".join(
        f" {table}_gone AS (DELETE FROM {table}"  # noqa: S608
        " WHERE execution_id = ANY (CAST(:ids AS uuid[]))),"
        for table in _WHOLE
    )
    + " children_gone AS (DELETE FROM children WHERE parent_id = ANY (CAST(:ids AS uuid[])))"
    + ", budget_gone AS"
    " (DELETE FROM budget_windows WHERE budget_id = ANY (CAST(:ids AS uuid[])))"
    + ", files_gone AS ("
    + delete_sets("CAST(:ids AS uuid[])")
    + ")"
    + " SELECT"
)


def delete_rest(connection: Connection, execution_ids: Sequence[UUID]) -> int:
    """Delete what belongs to executions whose partition will be dropped; return how many those are.

    That is their rows in tables that are not partitioned.
    """
    connection.execute(_DELETE_REST, {"ids": list(execution_ids)})
    return len(execution_ids)


_DELETE_EXECUTIONS = text(
    f"""
WITH gone AS (
    DELETE FROM executions WHERE {spans.given("id")} AND status IN {_TERMINAL}
    RETURNING id
)"""  # noqa: S608 - put together from constants
    + "".join(
        f", {table}_gone AS (DELETE FROM {table}"  # noqa: S608
        " WHERE execution_id = ANY (ARRAY(SELECT id FROM gone))"
        f" AND {spans.within('execution_id')})"
        for table in CHILDREN
    )
    + ", children_gone AS"
    " (DELETE FROM children WHERE parent_id = ANY (ARRAY(SELECT id FROM gone)))"
    # the window of its own budget has the execution's id
    + ", budget_gone AS (DELETE FROM budget_windows WHERE budget_id IN (SELECT id FROM gone))"
    + ", files_gone AS ("
    + delete_sets("ARRAY(SELECT id FROM gone)")
    + ")"
    + " SELECT count(*) FROM gone"
)


def delete_executions(connection: Connection, execution_ids: Sequence[UUID]) -> int:
    """Delete those of the executions that have ended, with all their rows; return how many."""
    parameters = spans.of(execution_ids)
    return int(connection.execute(_DELETE_EXECUTIONS, parameters).scalar_one())


_DELETABLE = text(f"""
SELECT id FROM executions e
WHERE {spans.given("id")} AND status IN {_TERMINAL}
  AND NOT EXISTS (SELECT FROM executions p WHERE p.id = e.parent_id AND p.completed_at IS NULL)
  AND NOT EXISTS (SELECT FROM workflow_runs r WHERE r.id = e.run_id AND r.completed_at IS NULL)
  AND NOT EXISTS (SELECT FROM executions c WHERE c.parent_id = e.id AND c.completed_at IS NULL)
  AND NOT EXISTS (SELECT FROM deliveries d WHERE d.execution_id = e.id AND d.status = 'pending')
ORDER BY id DESC
FOR UPDATE
""")  # noqa: S608 - put together from constants


def deletable(connection: Connection, execution_ids: Sequence[UUID]) -> list[UUID]:
    """Lock and return those of the executions that have ended, and that nothing needs any more.

    A parent or run that has not ended may read its result, a child has it as its parent, and a
    delivery says what became of it.
    """
    return list(connection.execute(_DELETABLE, spans.of(execution_ids)).scalars())


_DELETE_CALLS = text("""
DELETE FROM celery_calls WHERE id IN (
    SELECT id FROM celery_calls WHERE ended_at < now() - make_interval(secs => :seconds)
    ORDER BY ended_at
    LIMIT :limit)
""")


def delete_calls(connection: Connection, *, days: float, limit: int) -> int:
    """Delete Celery tasks that ended more than `days` ago; return how many."""
    parameters = {"seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_CALLS, parameters).rowcount


_IDLE_SESSIONS = text("""
SELECT id FROM sessions
WHERE status IN ('ended', 'failed') AND updated_at < now() - make_interval(secs => :seconds)
ORDER BY updated_at
LIMIT :limit
FOR UPDATE SKIP LOCKED
""")

_DELETE_IDLE_SESSIONS = text(f"""
WITH deleted AS (
    UPDATE sessions s SET status = 'deleted', state = NULL, updated_at = now()
    WHERE id = ANY(CAST(:ids AS uuid[])) AND NOT EXISTS (
        SELECT FROM executions e
        WHERE e.session_id = s.id AND e.status IN ('pending', 'queued', 'running', 'waiting'))
    RETURNING id
), files_gone AS (
    {delete_sets("ARRAY(SELECT id FROM deleted)")}
)
SELECT id FROM deleted
""")  # noqa: S608 - put together from constants


def mark_idle_sessions_deleted(connection: Connection, *, days: float, limit: int) -> list[UUID]:
    """Mark sessions as deleted that no execution has used for `days`; needs a transaction.

    Sessions that an execution waits to fork are kept. The first statement locks the rows, so the
    second one sees every execution that was submitted before. `delete_conversations` removes their
    messages: there may be any number of them.
    """
    parameters = {"seconds": _seconds(days), "limit": limit}
    idle = list(connection.execute(_IDLE_SESSIONS, parameters).scalars())
    if not idle:
        return []
    return list(connection.execute(_DELETE_IDLE_SESSIONS, {"ids": idle}).scalars())


_DELETED_SESSIONS = text("""
SELECT id FROM sessions WHERE id > :after AND status = 'deleted' AND files_removed_at IS NULL
ORDER BY id LIMIT :limit
""")


def deleted_sessions(connection: Connection, *, after: UUID, limit: int) -> list[UUID]:
    """Return deleted sessions whose files may still be there, with greater ids than `after`."""
    parameters = {"after": after, "limit": limit}
    return list(connection.execute(_DELETED_SESSIONS, parameters).scalars())


_SESSIONS_DELETED = text("""
SELECT id, status = 'deleted' FROM sessions WHERE id = ANY (CAST(:ids AS uuid[]))
""")


def sessions_deleted(connection: Connection, session_ids: Sequence[UUID]) -> dict[UUID, bool]:
    """Return which of those of the sessions that exist are deleted."""
    rows = connection.execute(_SESSIONS_DELETED, {"ids": list(session_ids)})
    return {row[0]: row[1] for row in rows}


_CONVERSATIONS = (
    text("""
DELETE FROM session_messages WHERE (session_id, seq) IN (
    SELECT m.session_id, m.seq
    FROM unnest(CAST(:ids AS uuid[])) AS s (id), LATERAL (
        SELECT session_id, seq FROM session_messages WHERE session_id = s.id LIMIT :limit) m
    LIMIT :limit)
"""),
    text("""
DELETE FROM transcript_entries WHERE (session_id, project, conversation, subpath, seq) IN (
    SELECT t.*
    FROM unnest(CAST(:ids AS uuid[])) AS s (id), LATERAL (
        SELECT session_id, project, conversation, subpath, seq FROM transcript_entries
        WHERE session_id = s.id
        LIMIT :limit) t
    LIMIT :limit)
"""),
)


def delete_conversations(connection: Connection, session_ids: Sequence[UUID], *, limit: int) -> int:
    """Delete up to `limit` messages, and entries of transcripts, of deleted sessions; return both.

    The sum is less than `limit` only if nothing is left.
    """
    parameters = {"ids": list(session_ids), "limit": limit}
    return sum(connection.execute(each, parameters).rowcount for each in _CONVERSATIONS)


_DELETE_SESSIONS = text("""
DELETE FROM sessions WHERE id IN (
    SELECT s.id FROM sessions s
    WHERE s.id < :bound AND s.status = 'deleted'
      AND s.files_removed_at < now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT FROM executions e WHERE e.session_id = s.id)
    ORDER BY s.id
    LIMIT :limit)
""")


def delete_sessions(connection: Connection, *, days: float, limit: int) -> int:
    """Delete rows of sessions whose files and executions are deleted; return how many."""
    parameters = {"bound": _bound(days), "seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_SESSIONS, parameters).rowcount


@dataclass(frozen=True, slots=True)
class ExecutionAge:
    """The age of an execution, for the removal of its files."""

    terminal: bool
    old: bool
    """Whether it ended before the retention period."""


_AGES = text(f"""
SELECT id, status IN {_TERMINAL},
       coalesce(completed_at < now() - make_interval(secs => :seconds), false)
FROM executions WHERE {spans.given("id")}
""")  # noqa: S608 - put together from constants


def ages(
    connection: Connection, execution_ids: Sequence[UUID], *, days: float
) -> dict[UUID, ExecutionAge]:
    """Return the ages of those of the executions that exist."""
    parameters = {**spans.of(execution_ids), "seconds": _seconds(days)}
    rows = connection.execute(_AGES, parameters)
    return {row[0]: ExecutionAge(row[1], row[2]) for row in rows}


_OLD_RUNS = """
SELECT r.id FROM workflow_runs r
WHERE r.id < :bound AND r.completed_at < now() - make_interval(secs => :seconds)
  AND NOT EXISTS (SELECT FROM workflow_runs p
                  WHERE p.id = r.parent_run_id AND p.completed_at IS NULL)
ORDER BY r.id
LIMIT :limit
"""

_DELETE_ITEMS = text(f"""
DELETE FROM step_items WHERE (run_id, step_no, item_no, round) IN (
    SELECT run_id, step_no, item_no, round FROM step_items
    WHERE run_id = ANY (ARRAY({_OLD_RUNS}))
    LIMIT :limit)
""")  # noqa: S608 - put together from constants

_DELETE_ENDS = text(f"""
DELETE FROM item_ends WHERE (run_id, ended_xid, step_no, item_no) IN (
    SELECT run_id, ended_xid, step_no, item_no FROM item_ends
    WHERE run_id = ANY (ARRAY({_OLD_RUNS}))
    LIMIT :limit)
""")  # noqa: S608 - put together from constants

_OF_RUNS = {"step_runs": "run_id", "fan_ins": "run_id", "events": "execution_id",
            "approvals": "run_id"}  # fmt: skip
"""Tables whose rows are deleted with their run, and the columns that name it."""

_DELETE_RUNS = text(
    f"""
WITH gone AS (
    DELETE FROM workflow_runs WHERE id = ANY (ARRAY({_OLD_RUNS}))
      AND NOT EXISTS (SELECT FROM step_items WHERE run_id = workflow_runs.id)
      AND NOT EXISTS (SELECT FROM item_ends WHERE run_id = workflow_runs.id)
    RETURNING id
)"""  # noqa: S608 - put together from constants
    + "".join(
        f", {table}_gone AS (DELETE FROM {table} WHERE {column} = ANY (ARRAY(SELECT id FROM gone)))"  # noqa: S608
        for table, column in _OF_RUNS.items()
    )
    + " SELECT count(*) FROM gone"
)


def delete_runs(connection: Connection, *, days: float, limit: int) -> int:
    """Delete runs of workflows that ended more than `days` ago, with their steps and items.

    A run below one that has not ended stays. Deletes up to `limit` items and ends of items, then up
    to `limit` runs without any; returns how many rows those were. Needs a transaction.
    """
    parameters = {"bound": _bound(days), "seconds": _seconds(days), "limit": limit}
    items = sum(
        connection.execute(each, parameters).rowcount for each in (_DELETE_ITEMS, _DELETE_ENDS)
    )
    return items + int(connection.execute(_DELETE_RUNS, parameters).scalar_one())


_DELETE_KEYS = text("""
DELETE FROM idempotency_keys WHERE (workspace_id, owner_id, key) IN (
    SELECT workspace_id, owner_id, key FROM idempotency_keys
    WHERE created_at < now() - make_interval(secs => :seconds)
    ORDER BY created_at LIMIT :limit)
""")


def delete_idempotency_keys(connection: Connection, *, days: float, limit: int) -> int:
    """Delete idempotency keys; return how many."""
    parameters = {"seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_KEYS, parameters).rowcount


def _aged(table: str, at: str, condition: str = "true") -> TextClause:
    """Return a statement that deletes the oldest rows of a table; `at` is the column of their age.

    Their ids are made at about the same time, so the primary key finds them.
    """
    return text(f"""
DELETE FROM {table} WHERE id IN (
    SELECT id FROM {table} WHERE id < :bound AND {condition}
      AND {at} < now() - make_interval(secs => :seconds)
    ORDER BY id
    LIMIT :limit)
""")  # noqa: S608 - names of ours


_DELETE_DELIVERIES = _aged("deliveries", "created_at", "status <> 'pending'")


def delete_deliveries(connection: Connection, *, days: float, limit: int) -> int:
    """Delete deliveries to webhooks that are not sent any more; return how many."""
    parameters = {"bound": _bound(days), "seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_DELIVERIES, parameters).rowcount


_DELETE_HOOK_DELIVERIES = _aged("hook_deliveries", "received_at")


def delete_hook_deliveries(connection: Connection, *, days: float, limit: int) -> int:
    """Delete deliveries to inbound hooks, and so the names that make repeats; return how many."""
    parameters = {"bound": _bound(days), "seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_HOOK_DELIVERIES, parameters).rowcount


_DELETE_FIRES = _aged("schedule_fires", "created_at", "status <> 'waiting'")


def delete_fires(connection: Connection, *, days: float, limit: int) -> int:
    """Delete old fires of schedules, but none that waits; return how many."""
    parameters = {"bound": _bound(days), "seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_FIRES, parameters).rowcount


def delete_bulk_jobs(connection: Connection, *, days: float, limit: int) -> int:
    """Delete bulk jobs that ended more than `days` ago, and what became of their executions."""
    return bulk_jobs.delete_old(connection, bound=_bound(days), seconds=_seconds(days), limit=limit)


def single_instance(connection: Connection) -> bool:
    """Lock retention until the transaction ends; False if another keeper holds the lock."""
    return hold(connection, AdvisoryLock.RETENTION)


def _bound(days: float) -> UUID:
    return uuid7_at(datetime.now(UTC) - timedelta(days=days) + _CLOCK_SLACK)


def _seconds(days: float) -> float:
    return days * 86_400
