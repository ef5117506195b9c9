"""Debounces: the executions that wait for newer ones to replace them.

Who submits locks the key first, so of several submissions at once each replaces the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, bindparam, text

from celeriac.db import spans
from celeriac.db.locks import AdvisoryLock
from celeriac.db.paging import reader
from celeriac.domain.executions.why import Debounced

_LOCK = text("""
SELECT pg_advisory_xact_lock(:locks, hashed.lock) FROM (
    SELECT DISTINCT (hashtext(CAST(:task_id AS text)) & (~255)) | (hashtext(key) & 255) AS lock
    FROM unnest(CAST(:keys AS text[])) AS k (key)
    ORDER BY 1) AS hashed
""").bindparams(bindparam("locks", AdvisoryLock.DEBOUNCE.value))

_FIND = text("""
SELECT key, execution_id, first_at, replaced, extract(epoch FROM now() - first_at) AS waited
FROM debounces
WHERE task_id = :task_id AND key = ANY (CAST(:keys AS text[])) AND due_at > now()
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """The execution that waits for a key, and what led to it; `waited` are seconds."""

    key: str
    execution_id: UUID
    first_at: datetime
    replaced: int
    waited: float


_waiting = reader(Waiting, waited=float)


def lock(connection: Connection, task_id: UUID, keys: Sequence[str]) -> None:
    """Lock keys of a task until the transaction ends.

    By 256 locks for each task: the server has some 10,000 for all that it does, and a batch may
    have as many keys.
    """
    connection.execute(_LOCK, {"task_id": task_id, "keys": list(keys)})


def find(connection: Connection, task_id: UUID, keys: Sequence[str]) -> dict[str, Waiting]:
    """Return what waits for locked keys, by the key."""
    rows = connection.execute(_FIND, {"task_id": task_id, "keys": list(keys)})
    return {each.key: each for each in map(_waiting, rows)}


_OF_EXECUTION = text("SELECT key, replaced FROM debounces WHERE execution_id = :id LIMIT 1")


def of_execution(connection: Connection, execution_id: UUID) -> Debounced | None:
    """Return by which key an execution is debounced, or None."""
    row = connection.execute(_OF_EXECUTION, {"id": execution_id}).first()
    return None if row is None else Debounced(row.key, row.replaced)


_CORRECT = text(f"""
UPDATE executions e
SET available_at = now() + make_interval(secs => wanted.delay),
    options = coalesce(e.options, '{{}}') || jsonb_build_object('replaced', wanted.replaced)
FROM unnest(CAST(:ids AS uuid[]), CAST(:delays AS double precision[]), CAST(:replaced AS int[]))
    AS wanted (id, delay, replaced)
WHERE e.id = wanted.id AND {spans.given("e.id")}
""")


@dataclass(frozen=True, slots=True)
class Wait:
    """For how many seconds an execution waits, and how many it has replaced."""

    delay: float
    replaced: int


def correct(connection: Connection, waits: Mapping[UUID, Wait]) -> None:
    """Change how long executions wait that this transaction has stored, and that are not due."""
    if not waits:
        return
    parameters = {
        "delays": [each.delay for each in waits.values()],
        "replaced": [each.replaced for each in waits.values()],
        **spans.of(list(waits)),
    }
    connection.execute(_CORRECT, parameters)


_PUT = text("""
INSERT INTO debounces (task_id, key, execution_id, first_at, replaced, due_at)
SELECT :task_id, p.key, p.execution_id, coalesce(p.first_at, now()), p.replaced,
       now() + make_interval(secs => p.delay)
FROM unnest(CAST(:keys AS text[]), CAST(:execution_ids AS uuid[]),
            CAST(:first_at AS timestamptz[]), CAST(:replaced AS int[]),
            CAST(:delays AS double precision[])) AS p (key, execution_id, first_at, replaced, delay)
ON CONFLICT (task_id, key) DO UPDATE
SET execution_id = excluded.execution_id, first_at = excluded.first_at,
    replaced = excluded.replaced, due_at = excluded.due_at
""")


@dataclass(frozen=True, slots=True)
class Put:
    """The execution that waits for a key from now on, for `delay` seconds.

    `first_at` is that of what it has replaced; None: it is the first.
    """

    key: str
    execution_id: UUID
    first_at: datetime | None
    replaced: int
    delay: float


def put(connection: Connection, task_id: UUID, waiting: Sequence[Put]) -> None:
    """Store what waits for locked keys."""
    parameters = {
        "task_id": task_id,
        "keys": [each.key for each in waiting],
        "execution_ids": [each.execution_id for each in waiting],
        "first_at": [each.first_at for each in waiting],
        "replaced": [each.replaced for each in waiting],
        "delays": [each.delay for each in waiting],
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
