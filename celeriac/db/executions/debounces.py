"""Debounces: the executions that wait for newer ones to replace them.

Who submits locks the key first, so of several submissions at once each replaces the one before.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, bindparam, text

from celeriac.db.locks import AdvisoryLock
from celeriac.db.paging import reader

_LOCK = text(
    "SELECT pg_advisory_xact_lock(:lock, hashtext(CAST(:task_id AS text) || CAST(:key AS text)))"
).bindparams(bindparam("lock", AdvisoryLock.DEBOUNCE.value))

_FIND = text("""
SELECT execution_id, first_at, replaced, extract(epoch FROM now() - first_at) AS waited
FROM debounces WHERE task_id = :task_id AND key = :key AND due_at > now()
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """The execution that waits, and what led to it; `waited` are seconds."""

    execution_id: UUID
    first_at: datetime
    replaced: int
    waited: float


_waiting = reader(Waiting, waited=float)


def lock(connection: Connection, task_id: UUID, key: str) -> None:
    """Lock a key of a task until the transaction ends."""
    connection.execute(_LOCK, {"task_id": task_id, "key": key})


def find(connection: Connection, task_id: UUID, key: str) -> Waiting | None:
    """Return what waits for a locked key, or None."""
    row = connection.execute(_FIND, {"task_id": task_id, "key": key}).one_or_none()
    return None if row is None else _waiting(row)


_PUT = text("""
INSERT INTO debounces (task_id, key, execution_id, first_at, replaced, due_at)
VALUES (:task_id, :key, :execution_id, coalesce(CAST(:first_at AS timestamptz), now()), :replaced,
        now() + make_interval(secs => :delay))
ON CONFLICT (task_id, key) DO UPDATE
SET execution_id = excluded.execution_id, first_at = excluded.first_at,
    replaced = excluded.replaced, due_at = excluded.due_at
""")


def put(
    connection: Connection,
    task_id: UUID,
    key: str,
    execution_id: UUID,
    *,
    after: Waiting | None,
    delay: float,
) -> None:
    """Store what waits for a locked key from now on; `after` is what it has replaced."""
    parameters = {
        "task_id": task_id,
        "key": key,
        "execution_id": execution_id,
        "first_at": None if after is None else after.first_at,
        "replaced": 0 if after is None else after.replaced + 1,
        "delay": delay,
    }
    connection.execute(_PUT, parameters)


_FORGET = text("""
DELETE FROM debounces
WHERE (task_id, key) IN (
    SELECT task_id, key FROM debounces
    WHERE due_at < now() - interval '1 minute'
    ORDER BY due_at LIMIT :limit
    FOR UPDATE SKIP LOCKED)
""")


def forget(connection: Connection, *, limit: int) -> int:
    """Delete rows whose executions don't wait any more; return how many."""
    return connection.execute(_FORGET, {"limit": limit}).rowcount
