"""What is old enough to go. Everything here takes a bounded number of rows, the oldest first.

Ages are in days by the database's clock. Ids are ordered by time, so the index on them bounds what
must be read; they were made by other clocks, which may be off by up to an hour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.kit.ids import uuid7_at

_CLOCK_SLACK = timedelta(hours=1)
_TERMINAL = "('completed', 'failed', 'cancelled')"

CHILDREN = ("events", "model_calls", "approvals", "reports")
"""Tables of rows that mean nothing without their execution."""

_OLD_EXECUTIONS = text(f"""
SELECT id FROM executions
WHERE id > :after AND id < :bound AND status IN {_TERMINAL}
  AND completed_at < now() - make_interval(secs => :seconds)
ORDER BY id
LIMIT :limit
""")  # noqa: S608 - put together from constants


def old_executions(connection: Connection, *, days: float, after: UUID, limit: int) -> list[UUID]:
    """Return executions that ended more than `days` ago, with greater ids than `after`."""
    parameters = {
        "after": after,
        "bound": _bound(days),
        "seconds": _seconds(days),
        "limit": limit,
    }
    return list(connection.execute(_OLD_EXECUTIONS, parameters).scalars())


_DELETE_EXECUTIONS = text(
    f"""
WITH gone AS (
    DELETE FROM executions WHERE id = ANY(CAST(:ids AS uuid[])) AND status IN {_TERMINAL}
    RETURNING id
)"""  # noqa: S608 - put together from constants
    + "".join(
        f", {table}_gone AS (DELETE FROM {table} WHERE execution_id IN (SELECT id FROM gone))"  # noqa: S608
        for table in CHILDREN
    )
    # what was spent of its own budget has the execution's id
    + ", budget_gone AS (DELETE FROM budget_windows WHERE budget_id IN (SELECT id FROM gone))"
    + " SELECT count(*) FROM gone"
)


def delete_executions(connection: Connection, execution_ids: Sequence[UUID]) -> int:
    """Delete those of the executions that have ended, with all that belongs to them."""
    parameters = {"ids": list(execution_ids)}
    return int(connection.execute(_DELETE_EXECUTIONS, parameters).scalar_one())


_IDLE_SESSIONS = text("""
SELECT id FROM sessions
WHERE status IN ('ended', 'failed') AND updated_at < now() - make_interval(secs => :seconds)
ORDER BY updated_at
LIMIT :limit
FOR UPDATE SKIP LOCKED
""")

_DOOM_SESSIONS = text("""
UPDATE sessions s SET status = 'deleted', state = NULL, updated_at = now()
WHERE id = ANY(CAST(:ids AS uuid[])) AND NOT EXISTS (
    SELECT FROM executions e
    WHERE e.session_id = s.id AND e.status IN ('pending', 'queued', 'running', 'waiting'))
RETURNING id
""")


def doom_idle_sessions(connection: Connection, *, days: float, limit: int) -> list[UUID]:
    """Mark sessions as deleted that nobody has worked in for `days`; in a transaction.

    Not those that an execution is to fork. Whoever wants one from here on finds it deleted; the
    second statement sees those who came before the first has locked it.
    """
    parameters = {"seconds": _seconds(days), "limit": limit}
    idle = list(connection.execute(_IDLE_SESSIONS, parameters).scalars())
    if not idle:
        return []
    return list(connection.execute(_DOOM_SESSIONS, {"ids": idle}).scalars())


_DOOMED_SESSIONS = text("""
SELECT id FROM sessions WHERE id > :after AND status = 'deleted' AND files_removed_at IS NULL
ORDER BY id LIMIT :limit
""")


def doomed_sessions(connection: Connection, *, after: UUID, limit: int) -> list[UUID]:
    """Return deleted sessions whose files may still be there, with greater ids than `after`."""
    parameters = {"after": after, "limit": limit}
    return list(connection.execute(_DOOMED_SESSIONS, parameters).scalars())


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
    """Delete the rows of sessions whose files and executions are long gone; return how many."""
    parameters = {"bound": _bound(days), "seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_SESSIONS, parameters).rowcount


@dataclass(frozen=True, slots=True)
class ExecutionAge:
    """What is known of an execution by whoever wants to clean up after it."""

    terminal: bool
    old: bool
    """Whether it ended long enough ago."""


_STANDINGS = text(f"""
SELECT id, status IN {_TERMINAL},
       coalesce(completed_at < now() - make_interval(secs => :seconds), false)
FROM executions WHERE id = ANY(CAST(:ids AS uuid[]))
""")  # noqa: S608 - put together from constants


def standings(
    connection: Connection, execution_ids: Sequence[UUID], *, days: float
) -> dict[UUID, ExecutionAge]:
    """Return how those of the executions stand that exist."""
    parameters = {"ids": list(execution_ids), "seconds": _seconds(days)}
    rows = connection.execute(_STANDINGS, parameters)
    return {row[0]: ExecutionAge(row[1], row[2]) for row in rows}


_DELETE_KEYS = text("""
DELETE FROM idempotency_keys WHERE (owner_id, key) IN (
    SELECT owner_id, key FROM idempotency_keys
    WHERE created_at < now() - make_interval(secs => :seconds)
    ORDER BY created_at LIMIT :limit)
""")


def delete_idempotency_keys(connection: Connection, *, days: float, limit: int) -> int:
    """Forget idempotency keys; return how many."""
    parameters = {"seconds": _seconds(days), "limit": limit}
    return connection.execute(_DELETE_KEYS, parameters).rowcount


_ALONE = text("SELECT pg_try_advisory_xact_lock(4242421)")


def single_instance(connection: Connection) -> bool:
    """Whether no other keeper deletes now; holds to the end of the transaction."""
    return bool(connection.execute(_ALONE).scalar_one())


def _bound(days: float) -> UUID:
    return uuid7_at(datetime.now(UTC) - timedelta(days=days) + _CLOCK_SLACK)


def _seconds(days: float) -> float:
    return days * 86_400
