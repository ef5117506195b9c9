"""Plain Celery tasks: sums of those that ended, and recent runs (docs/adr/0071)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.executions.states import SimpleStatus
from celeriac.domain.metrics import OTHER
from celeriac.domain.plain_tasks import (
    MOST_NAMES,
    MOST_RUNS_OF_WORKER,
    CountsByName,
    EndCounts,
    PlainRun,
    RecentRun,
)
from celeriac.domain.rollups import Grain
from celeriac.kit.ids import uuid7_at

_EPOCH = datetime.fromtimestamp(0, UTC)

_ADD = text("""
WITH batch AS (
    UPDATE workers SET plain_batch = :batch
    WHERE id = :worker_id AND plain_batch < :batch
    RETURNING id
), ended AS (
    SELECT e.*, e.name = :other OR EXISTS (SELECT FROM plain_task_sums s
                        WHERE s.grain = 'total' AND s.start = to_timestamp(0)
                          AND s.name = e.name) AS known
    FROM unnest(CAST(:names AS text[]), CAST(:completed AS bigint[]), CAST(:failed AS bigint[]),
                CAST(:cancelled AS bigint[])) AS e (name, completed, failed, cancelled)
), named AS (
    SELECT CASE WHEN known OR
                     (SELECT count(*) FROM plain_task_sums
                      WHERE grain = 'total' AND name NOT IN ('', :other))
                     + row_number() OVER (PARTITION BY known ORDER BY name) <= :most
                THEN name ELSE :other END AS name,
           completed, failed, cancelled
    FROM ended
), spread AS (
    SELECT 'total' AS grain, to_timestamp(0) AS start, name, completed, failed, cancelled FROM named
    UNION ALL
    SELECT g.grain, g.start, '', completed, failed, cancelled
    FROM named,
    LATERAL (VALUES ('minute', date_trunc('minute', now(), 'UTC')),
                    ('hour', date_trunc('hour', now(), 'UTC')),
                    ('day', date_trunc('day', now(), 'UTC')),
                    ('total', to_timestamp(0))) AS g (grain, start)
), added AS (
    -- in the order of their keys, as every other process locks them
    INSERT INTO plain_task_sums AS s (grain, start, name, completed, failed, cancelled)
    SELECT grain, start, name, sum(completed), sum(failed), sum(cancelled) FROM spread
    WHERE CAST(:worker_id AS uuid) IS NULL OR EXISTS (SELECT FROM batch)
    GROUP BY grain, start, name
    ORDER BY grain, start, name
    ON CONFLICT (grain, start, name) DO UPDATE
    SET completed = s.completed + excluded.completed, failed = s.failed + excluded.failed,
        cancelled = s.cancelled + excluded.cancelled
), noted AS (
    INSERT INTO plain_task_runs AS r (task_id, id, name, queue, hostname, status, started_at,
                                      changed_at, error_message)
    SELECT task_id, id, name, queue, :hostname, status, started_at, changed_at, error_message
    FROM unnest(CAST(:run_task_ids AS text[]), CAST(:run_ids AS uuid[]),
                CAST(:run_names AS text[]), CAST(:run_queues AS text[]),
                CAST(:run_statuses AS text[]), CAST(:run_starts AS timestamptz[]),
                CAST(:run_changes AS timestamptz[]), CAST(:run_errors AS text[]))
         AS e (task_id, id, name, queue, status, started_at, changed_at, error_message)
    WHERE CAST(:worker_id AS uuid) IS NULL OR EXISTS (SELECT FROM batch)
    ORDER BY task_id
    ON CONFLICT (task_id) DO UPDATE
    SET hostname = excluded.hostname, status = excluded.status, queue = excluded.queue,
        started_at = coalesce(excluded.started_at, r.started_at),
        changed_at = excluded.changed_at, error_message = excluded.error_message
    WHERE excluded.changed_at >= r.changed_at
), surplus AS (
    -- a lock must not be waited for: other processes of this worker do the same
    SELECT task_id FROM plain_task_runs
    WHERE hostname = :hostname AND task_id <> ALL(CAST(:run_task_ids AS text[]))
      AND id < (SELECT id FROM plain_task_runs WHERE hostname = :hostname
                ORDER BY id DESC OFFSET :kept LIMIT 1)
    ORDER BY id LIMIT :kept
    FOR UPDATE SKIP LOCKED
), trimmed AS (
    DELETE FROM plain_task_runs WHERE task_id IN (SELECT task_id FROM surplus)
)
SELECT CAST(:worker_id AS uuid) IS NULL OR EXISTS (SELECT FROM workers WHERE id = :worker_id)
""")


def add(
    connection: Connection,
    worker_id: UUID | None,
    *,
    batch: int,
    counts: CountsByName,
    hostname: str,
    runs: Sequence[PlainRun] = (),
) -> bool:
    """Add a batch of counts to the sums; False, with nothing added, without the worker's row.

    Batches of a worker process are numbered from 1: one that was added before changes nothing.
    Without a `worker_id` each call adds. Stores `runs`, each with another task id, and deletes all
    but about MOST_RUNS_OF_WORKER of the worker `hostname`.
    """
    names = sorted(counts)
    values = {
        "worker_id": worker_id,
        "batch": batch,
        "names": names,
        "completed": [counts[name].completed for name in names],
        "failed": [counts[name].failed for name in names],
        "cancelled": [counts[name].cancelled for name in names],
        "most": MOST_NAMES,
        "other": OTHER,
        "hostname": hostname,
        "kept": MOST_RUNS_OF_WORKER,
        "run_task_ids": [each.task_id for each in runs],
        "run_ids": [each.id for each in runs],
        "run_names": [each.name for each in runs],
        "run_queues": [each.queue for each in runs],
        "run_statuses": [each.status.value for each in runs],
        "run_starts": [each.started_at for each in runs],
        "run_changes": [each.changed_at for each in runs],
        "run_errors": [each.error_message for each in runs],
    }
    return bool(connection.execute(_ADD, values).scalar_one())


_SUMS = text("""
SELECT coalesce(sum(completed), 0), coalesce(sum(failed), 0), coalesce(sum(cancelled), 0)
FROM plain_task_sums WHERE grain = :grain AND start >= :since AND name = ''
""")


def sums(connection: Connection, grain: Grain, *, since: datetime | None) -> EndCounts:
    """Return how many plain tasks ended; `since` is None for all time."""
    row = connection.execute(_SUMS, {"grain": grain, "since": since or _EPOCH}).one()
    return EndCounts(*map(int, row))


_BY_NAME = text("""
SELECT name, completed, failed, cancelled FROM plain_task_sums
WHERE grain = 'total' AND start = to_timestamp(0) AND name <> '' ORDER BY name
""")


def by_name(connection: Connection) -> dict[str, EndCounts]:
    """Return how many plain tasks of each name ended; at most MOST_NAMES + 1 names."""
    return {row[0]: EndCounts(*map(int, row[1:])) for row in connection.execute(_BY_NAME)}


_RUNNING = text("""
SELECT coalesce(sum(plain_running), 0) FROM workers
WHERE stopped_at IS NULL AND lost_at IS NULL AND seen_at > now() - make_interval(secs => :within)
""")


def running(connection: Connection, *, within_seconds: float) -> int:
    """Return how many plain tasks run in worker processes that reported within the seconds."""
    return int(connection.execute(_RUNNING, {"within": within_seconds}).scalar_one())


_NONE_RUN = text("""
UPDATE workers SET plain_running = 0
WHERE hostname = :hostname AND pid = ANY(:pids) AND plain_running > 0
""")


def none_run(connection: Connection, hostname: str, pids: Sequence[int]) -> None:
    """Record that no plain task runs in processes of a worker, which have ended."""
    connection.execute(_NONE_RUN, {"hostname": hostname, "pids": list(pids)})


_DELETE = text("""
DELETE FROM plain_task_sums WHERE (grain, start, name) IN (
    SELECT grain, start, name FROM plain_task_sums
    WHERE grain = :grain AND start < now() - make_interval(secs => :seconds)
    ORDER BY start
    LIMIT :limit)
""")


def delete_old(connection: Connection, grain: Grain, *, days: float, limit: int) -> int:
    """Delete sums of minutes, hours or days that are older than `days`; return how many rows."""
    values = {"grain": grain, "seconds": days * 86_400, "limit": limit}
    return connection.execute(_DELETE, values).rowcount


_RECENT = text("""
WITH alive AS (
    SELECT DISTINCT hostname FROM workers
    WHERE stopped_at IS NULL AND lost_at IS NULL
      AND seen_at > now() - make_interval(secs => :within)
)
SELECT id, task_id, name, queue, status, started_at, changed_at, error_message, hostname,
       hostname IN (SELECT hostname FROM alive)
FROM plain_task_runs AS r
WHERE (CAST(:before AS uuid) IS NULL OR id < :before)
  AND (CAST(:status AS text) IS NULL OR status = :status)
  AND NOT EXISTS (SELECT FROM audit_logs a
                  WHERE a.resource_type = 'celery_task' AND a.resource_id = r.task_id)
ORDER BY id DESC LIMIT :limit
""")


def recent(
    connection: Connection,
    *,
    status: SimpleStatus | None,
    before: UUID | None,
    limit: int,
    within_seconds: float,
) -> list[RecentRun]:
    """Return runs, the newest first, without those that were sent over HTTP.

    A worker is alive that has reported within the seconds.
    """
    values = {
        "status": status.value if status else None,
        "before": before,
        "limit": limit,
        "within": within_seconds,
    }
    return [
        RecentRun(
            PlainRun(
                id=row[0],
                task_id=row[1],
                name=row[2],
                queue=row[3],
                status=SimpleStatus(row[4]),
                started_at=row[5],
                changed_at=row[6],
                error_message=row[7],
            ),
            hostname=row[8],
            alive=row[9],
        )
        for row in connection.execute(_RECENT, values)
    ]


_DELETE_RUNS = text("""
DELETE FROM plain_task_runs WHERE task_id IN (
    SELECT task_id FROM plain_task_runs WHERE id < :before ORDER BY id LIMIT :limit)
""")


def delete_old_runs(connection: Connection, *, days: float, limit: int) -> int:
    """Delete runs that began before so many days; return how many."""
    before = uuid7_at(datetime.now(UTC) - timedelta(days=days))
    return connection.execute(_DELETE_RUNS, {"before": before, "limit": limit}).rowcount
