"""Workers: their rows, slots by queue, and which may run an execution."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, read_all, reader
from celeriac.db.schema.pauses import pauses
from celeriac.db.schema.workers import workers as table
from celeriac.domain.operations import WorkerReport, WorkerRow

_SLOTS = text("""
SELECT queue, sum(slots)
FROM workers LEFT JOIN LATERAL unnest(queues) AS queue ON true
WHERE stopped_at IS NULL AND lost_at IS NULL
  AND seen_at > now() - make_interval(secs => :within) AND consuming IS NOT FALSE
GROUP BY queue
""")


_PAUSED = exists().where(pauses.c.worker == table.c.hostname)
_worker = reader(WorkerRow)
_LISTS = ("queues", "unknown_tasks", "unknown_tasks_ages", "lacks")


def register(connection: Connection, sent: WorkerReport, *, lease_seconds: float) -> bool:
    """Insert the row of a worker process, with a lease; False if there is one already."""
    lease_until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
    statement = insert(table).values(**_values(sent), lease_until=lease_until)
    inserted = statement.on_conflict_do_nothing().returning(table.c.id)
    return connection.execute(inserted).one_or_none() is not None


def report(connection: Connection, sent: WorkerReport) -> None:
    """Insert or update the row of a worker process; its lease is left alone."""
    values = _values(sent)
    statement = insert(table).values(**values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.id], set_={**values, "seen_at": func.now()}
        )
    )


def _values(sent: WorkerReport) -> dict[str, object]:
    values = {name: getattr(sent, name) for name in WorkerReport.__dataclass_fields__}
    return {**values, **{name: list(values[name]) for name in _LISTS}}


def stopped(connection: Connection, worker_id: UUID) -> None:
    """Record that a worker process has shut down; it claims and renews nothing any more."""
    connection.execute(
        update(table).where(table.c.id == worker_id).values(stopped_at=func.now(), running=0)
    )


def live(connection: Connection, *, within_seconds: float) -> list[WorkerRow]:
    """Return the worker processes that reported within the last `within_seconds`."""
    query = (
        columns(WorkerRow, table, paused=_PAUSED)
        .where(
            table.c.stopped_at.is_(None),
            table.c.lost_at.is_(None),
            table.c.seen_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, within_seconds),
        )
        .order_by(table.c.hostname, table.c.pid)
    )
    return read_all(connection, query, _worker)


def known(connection: Connection, node: str) -> bool:
    """Whether there is a row of a worker process of the Celery node of this name."""
    query = select(table.c.id).where(table.c.hostname == node).limit(1)
    return connection.execute(query).first() is not None


def slots(connection: Connection, *, within_seconds: float) -> Mapping[str | None, int]:
    """Return the slots of the consuming worker processes by queue.

    The key None holds the slots of workers that do not report their queues.
    """
    rows = connection.execute(_SLOTS, {"within": within_seconds})
    return {queue: int(count) for queue, count in rows}


_RUNNING = text("""
SELECT count(*) FROM executions
WHERE status = 'running' AND starts_with(worker_hostname, :node)
""")


def running_on(connection: Connection, node: str) -> int:
    """Return how many executions run on Celery nodes whose names begin with `node`."""
    return int(connection.execute(_RUNNING, {"node": node}).scalar_one())


_ACTIVE = text("""
SELECT id, celery_task_id, attempt, queue, worker_hostname,
       extract(epoch FROM attempt_started_at) AS started
FROM executions
WHERE status = 'running' AND starts_with(worker_hostname, :node)
ORDER BY attempt_started_at
LIMIT :limit
""")


def active_on(connection: Connection, node: str, *, limit: int) -> Sequence[Row[Any]]:
    """Return the running executions of worker processes whose names begin with `node`."""
    return connection.execute(_ACTIVE, {"node": node, "limit": limit}).all()


def forget(connection: Connection, *, older_than_seconds: float) -> int:
    """Delete the rows of processes that have not reported for so long; return how many."""
    horizon = func.now() - text("make_interval(secs => :age)").bindparams(age=older_than_seconds)
    return connection.execute(delete(table).where(table.c.seen_at < horizon)).rowcount


_UNTRIED = text("""
WITH back AS (
    SELECT attempt FROM events
    WHERE execution_id = :id AND type = 'handed_back' AND data ->> 'code' = :code
), tried AS (
    SELECT regexp_replace(data ->> 'worker', '/[0-9]+$', '') AS hostname FROM events
    WHERE execution_id = :id AND type = 'started' AND attempt IN (SELECT attempt FROM back)
)
SELECT (SELECT count(*) FROM back) < :most AND EXISTS (
    SELECT FROM workers
    WHERE stopped_at IS NULL AND lost_at IS NULL
      AND seen_at > now() - make_interval(secs => :within)
      AND consuming IS NOT FALSE AND (queues = '{}' OR :queue = ANY (queues))
      AND hostname <> :hostname AND hostname NOT IN (SELECT hostname FROM tried)
)
""")


def has_untried_worker(
    connection: Connection,
    execution_id: UUID,
    *,
    queue: str,
    hostname: str,
    code: str,
    most: int,
    within_seconds: float,
) -> bool:
    """Whether a live worker of `queue` has not yet handed the execution back for `code`.

    False once the execution was handed back for `code` `most` times.
    """
    values = {
        "id": execution_id, "queue": queue, "hostname": hostname, "code": code, "most": most,
        "within": within_seconds,
    }  # fmt: skip
    return bool(connection.execute(_UNTRIED, values).scalar_one())
